"""Admission: a generation begins when it fits into memory beside those that run.

The memory that a generation needs is learned from ended generations of its kind: the same pipeline,
with arguments of the same sizes. For sizes that were not measured yet it is computed from those
that were. Of forwards, a generation's largest call alone counts; batches are sized to fit.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Hashable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from statistics import median_high
from typing import Any

import torch

from deployments.engine.accelerator.interface import DeviceMemory
from deployments.engine.merging.arguments import tensors_in

MEASUREMENTS = 3  # per size; the median counts, whatever else ran during one of them
MARGIN = 1.1  # allocators round up and leave gaps


class ForwardBytes:
    """Memory that a forward of one signature takes, by the number of calls that share it.

    The model has a constant part and a part per call, beside what was allocated before the forward.
    """

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}

    def needs_measurement(self, calls: int) -> bool:
        """Return whether another measurement with so many calls would add information."""
        return len(self._seen.get(calls, ())) < MEASUREMENTS

    def record(self, calls: int, size: int) -> None:
        """Record a measurement. ``size``: bytes at the peak of a forward of ``calls`` calls."""
        if self.needs_measurement(calls):
            self._seen.setdefault(calls, []).append(size)

    def estimate(self, calls: int) -> int | None:
        """Estimated bytes, never less than measured; None before the first measurement."""
        if not self._seen:
            return None
        points = [(count, median_high(sizes)) for count, sizes in self._seen.items()]
        slope = _slope(points)
        always = max(0.0, *(size - slope * count for count, size in points))
        return round(always + slope * calls)

    def max_calls(self, free: int | None, limit: int) -> int:
        """Maximum number of calls that fit into ``free`` bytes, from 1 to ``limit``.

        If ``free`` is None, memory is not limited. Before the first measurement, the result is 1.
        """
        if free is None:
            return limit
        fits = [n for n in range(2, limit + 1) if self._fits(n, free)]
        return max(fits, default=1)

    def _fits(self, calls: int, free: int) -> bool:
        expected = self.estimate(calls)
        return expected is not None and expected * MARGIN <= free


def _slope(points: Iterable[tuple[int, int]]) -> float:
    """Bytes per call. A single point counts fully as that, which never is too low for more."""
    points = list(points)
    if len(points) == 1:
        ((calls, size),) = points
        return size / calls
    middle = sum(calls for calls, _ in points) / len(points)
    spread = sum((calls - middle) ** 2 for calls, _ in points)
    return max(0.0, sum((calls - middle) * size for calls, size in points) / spread)


@dataclass(slots=True)
class BatchLimit:
    """Limit of the calls of one signature in a forward, lowered when memory ran out.

    It grows back by one after ``patience`` forwards of the maximum size, if more memory is free
    than when it was lowered. Each time that growing was wrong, the patience doubles.
    """

    max_calls: int
    patience: int = 64  # forwards
    _ceiling: int = field(init=False)
    _good: int = 0
    _free: int | None = None  # free bytes when it was last lowered

    def __post_init__(self) -> None:
        self._ceiling = self.max_calls

    def record_success(self, calls: int, free: int | None) -> None:
        """Record a forward that fitted. ``free``: bytes, or None if memory is not limited."""
        if calls < self.max_calls or self.max_calls >= self._ceiling:
            return
        self._good += 1
        more = free is None or self._free is None or free > self._free
        if self._good >= self.patience and more:
            self.max_calls += 1
            self._good = 0

    def record_oom(self, calls: int, free: int | None) -> None:
        """Record a forward that did not fit: halve the limit."""
        if self.max_calls < self._ceiling:
            self.patience = min(2 * self.patience, _LONGEST_PATIENCE)
        self.max_calls = max(1, min(self.max_calls, calls // 2))
        self._good = 0
        self._free = free


_LONGEST_PATIENCE = 4096  # forwards


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a generation in bytes."""

    resident: int = 0  # maximum from call to call: latents, prompts, images
    transient: int = 0  # maximum beside that, between two calls or during a call that runs alone

    def max_with(self, held_bytes: int, passing: int) -> Footprint:
        return Footprint(max(self.resident, held_bytes), max(self.transient, passing))

    def times(self, factor: float) -> Footprint:
        return Footprint(ceil(self.resident * factor), ceil(self.transient * factor))


def median_footprint(footprints: Iterable[Footprint]) -> Footprint | None:
    """Median footprint of a kind; None if there is none."""
    those = list(footprints)
    if not those:
        return None
    held_bytes, passing = (
        [footprint.resident for footprint in those],
        [footprint.transient for footprint in those],
    )
    return Footprint(median_high(held_bytes), median_high(passing))


@dataclass(frozen=True, slots=True)
class AdmittedGeneration:
    """Generation that has begun."""

    expected: Footprint | None  # None: nothing like it has ended yet
    resident: int  # bytes that it holds now


def may_begin(
    expected: Footprint | None, guests: Iterable[AdmittedGeneration], free: int | None
) -> bool:
    """Return whether one more generation fits beside ``guests``.

    It counts all that these are still expected to take. One of which nothing is known (None) may
    begin, and so may one that is alone: waiting would not free any memory for it.
    """
    guests = list(guests)
    if free is None or expected is None or not guests:
        return True
    known = [(guest.expected, guest.resident) for guest in guests if guest.expected is not None]
    to_come = sum(max(0, its.resident - held_bytes) for its, held_bytes in known)
    passing = max([expected.transient, *(its.transient for its, _ in known)])  # one runs at a time
    return (expected.resident + to_come + passing) * MARGIN <= free


@dataclass(slots=True)
class _Watched:
    resident: int = 0  # bytes that it holds now
    footprint: Footprint = field(default_factory=Footprint)


class Admission:
    """Admission control. Used on the engine's thread only. Generations are identified by number."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._seen: OrderedDict[Hashable, deque[Footprint]] = OrderedDict()  # by kind
        self._estimates: dict[Hashable, Footprint | None] = {}  # of kinds that were not measured
        self._watched: dict[int, _Watched] = {}

    def fits(self, kind: Hashable, going: Mapping[int, Hashable]) -> bool:
        """Return whether a generation of ``kind`` may begin beside those in ``going``.

        ``going``: kinds of the running generations, by number. Other generations that have begun
        and are paused keep their memory and take no more.
        """
        free = self._memory.free()
        guests = [self._guest(number, its) for number, its in going.items()]
        return may_begin(self._footprint_of(kind), guests, free)

    def fits_weights(self, size: int, going: Mapping[int, Hashable], forward: int) -> bool:
        """Return whether ``size`` bytes are free beside what ``going`` is expected to take.

        Always False while nothing is known of one of them. ``forward``: bytes that the largest of
        their next calls takes.
        """
        guests = [self._guest(number, its) for number, its in going.items()]
        if any(guest.expected is None for guest in guests):
            return False
        return may_begin(Footprint(size, forward), guests, self._memory.free())

    @contextmanager
    def measuring(self, number: int, answer_bytes: int) -> Generator[None]:
        """Measure a generation between two of its calls.

        ``answer_bytes``: of the answer to the call, which belongs to the generation from now on.
        """
        with self._memory.measure() as taken:
            yield
        watched = self._watched.setdefault(number, _Watched())
        if not taken.reliable:
            return
        # The answer was allocated earlier; the generation released it, or the previous one.
        watched.resident += taken.growth + answer_bytes
        passing = taken.peak - max(0, taken.growth)
        watched.footprint = watched.footprint.max_with(watched.resident, passing)

    def record_call_bytes(self, number: int, size: int) -> None:
        """Note that a call of a generation takes ``size`` bytes when it runs alone."""
        watched = self._watched.setdefault(number, _Watched())
        watched.footprint = watched.footprint.max_with(0, size)

    def end_generation(self, number: int, kind: Hashable, *, well: bool) -> None:
        """Forget a generation. ``well``: it ran to its end, so its footprint is recorded."""
        watched = self._watched.pop(number, None)
        if watched is None or not well or self._memory.free() is None:
            return
        self._seen.setdefault(kind, deque(maxlen=_LAST)).append(watched.footprint)
        self._seen.move_to_end(kind)
        if len(self._seen) > MAX_KINDS:
            self._seen.popitem(last=False)
        self._estimates.clear()

    def _guest(self, number: int, kind: Hashable) -> AdmittedGeneration:
        watched = self._watched.get(number)
        return AdmittedGeneration(
            self._footprint_of(kind), 0 if watched is None else watched.resident
        )

    def _footprint_of(self, kind: Hashable) -> Footprint | None:
        """Measured or estimated footprint; None if nothing like this kind was measured yet."""
        if kind in self._seen:
            return median_footprint(self._seen[kind])
        if kind not in self._estimates:
            if len(self._estimates) >= MAX_KINDS:
                self._estimates.clear()
            self._estimates[kind] = self._estimate_footprint(kind)
        return self._estimates[kind]

    def _estimate_footprint(self, kind: Hashable) -> Footprint | None:
        """Footprint of a kind by those of other sizes. Each gives too much, so the least counts."""
        footprints = [
            footprint.times(factor)
            for other, seen in self._seen.items()
            if (factor := growth(other, kind)) is not None
            if (footprint := median_footprint(seen)) is not None
        ]
        return (
            Footprint(
                min(sample.resident for sample in footprints),
                min(sample.transient for sample in footprints),
            )
            if footprints
            else None
        )


@dataclass(frozen=True, slots=True)
class MemoryKind:
    """Key that is equal for calls that take the same memory, independent of their duration."""

    pipeline: str
    view: str  # class of the view
    sizes: tuple[tuple[str, Hashable], ...]  # of arguments, by name
    step_cache: str = ""  # with its settings: it keeps results of earlier steps
    part: str = ""  # of the call that is computed; empty: up to its end


def memory_kind_of(
    pipeline: str,
    view: Any,
    arguments: Mapping[str, Any],
    step_cache: str = "",
    part: str = "",
) -> MemoryKind:
    """Return the kind of a call of ``pipeline``, or of a ``view`` of it."""
    sizes = [(name, _size(name, value)) for name, value in sorted(arguments.items())]
    known = tuple(entry for entry in sizes if entry[1] is not None)
    return MemoryKind(pipeline, type(view).__name__, known, step_cache, part)


def growth(known: Hashable, other: Hashable) -> float | None:
    """Upper limit of the memory that ``other`` takes, as a multiple of what ``known`` takes.

    Tensors and what attention and convolutions take beside them grow with each size at most in
    proportion, and have parts that do not grow. So each size that is larger counts as a factor, and
    none that is smaller. None if the kinds cannot be compared: they are of other pipelines, or
    other arguments were given.
    """
    if not isinstance(known, MemoryKind) or not isinstance(other, MemoryKind):
        return None
    if (known.pipeline, known.view) != (other.pipeline, other.view):
        return None
    if (known.step_cache, known.part) != (other.step_cache, other.part):
        return None
    before, after = dict(known.sizes), dict(other.sizes)
    if before.keys() != after.keys():
        return None
    factor = 1.0
    if before.keys() >= _SIDES:  # turned by 90°, an image takes the same memory
        before["pixels"] = tuple(before.pop(side) for side in sorted(_SIDES))
        after["pixels"] = tuple(after.pop(side) for side in sorted(_SIDES))
    for name, size in before.items():
        if size == after[name]:
            continue
        here, there = _volume(size), _volume(after[name])
        if not here or not there:
            return None
        factor *= max(1.0, there / here)
    return factor


_SIDES = {"height", "width"}


def _volume(size: Hashable) -> float:
    """Number that a size stands for; 0 if it stands for none."""
    if isinstance(size, tuple):
        return prod(_volume(side) for side in size)
    if isinstance(size, bool) or not isinstance(size, int | float):
        return 0.0
    return max(0.0, float(size))


def _size(name: str, value: Any) -> Hashable:
    """Part of an argument that determines the generation's size; None if it has no influence."""
    if isinstance(value, bool | int | float):
        return value if _is_size(name, value) else None
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return len(value)
    return getattr(value, "size", None) if hasattr(value, "mode") else None  # an image's size


def _is_size(name: str, value: float) -> bool:
    """Return whether it is a count or a length in seconds, not a weight, seed or timestep."""
    if isinstance(value, float):
        return name.endswith("_in_s") or "duration" in name
    return not name.endswith("steps") and "seed" not in name


def bytes_in(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(value))


_LAST = 5  # most recent generations of a kind whose footprints count
MAX_KINDS = 1024
