"""LoRAs of the rows of a forward: which mix each row has, and tensors kept from step to step.

A step of the same generations as the one before copies nothing to the device and stacks nothing.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator

_MAX_LINEUPS = 64  # that are kept; without stacks, one takes some kilobytes

Factors = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""Factors of the LoRAs of each row, or of each rank in each row."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """Weights of one layer for the rows of a forward, all on the device."""

    downs: Tensor  # [rows, rank, in], zero-padded to the largest rank
    ups: Tensor  # [rows, rank, out]
    factors: Tensor | None = None  # [rows, 1, rank]; None: ``ups`` has them

    @property
    def size(self) -> int:
        return self.downs.nbytes + self.ups.nbytes


class Lineup:
    """Mixes of the rows of a forward, in their order, with what all layers need for them."""

    def __init__(self, mixes: tuple[str, ...], rows: LoraRows) -> None:
        self.mixes = mixes
        self.stacks: dict[Any, Stacks] = {}  # kept, by layer
        self.keeps = True  # False: memory ran out with these stacks
        self.notes: dict[Any, Any] = {}  # facts about the mixes, by component
        self.on_drop: dict[Any, Callable[[], None]] = {}  # lets go of the stacks, by component
        self._rows = rows
        self._places: dict[tuple[int, torch.device], dict[str, Tensor]] = {}
        self._factors: dict[tuple[Factors, torch.dtype, torch.device], Tensor] = {}

    def check(self, entries: int) -> int:
        """Return the number of entries that each row has in a layer's input.

        There may be several, such as the frames of a video.
        """
        if entries % len(self.mixes):
            raise ValueError(
                f"A layer has {entries} rows, which {len(self.mixes)} mixes of LoRAs do not divide."
            )
        return entries // len(self.mixes)

    def places(self, entries: int, device: torch.device) -> dict[str, Tensor]:
        """Indices of the entries of each mix, in an input of ``entries``, on the device."""
        if (known := self._places.get((entries, device))) is None:
            each_has = self.check(entries)
            by_mix: defaultdict[str, list[int]] = defaultdict(list)
            for place in range(entries):
                if mix := self.mixes[place // each_has]:
                    by_mix[mix].append(place)
            known = self._places[entries, device] = {
                mix: self._rows.to_device(torch.tensor(places), device)
                for mix, places in by_mix.items()
            }
        return known

    def factors(self, of_rows: Factors, like: Tensor) -> Tensor:
        """Factors as a tensor [rows, 1, 1 or rank] with dtype and device of ``like``."""
        place = of_rows, like.dtype, like.device
        if (tensor := self._factors.get(place)) is None:
            tensor = torch.tensor(of_rows, dtype=like.dtype).view(len(of_rows), 1, -1)
            tensor = self._factors[place] = self._rows.to_device(tensor, like.device)
        return tensor

    def stacks_of(self, layer: Any, stack: Callable[[Lineup], Stacks | None]) -> Stacks | None:
        """Return the weights of ``layer``: the kept ones, or from ``stack``, which may be None."""
        stacks = self.stacks.get(layer)
        if stacks is None and (stacks := stack(self)) is not None:
            self._rows.keep(self, layer, stacks)
        return stacks


@dataclass(frozen=True, slots=True)
class RowMixes:
    """Mixes of the rows of a forward, as values that other devices can get."""

    names: tuple[str, ...] = ("",)  # one per row in batch order, or one for all; "" for none
    by_row: bool = False  # layers compute row by row also if all rows have the same mix
    as_written: bool = False  # blocks with LoRAs run uncompiled

    def of(self, rows: slice) -> RowMixes:
        """Mixes of some rows."""
        return self if len(self.names) == 1 else replace(self, names=self.names[rows])

    def repeat_rows(self, copies: int) -> RowMixes:
        """Mixes of a forward that has each row several times, one copy after the other."""
        if len(self.names) == 1:
            return self
        return replace(self, names=tuple(mix for mix in self.names for _ in range(copies)))


class LoraRows:
    """Mix of each row of the running forward. Used on the engine's thread only.

    Other callers, such as a plain call of the pipeline, get the model without LoRAs.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.missing_bytes = 0  # of stacks that ``room_bytes`` did not allow to keep
        self.lineup: Lineup | None = None  # of the running forward, if its rows differ
        self.single = ""  # mix of all its rows, if they do not
        self.as_written = False  # the running forward must not depend on compiled code
        self._accelerator = accelerator
        self._room_bytes = 0
        self._kept_bytes = 0
        self._lineups: OrderedDict[tuple[str, ...], Lineup] = OrderedDict()  # last used, last

    @property
    def kept_bytes(self) -> int:
        """Bytes of kept stacks on the device."""
        return self._kept_bytes

    @property
    def room_bytes(self) -> int:
        """Limit of ``kept_bytes``."""
        return self._room_bytes

    @property
    def mixes(self) -> RowMixes:
        """Mixes of the running forward."""
        names = (self.single,) if self.lineup is None else self.lineup.mixes
        return RowMixes(names, by_row=self.lineup is not None, as_written=self.as_written)

    @property
    def lineup_of_all(self) -> Lineup | None:
        """Mixes of the running forward, one for all rows or one for each; None without LoRAs."""
        return self._lineup_of((self.single,)) if self.single else self.lineup

    def use(self, mixes: RowMixes) -> AbstractContextManager[None]:
        """Set ``mixes`` for the block."""
        return self.use_mixes(mixes.names, by_row=mixes.by_row, as_written=mixes.as_written)

    @contextmanager
    def use_mixes(
        self, mixes: Sequence[str], *, by_row: bool = False, as_written: bool = False
    ) -> Generator[None]:
        """Set ``mixes`` for the block: one per row in batch order, or one for all; "" for none.

        ``by_row``: layers compute row by row also if all rows have the same mix. ``as_written``:
        blocks with LoRAs run uncompiled, whatever code there is.
        """
        before = self.single, self.lineup, self.as_written
        self.as_written = as_written
        if len(set(mixes)) == 1 and not by_row:
            self.single, self.lineup = mixes[0], None
        else:
            self.single, self.lineup = "", self._lineup_of(tuple(mixes))
        try:
            yield
        finally:
            self.single, self.lineup, self.as_written = before

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

    def make_room(self, lineup: Lineup, size: int, replaced: Iterable[Any]) -> bool:
        """Return whether ``size`` bytes of stacks can be kept for ``lineup``.

        They come in place of the stacks of the layers ``replaced``. Those of others are dropped for
        them.
        """
        if not lineup.keeps:
            return False
        if size > self._room_bytes:
            self.missing_bytes += size
            return False
        for layer in replaced:
            if (stacks := lineup.stacks.pop(layer, None)) is not None:
                self._kept_bytes -= stacks.size
        return self._drop_until(self._room_bytes - size, keep=lineup)

    def forget(self, mix: str) -> None:
        """Drop all that is kept for ``mix``."""
        for mixes in [lineup for lineup in self._lineups if mix in lineup]:
            self._drop(self._lineups.pop(mixes))

    def release_memory(self) -> None:
        """Drop all stacks. The generations that run stack theirs anew in each step."""
        for lineup in self._lineups.values():
            lineup.keeps = False
            self._drop(lineup)

    def to_device(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Copy a small tensor to the device of a layer, without waiting for the device."""
        on_host = device.type != self._accelerator.kind  # a component that is kept there
        return tensor if on_host else self._accelerator.to_device(tensor)

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
        mine = sum(stack.size for stack in keep.stacks.values()) if keep else 0
        if mine > limit:
            return False
        for lineup in self._lineups.values():
            if self._kept_bytes <= limit:
                break
            if lineup is not keep:
                self._drop(lineup)
        return self._kept_bytes <= limit

    def _drop(self, lineup: Lineup) -> None:
        self._kept_bytes -= sum(stack.size for stack in lineup.stacks.values())
        lineup.stacks.clear()
        for let_go in lineup.on_drop.values():
            let_go()
