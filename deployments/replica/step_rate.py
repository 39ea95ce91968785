"""Rate of a stage, computed from the times of its progress reports."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress, Stage

WINDOW_S = 10.0  # older reports are ignored, so that a changed rate shows soon
MIN_REPORTS = 4  # reports that are always kept: steps of a video can take longer than the window
MIN_INTERVAL_S = 0.05  # minimum distance of stored reports: downloads report many times a second
SLOW_START = 2.0  # a first step that takes so many times as long as the later ones does not count


class StepRate:
    """Rate of one attempt's progress. Thread-safe: encoders write frames while the engine makes the
    next ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stage: Stage | None = None
        self._reports: deque[tuple[float, int]] = deque()  # (time, step)
        self._begun: tuple[float, int] | None = None  # first report of the stage
        self._lock = threading.Lock()

    def with_rate(self, progress: Progress) -> Progress:
        """Add the rate to a progress report. There is one from a stage's second step on; of
        denoising from its third one on, since a model's first step may take ten times as long."""
        with self._lock:
            return self._with_rate(progress, self._clock.monotonic())

    def _with_rate(self, progress: Progress, now: float) -> Progress:
        reports = self._reports
        if progress.stage is not self._stage or (reports and reports[-1][1] > progress.step):
            self._stage = progress.stage
            reports.clear()
        if not reports or now - reports[-1][0] >= MIN_INTERVAL_S:
            reports.append((now, progress.step))
            if len(reports) == 1:
                self._begun = reports[0]
        while len(reports) > MIN_REPORTS and now - reports[0][0] > WINDOW_S:
            reports.popleft()
        if progress.stage is Stage.DENOISING and reports[0] is self._begun:
            if len(reports) < 3:
                return progress
            if _pace(reports[0], reports[1]) * SLOW_START < _pace(reports[1], reports[-1]):
                reports.popleft()
        began, first = reports[0]
        if progress.step <= first or now <= began:
            return progress
        return replace(progress, rate=(progress.step - first) / (now - began))


def _pace(earlier: tuple[float, int], later: tuple[float, int]) -> float:
    """Steps a second between two reports."""
    return (later[1] - earlier[1]) / (later[0] - earlier[0])
