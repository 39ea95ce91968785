"""Whether everything that Darkroom stands on answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Clock

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
FRESH_S = 1.0
PATIENCE_S = 5.0


class Readiness:
    """Runs named checks, at most once a second however often it is asked.

    A check passes by returning and fails by raising, or by taking longer than ``PATIENCE_S``.
    """

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._last: dict[str, str] = {}

    async def report(self) -> dict[str, str]:
        """By name ``ok``, or what is wrong."""
        async with self._lock:
            now = self._clock.monotonic()
            if now - self._asked_at >= FRESH_S:
                results = await asyncio.gather(*map(self._run, self._checks.values()))
                self._last = dict(zip(self._checks, results, strict=True))
                self._asked_at = now
            return self._last

    async def _run(self, check: Check) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await check()
        except DarkroomError as error:
            return error.message
        except TimeoutError:
            return f"no answer within {PATIENCE_S:g} s"
        except Exception as error:
            # A check that fails in an unforeseen way must not take the readiness page with it.
            log.exception("a readiness check failed in an unexpected way")
            return f"{type(error).__name__}: {error}"
        return "ok"
