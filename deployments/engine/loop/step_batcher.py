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
    due_at: float = inf  # seconds on that clock, from which it may go before shorter ones
    remaining: float = inf  # steps left; infinite if unknown
    max_calls: int = 1  # generations that may share its call
    steps: bool = True  # its call is a step; False: a text encoder or autoencoder call
    fresh: bool = False  # it has not taken a step yet
    encodes_input: bool = False  # its call encodes a chunk of its input
    same_kind_as_last: bool = True  # its last call was of this kind too
    pipeline: str = ""
    moves_weights: bool = False  # its call would copy weights to the device, in place of others

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

    The leader has the highest priority. At equal priority, in this order: one that has not begun,
    because afterwards it may share calls; the earliest deadline; the fewest steps left, so that
    short ones do not wait for long ones; one whose weights are on the device; the key that most
    generations share; the longest wait.
    A first step waits up to ``first_step_turns`` turns for other generations of its pipeline that
    have not reached theirs yet.

    Generations that are **due** get half of the rows of a forward, or every second forward if they
    cannot share it, the longest due first. Where each change would copy weights to the device, they
    change every ``stay_turns`` turns. Therefore shorter ones that keep arriving do not keep a
    long one from ending: it ends within twice the time of the work that is due before it and its
    own.

    Steps and other calls alternate: when the leader has just continued with a call of this kind,
    generations of its priority that wait for the other kind go in between. Therefore steps of short
    generations do not wait for a queue of prompts, and prompts do not wait until others have ended.
    A generation that goes from its prompt to its first step, or from its last step to its decoder,
    changes kinds itself.

    A priority of which no generation continued for ``patience`` turns has a turn before higher
    ones.
    """

    patience: int = 32  # turns
    first_step_turns: int = 8  # turns
    stay_turns: int = 8  # turns

    def choose(
        self, candidates: Sequence[Candidate], turn: int, now: float = 0.0
    ) -> tuple[Candidate, ...]:
        """Return the generations that share this turn; not empty unless ``candidates`` is.

        Several are returned only if they have the same key, at most the leader's ``max_calls``.
        ``now``: seconds on the clock of ``due_at``.
        """
        if not candidates:
            return ()
        fill = Counter(candidate.key for candidate in candidates)
        waiting = self._waiting(candidates, turn)
        priority = self._priority(candidates, turn)
        ranked = sorted(
            candidates,
            key=lambda candidate: (
                candidate.priority != priority,
                -candidate.priority,
                *_rank(candidate, fill, waits=candidate.generation in waiting),
            ),
        )
        due = [
            candidate
            for candidate in ranked
            if candidate.due_at <= now and candidate.priority == priority
        ]
        due.sort(key=lambda candidate: (candidate.due_at, candidate.generation))
        leader = _in_between(ranked, turn, waiting, turns=2 if due else 1) or ranked[0]
        rows = leader.max_calls // 2
        if due and not _shares(leader, due[0]) and self._gives_way(leader, due[0], turn):
            leader = due[0]
            rows = leader.max_calls
        if leader.key is None:
            return (leader,)
        due_too = [candidate for candidate in due if candidate.key == leader.key][:rows]
        chosen: dict[int, Candidate] = {}
        for member in [leader, *due_too, *ranked]:
            if member.key == leader.key and len(chosen) < max(1, leader.max_calls):
                chosen.setdefault(member.generation, member)
        return tuple(chosen.values())

    def _priority(self, candidates: Sequence[Candidate], turn: int) -> int:
        """Priority that goes first: the highest, or one that waited for more than ``patience``."""
        last_turns: dict[int, int] = {}
        for candidate in candidates:
            last_turns[candidate.priority] = max(
                candidate.last_turn, last_turns.get(candidate.priority, 0)
            )
        longest = min(last_turns, key=lambda priority: (last_turns[priority], -priority))
        return longest if turn - last_turns[longest] > self.patience else max(last_turns)

    def _gives_way(self, leader: Candidate, due: Candidate, turn: int) -> bool:
        """Return whether ``due`` goes first, as every second time."""
        if due.moves_weights:
            return turn - due.last_turn > self.stay_turns
        if leader.moves_weights:  # the weights of ``due`` are there
            return turn - leader.last_turn <= self.stay_turns
        return turn - due.last_turn > 1

    def _waiting(self, candidates: Sequence[Candidate], turn: int) -> Container[int]:
        """Generations that wait for others, which will soon take their first step with them."""
        on_their_way = {
            candidate.step_group
            for candidate in candidates
            if candidate.fresh and not candidate.at_first_step
        }
        return {
            candidate.generation
            for candidate in candidates
            if candidate.at_first_step
            and candidate.step_group in on_their_way
            and turn - candidate.last_turn <= self.first_step_turns
        }


def _in_between(
    ranked: Sequence[Candidate], turn: int, waiting: Container[int], *, turns: int
) -> Candidate | None:
    """Generation that goes instead of the first one, which has just continued; or None.

    ``turns``: the number of turns that count as just now.
    """
    first = ranked[0]
    if first.key is None or not first.same_kind_as_last or turn - first.last_turn > turns:
        return None
    for candidate in ranked:
        of_its_priority = candidate.key is not None and candidate.priority == first.priority
        if (
            of_its_priority
            and candidate.steps != first.steps
            and candidate.generation not in waiting
        ):
            return candidate
    return None


def _shares(leader: Candidate, due: Candidate) -> bool:
    """Return whether ``due`` shares the leader's call."""
    return leader is due or (leader.key == due.key is not None and leader.max_calls > 1)


def _rank(
    candidate: Candidate, fill: Mapping[Hashable | None, int], *, waits: bool
) -> tuple[float, ...]:
    return (
        candidate.key is not None,
        waits,
        candidate.deadline,
        candidate.remaining,
        candidate.moves_weights,
        -min(fill[candidate.key], candidate.max_calls),
        candidate.last_turn,
        candidate.generation,
    )
