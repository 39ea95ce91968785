"""How often work of unknown length is repeated: work that takes long is done less often."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from serve_app.domain.ports import Clock


class DutyCycle:
    """Limits repeated work to ``1 / factor`` of the time.

    The shorter of its last two runs counts: one alone may have waited for a busy machine, and would
    keep what is read from being read again for ``factor`` times as long.
    """

    def __init__(self, clock: Clock, factor: float) -> None:
        self._clock = clock
        self._factor = factor
        self._begun = float("-inf")
        self._took_s = self._before_s = 0.0

    def is_due(self, least_s: float = 0.0) -> bool:
        """True if the work may run again. ``least_s``: shortest time between two runs' starts."""
        pause_s = self._factor * min(self._took_s, self._before_s)
        return self._clock.monotonic() - self._begun > max(least_s, pause_s)

    @contextmanager
    def run(self) -> Generator[None]:
        """Measure one run of the work."""
        self._begun = self._clock.monotonic()
        try:
            yield
        finally:
            self._before_s, self._took_s = self._took_s, self._clock.monotonic() - self._begun
