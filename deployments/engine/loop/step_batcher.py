"""Decides which generations share the next call. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Mapping, Sequence
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
    steps: bool = True  # it waits for its denoiser; False: for a text encoder or an autoencoder
    fresh: bool = False  # it has not taken a step yet
    prepares: bool = False  # its call is a chunk of what it begins from, which it encodes
    again: bool = True  # its last call was of this kind too
    pipeline: str = ""

    @property
    def at_first_step(self) -> bool:
        return self.fresh and self.steps and not self.prepares

    @property
    def company(self) -> Hashable:
        """Of those that may share their steps with it."""
        return self.pipeline, self.priority


@dataclass(frozen=True, slots=True)
class StepBatcher:
    """Chooses a leader, and as many that can share its call as may.

    The leader is of the highest priority. Among equals: who has stood still for ``standstill``
    turns; who has not begun, because afterwards it may share; the earliest deadline; the fewest
    steps left, so that short ones do not wait for long ones; the key with most to share it; who has
    waited longest. A first step waits for others of its pipeline that are on their way to theirs.

    Steps and other calls take turns: where the leader has just gone with a call of this kind, those
    of its priority that wait for the other kind go in between. So the steps of short generations do
    not wait for a queue of prompts, and prompts do not wait until others have ended. Who comes from
    its prompt to its first step, or from its last to its decoder, has changed kinds itself.

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
        on_their_way = {
            each.company for each in candidates if each.fresh and not each.at_first_step
        }
        ranked = sorted(
            candidates,
            key=lambda each: self._rank(each, turn, fill, waits=_waits(each, on_their_way)),
        )
        leader = self._in_between(ranked, turn, on_their_way) or ranked[0]
        if leader.key is None:
            return (leader,)
        return tuple([each for each in ranked if each.key == leader.key][: max(1, leader.most)])

    def _in_between(
        self, ranked: Sequence[Candidate], turn: int, on_their_way: Container[Hashable]
    ) -> Candidate | None:
        """Who goes in place of the first, which has just gone."""
        first = ranked[0]
        if first.key is None or not first.again or turn - first.last_turn > 1:
            return None
        for each in ranked:
            of_its_priority = each.key is not None and each.priority == first.priority
            if of_its_priority and each.steps != first.steps and not _waits(each, on_their_way):
                return each
        return None

    def _rank(
        self, candidate: Candidate, turn: int, fill: Mapping[Hashable | None, int], *, waits: bool
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
            waits,
            candidate.deadline,
            candidate.remaining,
            -min(fill[candidate.key], candidate.most),
            *longest_wait,
        )


def _waits(candidate: Candidate, on_their_way: Container[Hashable]) -> bool:
    """Whether it is to take its first step together with others that will be there soon."""
    return candidate.at_first_step and candidate.company in on_their_way
