"""Decides which generations share the next denoiser call. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Candidate:
    """A generation that can go on. ``key`` is None when it has not begun."""

    generation: int  # its number in the engine, which grows
    priority: int  # higher goes first
    last_turn: int  # number of the turn in which it last went on, or joined
    key: Hashable | None
    deadline: float = inf  # seconds, on a clock that only grows
    remaining: float = inf  # steps; infinite where that is not known
    most: int = 1  # generations that may share its call


@dataclass(frozen=True, slots=True)
class StepBatcher:
    """Chooses a leader, and as many that can share its call as may.

    The leader is of the highest priority. Among equals: who has stood still for ``standstill``
    turns; who has not begun, because afterwards it may share; the earliest deadline; the fewest
    steps left, so that short ones do not wait for long ones; the key with most to share it; who has
    waited longest.

    Whoever was passed over for ``patience`` turns goes first whatever its priority, so nothing
    starves: nobody waits for more than ``patience`` turns and as many as there are generations.
    """

    patience: int = 32  # turns
    standstill: int = 8  # turns

    def choose(self, candidates: Sequence[Candidate], turn: int) -> tuple[Candidate, ...]:
        """Those that go on in this turn, together; not empty when ``candidates`` is not.

        Several only with the same key, at most as many as ``most`` of the leader says.
        """
        if not candidates:
            return ()
        fill = Counter(each.key for each in candidates)
        ranked = sorted(candidates, key=lambda each: self._rank(each, turn, fill))
        leader = ranked[0]
        if leader.key is None:
            return (leader,)
        return tuple([each for each in ranked if each.key == leader.key][: max(1, leader.most)])

    def _rank(
        self, candidate: Candidate, turn: int, fill: Mapping[Hashable | None, int]
    ) -> tuple[float, ...]:
        waited = turn - candidate.last_turn
        longest_wait = (candidate.last_turn, candidate.generation)
        if waited > self.patience:
            return (0, *longest_wait)
        begins = candidate.key is None
        stands_still = waited > self.standstill
        return (
            1,
            -candidate.priority,
            not stands_still,
            candidate.last_turn if stands_still else 0,
            not begins,
            candidate.deadline,
            candidate.remaining,
            -min(fill[candidate.key], candidate.most),
            *longest_wait,
        )
