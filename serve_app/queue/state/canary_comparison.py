"""Comparison of the attempts of a canary with those of the pool that it runs beside.

Both take the same requests from one queue, so their attempts differ by chance or by what they run.
A canary is worse when chance is no likely explanation (``CHANCE``) and the difference matters:
it fails more often by ``MORE_FAILURES``, or takes ``SLOWER`` times the usual time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import NamedTuple

CHANCE = 0.001
"""Probability below which chance is no explanation. Small, because it is looked at again and again:
200 looks at the first 1,000 attempts of each of 600 canaries that did not differ, of which 5 %
failed, found none of them worse (simulated as in ``tests/queue/state/test_canary_comparison.py``).
"""
MORE_FAILURES = 0.02
SLOWER = 1.25
LEAST_KNOWN = 20
"""Successes of an endpoint in the other pool from which its usual time is known."""

SUCCEEDED = "succeeded"
FAILED = frozenset({"failed", "retry", "died", "lost"})
INTERRUPTED = "interrupted"
"""A replica that is cut off, or hangs, loses all that it runs at once: that is one failure."""


class CanaryAttempt(NamedTuple):
    """End of an attempt, in a canary or beside it."""

    tried: bool  # in the canary
    replica_id: str
    endpoint: str
    ended: str
    seconds: float | None  # for a unit of work; None: it is not known


@dataclass(frozen=True, slots=True)
class Tally:
    """Attempts of one side."""

    attempts: int
    failures: int

    @property
    def share(self) -> float:
        return self.failures / self.attempts if self.attempts else 0.0

    @classmethod
    def of(cls, attempts: Iterable[CanaryAttempt]) -> Tally:
        ended = [
            attempt for attempt in attempts if attempt.ended in FAILED or attempt.ended == SUCCEEDED
        ]
        cut_off = {attempt.replica_id for attempt in attempts if attempt.ended == INTERRUPTED}
        failures = sum(attempt.ended in FAILED for attempt in ended)
        return cls(len(ended) + len(cut_off), failures + len(cut_off))

    def __str__(self) -> str:
        return f"{self.failures} of {self.attempts} attempts failed"


@dataclass(frozen=True, slots=True)
class Late:
    """Successes of a canary at endpoints whose usual time is known."""

    runs: int
    late: int  # that took longer than ``SLOWER`` times the usual time


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of a canary. ``worse``: why it returns; empty: it goes on."""

    summary: str
    worse: str = ""


def compare(attempts: Sequence[CanaryAttempt], beside: str) -> Comparison:
    """Compare a canary with the pool ``beside`` it."""
    tried = [attempt for attempt in attempts if attempt.tried]
    others = [attempt for attempt in attempts if not attempt.tried]
    own, usual = Tally.of(tried), Tally.of(others)
    slower = _slower(_times(tried), _times(others))
    summary = f"{own} ({beside}: {usual.failures} of {usual.attempts})"
    if slower.runs:
        summary += f", and {slower.late} of {slower.runs} took over {SLOWER:g} times the usual time"
    if own.share > usual.share + MORE_FAILURES and chance_of_failures(own, usual) < CHANCE:
        return Comparison(summary, "it fails more often")
    if slower.runs and chance_of_late(slower) < CHANCE:
        return Comparison(summary, "it takes longer")
    return Comparison(summary)


def chance_of_failures(own: Tally, usual: Tally) -> float:
    """Probability that ``own`` has as many of all failures or more, if both fail alike: Fisher's
    exact test, one-sided."""
    failures, both = own.failures + usual.failures, own.attempts + usual.attempts
    ways = sum(
        comb(own.attempts, count) * comb(usual.attempts, failures - count)
        for count in range(own.failures, min(own.attempts, failures) + 1)
    )
    return ways / comb(both, failures)


def chance_of_late(seen: Late) -> float:
    """Probability of as many late runs or more, if the canary's median is ``SLOWER`` times the
    usual one at most: the sign test, one-sided."""
    return sum(comb(seen.runs, count) for count in range(seen.late, seen.runs + 1)) / 2**seen.runs


def _times(attempts: Iterable[CanaryAttempt]) -> dict[str, list[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for attempt in attempts:
        if attempt.ended == SUCCEEDED and attempt.seconds is not None:
            times[attempt.endpoint].append(attempt.seconds)
    return times


def _slower(own: dict[str, list[float]], usual: dict[str, list[float]]) -> Late:
    runs = late = 0
    for endpoint, times in own.items():
        known = usual.get(endpoint, [])
        if len(known) >= LEAST_KNOWN:
            limit_s = SLOWER * median(known)
            runs += len(times)
            late += sum(seconds > limit_s for seconds in times)
    return Late(runs, late)
