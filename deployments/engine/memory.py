"""How much fits into memory: rules over what was measured. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median_high

MEASUREMENTS = 3  # of the same: their middle stands, whatever else went on beside one of them
MARGIN = 1.1  # allocators round up, and leave gaps


class ForwardBytes:
    """What a forward of one signature takes beside what is there before it, by how many calls share
    it: a part that is always the same, and one for each call."""

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}

    def wants(self, calls: int) -> bool:
        """Whether another measurement of so many calls would tell more."""
        return len(self._seen.get(calls, ())) < MEASUREMENTS

    def saw(self, calls: int, size: int) -> None:
        """``size``: bytes at the peak of a forward of ``calls``."""
        if self.wants(calls):
            self._seen.setdefault(calls, []).append(size)

    def expected(self, calls: int) -> int | None:
        """Bytes; never less than was seen, and None before anything was."""
        if not self._seen:
            return None
        points = [(each, median_high(sizes)) for each, sizes in self._seen.items()]
        slope = _slope(points)
        always = max(0.0, *(size - slope * each for each, size in points))
        return round(always + slope * calls)

    def fitting(self, free: int | None, most: int) -> int:
        """How many calls, at most ``most`` and at least one, fit into ``free`` bytes (None: nobody
        counts them). Before anything was measured, one."""
        if free is None:
            return most
        fits = [n for n in range(2, most + 1) if self._fits(n, free)]
        return max(fits, default=1)

    def _fits(self, calls: int, free: int) -> bool:
        expected = self.expected(calls)
        return expected is not None and expected * MARGIN <= free


def _slope(points: Iterable[tuple[int, int]]) -> float:
    """Bytes per call. Of a single point all counts as that, which is never too little for more."""
    points = list(points)
    if len(points) == 1:
        ((calls, size),) = points
        return size / calls
    middle = sum(calls for calls, _ in points) / len(points)
    spread = sum((calls - middle) ** 2 for calls, _ in points)
    return max(0.0, sum((calls - middle) * size for calls, size in points) / spread)


@dataclass(slots=True)
class BatchLimit:
    """How many calls of one signature may share a forward, by what ran out of memory. It grows back
    by one after ``patience`` forwards that were as large as may be, and where more is free than
    when it was lowered. Each time that it was wrong, the patience doubles."""

    most: int
    patience: int = 64  # forwards
    _ceiling: int = field(init=False)
    _good: int = 0
    _free: int | None = None  # bytes, when it was last lowered

    def __post_init__(self) -> None:
        self._ceiling = self.most

    def went_well(self, calls: int, free: int | None) -> None:
        """A forward of ``calls``; ``free``: bytes, or None where nobody counts them."""
        if calls < self.most or self.most >= self._ceiling:
            return
        self._good += 1
        more = free is None or self._free is None or free > self._free
        if self._good >= self.patience and more:
            self.most += 1
            self._good = 0

    def ran_out(self, calls: int, free: int | None) -> None:
        """A forward of ``calls`` did not fit: from now on half of them."""
        if self.most < self._ceiling:
            self.patience = min(2 * self.patience, _LONGEST_PATIENCE)
        self.most = max(1, min(self.most, calls // 2))
        self._good = 0
        self._free = free


_LONGEST_PATIENCE = 4096  # forwards


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a generation, without the forwards that it shares. Bytes."""

    held: int = 0  # at most, from call to call: latents, prompts, pictures
    passing: int = 0  # at most beside that, while it runs from one call to the next

    def grown(self, held: int, passing: int) -> Footprint:
        return Footprint(max(self.held, held), max(self.passing, passing))


def typical(footprints: Iterable[Footprint]) -> Footprint | None:
    """The middle one of those of a kind; None without any."""
    those = list(footprints)
    if not those:
        return None
    held, passing = [each.held for each in those], [each.passing for each in those]
    return Footprint(median_high(held), median_high(passing))


@dataclass(frozen=True, slots=True)
class Guest:
    """A generation that has a place."""

    expected: Footprint | None  # None: none like it has ended as yet
    held: int  # bytes, now


def may_begin(expected: Footprint | None, guests: Iterable[Guest], free: int | None) -> bool:
    """Whether there is room for one more generation beside the ``guests``, with all that these
    are still expected to take. The first of a kind may (None), and one that is alone: nothing
    would make more room for it."""
    guests = list(guests)
    if free is None or expected is None or not guests:
        return True
    known = [(each.expected, each.held) for each in guests if each.expected is not None]
    to_come = sum(max(0, its.held - held) for its, held in known)
    passing = max([expected.passing, *(its.passing for its, _ in known)])  # one runs at a time
    return (expected.held + to_come + passing) * MARGIN <= free
