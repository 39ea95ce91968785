"""LoRAs of the rows of a forward: which mix each row has, and tensors kept from step to step.

A step of the same generations as the one before copies nothing to the device and stacks nothing.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator

BASE = "__base__"  # peft's name for rows without an adapter
_MAX_LINEUPS = 64  # that are kept; without stacks, one takes some kilobytes


@dataclass(frozen=True, slots=True)
class Stacks:
    """Weights of one layer for the rows of a forward, all on the device."""

    downs: Tensor  # [rows, rank, in], zero-padded to the largest rank
    ups: Tensor  # [rows, rank, out]
    factors: Tensor  # [rows, 1, 1]

    @property
    def size(self) -> int:
        return self.downs.nbytes + self.ups.nbytes


class Lineup:
    """Mixes of the rows of a forward, in their order, with what all layers need for them."""

    def __init__(self, mixes: tuple[str, ...], rows: LoraRows) -> None:
        self.mixes = mixes
        self.stacks: dict[Any, Stacks] = {}  # kept, by layer
        self.keeps = True  # False: memory ran out with these stacks
        self._rows = rows
        self._names: dict[tuple[int, torch.device], RowNames] = {}
        self._factors: dict[tuple[tuple[float, ...], torch.dtype, torch.device], Tensor] = {}

    def names(self, entries: int, device: torch.device) -> RowNames:
        """Names for a layer whose input has ``entries`` entries; see ``RowNames``."""
        if (names := self._names.get((entries, device))) is None:
            names = self._names[entries, device] = RowNames(self, entries, device)
        return names

    def factors(self, of_rows: tuple[float, ...], like: Tensor) -> Tensor:
        """Factors as a tensor [rows, 1, 1] with dtype and device of ``like``."""
        place = of_rows, like.dtype, like.device
        if (made := self._factors.get(place)) is None:
            made = torch.tensor(of_rows, dtype=like.dtype).view(-1, 1, 1)
            made = self._factors[place] = self._rows.to_device(made, like.device)
        return made

    def indices(self, places: Sequence[int], device: torch.device) -> Tensor:
        return self._rows.to_device(torch.tensor(places), device)

    def stacked(self, layer: Any, stack: Callable[[], Stacks]) -> Stacks:
        """Return the weights of ``layer``: the kept ones, or from ``stack``."""
        if (stacks := self.stacks.get(layer)) is None:
            stacks = stack()
            self._rows.keep(self, layer, stacks)
        return stacks


class RowNames(list[str]):
    """Adapter names as peft takes them: the mix of each entry of a layer's input, [rows × any, …].

    An input may have several entries a row, such as the frames of a video.
    """

    def __init__(self, lineup: Lineup, entries: int, device: torch.device) -> None:
        mixes = lineup.mixes
        if entries % len(mixes):
            raise ValueError(
                f"A layer has {entries} rows, which {len(mixes)} mixes of LoRAs do not divide."
            )
        each_has = entries // len(mixes)
        super().__init__(mix or BASE for mix in mixes for _ in range(each_has))
        self.lineup = lineup
        self._device = device
        self._places: dict[str, Tensor] | None = None

    def places(self) -> dict[str, Tensor]:
        """Indices of the entries of each mix, on the device."""
        if self._places is None:
            found: defaultdict[str, list[int]] = defaultdict(list)
            for place, name in enumerate(self):
                if name != BASE:
                    found[name].append(place)
            self._places = {
                name: self.lineup.indices(places, self._device) for name, places in found.items()
            }
        return self._places


class LoraRows:
    """Mix of each row of the running forward. Used on the engine's thread only.

    Other callers, such as a plain call of the pipeline, get the model without LoRAs.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.missing_bytes = 0  # of stacks that ``room_bytes`` did not allow to keep
        self._accelerator = accelerator
        self._room_bytes = 0
        self._kept_bytes = 0
        self._lineups: OrderedDict[tuple[str, ...], Lineup] = OrderedDict()  # last used, last
        self._single: str | None = ""  # mix of all rows; None: they differ
        self._lineup: Lineup | None = None

    @property
    def kept_bytes(self) -> int:
        """Bytes of kept stacks on the device."""
        return self._kept_bytes

    @property
    def room_bytes(self) -> int:
        """Limit of ``kept_bytes``."""
        return self._room_bytes

    @property
    def mixes(self) -> tuple[str, ...]:
        """Mixes of the running forward: one per row, or one for all; "" for none."""
        return (self._single or "",) if self._lineup is None else self._lineup.mixes

    @contextmanager
    def use_mixes(self, mixes: Sequence[str]) -> Generator[None]:
        """Set ``mixes`` for the block: one per row in batch order, or one for all; "" for none."""
        before = self._single, self._lineup
        if len(set(mixes)) == 1:
            self._single, self._lineup = mixes[0], None
        else:
            self._single, self._lineup = None, self._lineup_of(tuple(mixes))
        try:
            yield
        finally:
            self._single, self._lineup = before

    def select_mix(
        self, layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Forward pre-hook of each wrapped layer. It selects the mix of the rows."""
        if self._lineup is None:
            layer._active_adapter = [self._single] if self._single else []  # noqa: SLF001
            return None
        given = arguments[0]
        names = self._lineup.names(len(given), given.device)
        return arguments, {**keywords, "adapter_names": names}

    def allow(self, room_bytes: int) -> None:
        """Keep stacks of at most ``room_bytes``. What is too much is dropped."""
        self._room_bytes = max(0, room_bytes)
        self._drop_until(self._room_bytes, keep=None)

    def keep(self, lineup: Lineup, layer: Any, stacks: Stacks) -> None:
        """Keep the stacks of a layer for the next forward, if there is room.

        Those of other generations make room. Those of the running forward do not, because all
        layers of a step would drop each other's.
        """
        if not lineup.keeps:
            return
        if not self._drop_until(self._room_bytes - stacks.size, keep=lineup):
            self.missing_bytes += stacks.size
            return
        lineup.stacks[layer] = stacks
        self._kept_bytes += stacks.size

    def forget(self, mix: str) -> None:
        """Drop all that is kept for ``mix``."""
        for mixes in [each for each in self._lineups if mix in each]:
            self._drop(self._lineups.pop(mixes))

    def release_memory(self) -> None:
        """Drop all stacks. The generations that run stack theirs anew in each step."""
        for lineup in self._lineups.values():
            lineup.keeps = False
            self._drop(lineup)

    def to_device(self, made: Tensor, device: torch.device) -> Tensor:
        """Copy a small tensor to the device of a layer, without waiting for the device."""
        on_host = device.type != self._accelerator.kind  # a component that is kept there
        return made if on_host else self._accelerator.to_device(made)

    def _lineup_of(self, mixes: tuple[str, ...]) -> Lineup:
        if (lineup := self._lineups.get(mixes)) is None:
            lineup = self._lineups[mixes] = Lineup(mixes, self)
            if len(self._lineups) > _MAX_LINEUPS:
                _, oldest = self._lineups.popitem(last=False)
                self._drop(oldest)
        self._lineups.move_to_end(mixes)
        return lineup

    def _drop_until(self, limit: int, keep: Lineup | None) -> bool:
        """Drop stacks, least recently used first; return whether at most ``limit`` bytes are left.

        Drops nothing if that would not be enough.
        """
        mine = sum(each.size for each in keep.stacks.values()) if keep else 0
        if mine > limit:
            return False
        for lineup in self._lineups.values():
            if self._kept_bytes <= limit:
                break
            if lineup is not keep:
                self._drop(lineup)
        return self._kept_bytes <= limit

    def _drop(self, lineup: Lineup) -> None:
        self._kept_bytes -= sum(each.size for each in lineup.stacks.values())
        lineup.stacks.clear()
