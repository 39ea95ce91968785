"""System clock. Only this module reads the operating system's time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """Implementation of ``Clock`` with the system's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
