"""Decides which generations share the next denoiser call. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A generation that can go on. ``key`` is None when it has not begun."""

    generation: int  # its number in the engine, which grows
    priority: int  # higher goes first
    last_turn: int  # number of the turn in which it last went on, or joined
    key: Hashable | None


@dataclass(frozen=True, slots=True)
class StepBatcher:
    """Priority first, then whoever has waited longest.

    Turns instead of steps done: under "fewest steps first" a generation near its end would stand
    still while new ones keep coming. Among equals, each gets one turn in as many as there are.
    A generation that was passed over ``patience`` turns long goes first whatever its priority, so
    nothing starves.
    """

    patience: int = 32  # turns

    def choose(self, candidates: Sequence[Candidate], turn: int) -> tuple[Candidate, ...]:
        """Those that go on in this turn, together; not empty when ``candidates`` is not.

        One at a time as yet. All that are chosen have the same key.
        """
        if not candidates:
            return ()
        return (min(candidates, key=lambda candidate: self._rank(candidate, turn)),)

    def _rank(self, candidate: Candidate, turn: int) -> tuple[int, int, int, int]:
        if turn - candidate.last_turn > self.patience:
            return (0, 0, candidate.last_turn, candidate.generation)
        return (1, -candidate.priority, candidate.last_turn, candidate.generation)
