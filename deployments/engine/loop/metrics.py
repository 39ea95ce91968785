"""Counters of the engine's work, as plain numbers that only grow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.engine.accelerator.interface import TimeStamp
from deployments.engine.interception.components import ComponentKind


@dataclass(slots=True)
class ComponentCounters:
    """Counters of one kind of components."""

    forwards: int = 0  # forwards whose outputs were used
    trial_forwards: int = 0  # forwards that verified a merge, or whose merge failed
    merged_calls: int = 0  # calls that shared a forward
    single_calls: int = 0  # calls that had a forward of their own
    batch_sizes: Counter[int] = field(default_factory=Counter[int])  # calls per forward
    not_merged: Counter[str] = field(default_factory=Counter[str])  # reasons of single calls

    def forward(self, calls: int) -> None:
        self.forwards += 1
        self.batch_sizes[calls] += 1
        if calls > 1:
            self.merged_calls += calls
        else:
            self.single_calls += calls

    def computed_ahead(self) -> None:
        """Count a call that another device of the replica had computed already."""
        self.single_calls += 1
        self.not_merged["computed ahead"] += 1

    def copy(self) -> dict[str, Any]:
        """Copy by name; may be called on any thread."""
        return {
            "forwards": self.forwards,
            "trial_forwards": self.trial_forwards,
            "merged_calls": self.merged_calls,
            "single_calls": self.single_calls,
            "batch_sizes": dict(self.batch_sizes),
            "not_merged": dict(self.not_merged),
        }


@dataclass(slots=True)
class EngineCounters:
    """Counters of all components. Written on the engine's thread only."""

    steps: int = 0  # scheduler steps of all generations
    prompts_encoded: int = 0  # text encoder calls whose outputs can be cached
    prompts_remembered: int = 0  # such calls that were cache hits
    seconds: dict[tuple[str, str], float] = field(  # device time, by pipeline and stage
        default_factory=dict[tuple[str, str], float]
    )
    # Denoiser calls of a replica with several devices, by how the devices divided them.
    parallel_calls: Counter[str] = field(default_factory=Counter[str])
    parts: Mapping[ComponentKind, ComponentCounters] = field(
        default_factory=lambda: {part: ComponentCounters() for part in ComponentKind}
    )

    def took(self, lap: tuple[str, str], seconds: float) -> None:
        """Add device time. ``lap``: a pipeline's name and a stage."""
        self.seconds[lap] = self.seconds.get(lap, 0.0) + seconds

    def copy(self) -> Mapping[str, Any]:
        """Copy by name, denoiser counters at the top level. May be called on any thread."""
        return {
            "steps": self.steps,
            "prompts_encoded": self.prompts_encoded,
            "prompts_remembered": self.prompts_remembered,
            "seconds": dict(self.seconds),
            "parallel_calls": dict(self.parallel_calls),
            **self.parts[ComponentKind.DENOISER].copy(),
            "encoders": self.parts[ComponentKind.ENCODER].copy(),
            "autoencoders": self.parts[ComponentKind.AUTOENCODER].copy(),
        }


# Device time per pipeline and stage. The engine's thread runs ahead of a GPU, so host time says
# little there. Timestamps are put into the device's stream, and read once the device has passed
# them.


class Timer:
    """Timer of laps, for one thread."""

    def __init__(self, mark: Callable[[], TimeStamp], add: Callable[[Any, float], object]) -> None:
        """``add`` gets a lap's seconds once the device has passed its end.

        This is checked whenever a lap begins or ends.
        """
        self._mark = mark
        self._add = add
        self._since: TimeStamp | None = None
        self._laps: deque[tuple[Any, TimeStamp, TimeStamp]] = deque()

    def start(self) -> None:
        """Begin a lap; the time since the last lap is not counted."""
        self._add_passed()
        self._since = self._mark()

    def end_lap(self, of: Any) -> None:
        """End a lap, which is counted for ``of``, and begin the next."""
        now = self._mark()
        if self._since is not None:
            self._laps.append((of, self._since, now))
        self._since = now
        self._add_passed()

    def _add_passed(self) -> None:
        while self._laps and self._laps[0][2].has_passed():
            of, began, ended = self._laps.popleft()
            self._add(of, began.seconds_to(ended))


STUCK = 10
"""Factor over the longest turn so far at which a turn counts as stuck."""


class TurnWatch:
    """Durations of the engine's turns. ``stuck_s`` may be read on any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began: float | None = None
        self._longest_s = 0.0

    @contextmanager
    def measure(self) -> Generator[None]:
        """Measure a turn. One that raises never ends."""
        self._began = began = self._monotonic()
        yield
        self._began = None
        self._longest_s = max(self._longest_s, self._monotonic() - began)

    @property
    def stuck_s(self) -> float:
        """Seconds of the current turn, if that is ``STUCK`` times the longest so far; else 0."""
        began = self._began
        took_s = 0.0 if began is None else self._monotonic() - began
        return took_s if took_s > STUCK * self._longest_s else 0.0
