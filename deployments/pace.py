"""How fast a stage goes, from the moments at which its steps were told."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress, Stage

WINDOW_S = 10.0  # what was before then does not matter, so that another pace is soon seen
LEAST_TOLD = 4  # but so many moments do: the steps of a clip can take longer
APART_S = 0.05  # downloads tell many times a second


class Pace:
    """Of one attempt. It is told all its progress, on any thread: frames are written by encoders
    while the engine makes the next ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stage: Stage | None = None
        self._told: deque[tuple[float, int]] = deque()  # when, and the step
        self._lock = threading.Lock()

    def of(self, progress: Progress) -> Progress:
        """The same with its rate, from a stage's second step on."""
        with self._lock:
            return self._of(progress, self._clock.monotonic())

    def _of(self, progress: Progress, now: float) -> Progress:
        told = self._told
        if progress.stage is not self._stage or (told and told[-1][1] > progress.step):
            self._stage = progress.stage
            told.clear()
        if not told or now - told[-1][0] >= APART_S:
            told.append((now, progress.step))
        while len(told) > LEAST_TOLD and now - told[0][0] > WINDOW_S:
            told.popleft()
        began, first = told[0]
        if progress.step <= first or now <= began:
            return progress
        return replace(progress, rate=(progress.step - first) / (now - began))
