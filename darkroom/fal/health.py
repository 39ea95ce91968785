"""Regular health checks of an app, by fal's rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

INTERVAL_S = 15.0


class HealthCheck:
    """Calls a health check again and again, and reports an app that fails it several times in
    succession."""

    def __init__(
        self,
        call: Callable[[], Awaitable[int]],
        on_failure: Callable[[str], None],
        timeout_s: float = 5.0,
        failures: int = 3,
        start_s: float = 600.0,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """``call``: returns the HTTP status. ``start_s``: time in which failures do not count."""
        self._call = call
        self._on_failure = on_failure
        self._timeout_s = timeout_s
        self._failures = failures
        self._start_s = start_s
        self._interval_s = interval_s

    async def run(self) -> None:
        """Check until ``on_failure`` was called."""
        loop = asyncio.get_running_loop()
        counted_from = loop.time() + self._start_s
        failed = 0
        while failed < self._failures:
            await asyncio.sleep(self._interval_s)
            why = await self._problem()
            if not why:
                failed = 0
            elif loop.time() >= counted_from:
                failed += 1
                if failed == self._failures:
                    self._on_failure(f"{why}, {failed} times")

    async def _problem(self) -> str:
        """Why a check failed; empty: it did not."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._call()
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if 200 <= status < 300 else f"status {status}"
