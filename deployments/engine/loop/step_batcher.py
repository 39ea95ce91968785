"""Choice of the generations that share the next call. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Candidate:
    """Generation that can continue. ``key`` is None when it has not begun."""

    generation: int  # its number in the engine, increasing
    priority: int  # higher goes first
    last_turn: int  # number of the turn in which it last continued, or joined
    key: Hashable | None
    deadline: float = inf  # seconds on a monotonic clock
    remaining: float = inf  # steps left; infinite if unknown
    max_calls: int = 1  # generations that may share its call
    steps: bool = True  # its call is a step; False: a text encoder or autoencoder call
    fresh: bool = False  # it has not taken a step yet
    encodes_input: bool = False  # its call encodes a chunk of its input
    same_kind_as_last: bool = True  # its last call was of this kind too
    pipeline: str = ""

    @property
    def at_first_step(self) -> bool:
        return self.fresh and self.steps and not self.encodes_input

    @property
    def step_group(self) -> Hashable:
        """Key of the generations that may share steps with it."""
        return self.pipeline, self.priority


@dataclass(frozen=True, slots=True)
class StepBatcher:
    """Chooses a leader, and the others that share its call.

    The leader has the highest priority. At equal priority, in this order: a generation that has not
    continued for ``idle_turns`` turns; one that has not begun, because afterwards it may share
    calls; the earliest deadline; the fewest steps left, so that short ones do not wait for long
    ones; the key that most generations share; the longest wait. A first step waits for other
    generations of its pipeline that have not reached theirs yet.

    Steps and other calls alternate: when the leader has just continued with a call of this kind,
    generations of its priority that wait for the other kind go in between. Therefore steps of short
    generations do not wait for a queue of prompts, and prompts do not wait until others have ended.
    A generation that goes from its prompt to its first step, or from its last step to its decoder,
    changes kinds itself.

    A generation that was passed over for ``patience`` turns goes first whatever its priority, so
    nothing starves: a wait is at most ``patience`` turns plus the number of generations.
    """

    patience: int = 32  # turns
    idle_turns: int = 8  # turns

    def choose(self, candidates: Sequence[Candidate], turn: int) -> tuple[Candidate, ...]:
        """Return the generations that share this turn; not empty unless ``candidates`` is.

        Several are returned only if they have the same key, at most the leader's ``max_calls``.
        """
        if not candidates:
            return ()
        fill = Counter(each.key for each in candidates)
        on_their_way = {
            each.step_group for each in candidates if each.fresh and not each.at_first_step
        }
        ranked = sorted(
            candidates,
            key=lambda each: self._rank(each, turn, fill, waits=_waits(each, on_their_way)),
        )
        leader = self._in_between(ranked, turn, on_their_way) or ranked[0]
        if leader.key is None:
            return (leader,)
        return tuple(
            [each for each in ranked if each.key == leader.key][: max(1, leader.max_calls)]
        )

    def _in_between(
        self, ranked: Sequence[Candidate], turn: int, on_their_way: Container[Hashable]
    ) -> Candidate | None:
        """Generation that goes instead of the first one, which has just continued; or None."""
        first = ranked[0]
        if first.key is None or not first.same_kind_as_last or turn - first.last_turn > 1:
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
        stands_still = waited > self.idle_turns
        return (
            1,
            -candidate.priority,
            not stands_still,
            candidate.last_turn if stands_still else 0,
            not begins,
            waits,
            candidate.deadline,
            candidate.remaining,
            -min(fill[candidate.key], candidate.max_calls),
            *longest_wait,
        )


def _waits(candidate: Candidate, on_their_way: Container[Hashable]) -> bool:
    """Return whether it waits for others that will soon take their first step together with it."""
    return candidate.at_first_step and candidate.step_group in on_their_way
