"""Jumps of the database's clock, which decides how old rows are."""

from __future__ import annotations

import logging

from serve_app.domain.ports import Clock

log = logging.getLogger(__name__)


class DatabaseClock:
    """Comparison of the database's clock with this process's monotonic one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s: float | None = None  # of the monotonic clock

    def is_steady(self, at_s: float, asked_at: float, within_s: float) -> bool:
        """Return whether the database's clock has not jumped by more than ``within_s`` since the
        last call. False also if the answer took longer than that. ``at_s``: its time, for which
        this process asked at ``asked_at``, by the monotonic clock."""
        now = self._clock.monotonic()
        ahead_s, before_s = at_s - now, self._ahead_s
        if now - asked_at > within_s:
            self._ahead_s = None
            return False
        self._ahead_s = ahead_s
        if before_s is None or abs(ahead_s - before_s) <= within_s:
            return True
        log.warning(
            "The database's clock jumped by %+.0f s. For a while, no lease and no replica is given "
            "up because of its age. Check the time of the database's machine.",
            ahead_s - before_s,
        )
        return False
