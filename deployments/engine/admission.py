"""Which generations begin: those that fit into memory beside those that run.

What a generation takes is learned from others of its kind that have ended: the same pipeline, with
arguments of the same sizes. Forwards are not counted here; their batches are made to fit.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.engine.call_arguments import tensors_in
from deployments.engine.device_memory import DeviceMemory
from deployments.engine.memory import Footprint, Guest, may_begin, typical


@dataclass(slots=True)
class _Watched:
    held: int = 0  # bytes, now
    footprint: Footprint = field(default_factory=Footprint)


class Admission:
    """For the engine's thread alone. Generations are told apart by their numbers."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._seen: OrderedDict[Hashable, deque[Footprint]] = OrderedDict()  # by kind
        self._watched: dict[int, _Watched] = {}

    def fits(self, kind: Hashable, going: Mapping[int, Hashable]) -> bool:
        """Whether one of ``kind`` may begin beside those that go on, whose kinds are given by
        number. Others that have begun and stand still keep what they have, and take no more."""
        free = self._memory.free()
        guests = [self._guest(number, its) for number, its in going.items()]
        return may_begin(self._expected(kind), guests, free)

    def leaves(self, size: int, going: Mapping[int, Hashable], forward: int) -> bool:
        """Whether ``size`` bytes are free beside all that those of ``going`` are still expected to
        take; never while one of them is the first of its kind. ``forward``: what the largest of
        their next calls takes."""
        guests = [self._guest(number, its) for number, its in going.items()]
        if any(each.expected is None for each in guests):
            return False
        return may_begin(Footprint(size, forward), guests, self._memory.free())

    @contextmanager
    def watching(self, number: int, given: int) -> Generator[None]:
        """Around a generation's way from one call to the next. ``given``: bytes of the answer to
        the call, which is its own from now on."""
        with self._memory.measured() as taken:
            yield
        watched = self._watched.setdefault(number, _Watched())
        if not taken.sure:
            return
        # The answer was allocated before; the generation let go of it, or of the last one.
        watched.held += taken.kept + given
        passing = taken.peak - max(0, taken.kept)
        watched.footprint = watched.footprint.grown(watched.held, passing)

    def ended(self, number: int, kind: Hashable, *, well: bool) -> None:
        """``well``: to its end, so that more is known about its kind."""
        watched = self._watched.pop(number, None)
        if watched is None or not well or self._memory.free() is None:
            return
        self._seen.setdefault(kind, deque(maxlen=_LAST)).append(watched.footprint)
        self._seen.move_to_end(kind)
        if len(self._seen) > _MOST_KINDS:
            self._seen.popitem(last=False)

    def _guest(self, number: int, kind: Hashable) -> Guest:
        watched = self._watched.get(number)
        return Guest(self._expected(kind), 0 if watched is None else watched.held)

    def _expected(self, kind: Hashable) -> Footprint | None:
        return typical(self._seen.get(kind, ()))


def kind_of(pipeline: str, view: Any, arguments: Mapping[str, Any]) -> Hashable:
    """Equal for calls that take the same memory: with the same sizes, however long they run."""
    sizes = [(name, _size(name, value)) for name, value in sorted(arguments.items())]
    return pipeline, type(view).__name__, tuple(each for each in sizes if each[1] is not None)


def _size(name: str, value: Any) -> Hashable:
    """What of an argument says how large the generation is; None: nothing."""
    if isinstance(value, bool | int | float):
        return value if _is_size(name, value) else None
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return len(value)
    return getattr(value, "size", None) if hasattr(value, "mode") else None  # a picture's


def _is_size(name: str, value: float) -> bool:
    """Numbers of things and lengths in seconds; not weights, seeds and places in the schedule."""
    if isinstance(value, float):
        return name.endswith("_in_s") or "duration" in name
    return name != "num_inference_steps" and "seed" not in name


def bytes_in(given: Any) -> int:
    """Of all tensors in nested containers."""
    return sum(each.numel() * each.element_size() for each in tensors_in(given))


_LAST = 5  # generations of a kind whose footprints count
_MOST_KINDS = 1024
