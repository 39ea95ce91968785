"""Rest of an ingress process: nobody calls, and nothing waits or runs. Periodic tasks sleep longer.

A call of a client or a replica ends the rest here at once. The process notifies the others, which
end theirs. One that does not hear them does not rest, so what one process has changed reaches the
others as fast as without a rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

QUIET_S = 10.0
"""A rest begins after this time without a call."""
REST_S = 30.0
"""Period at rest of a periodic task that has a shorter one."""
ANNOUNCE_EVERY_S = QUIET_S / 2


class Rest:
    """Use on one event loop. Without ``hears`` it never begins."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._busy_at = monotonic()
        self._announced_at = float("-inf")
        self._sleepers: set[asyncio.Event] = set()
        # Set by the queue, which listens to the other processes.
        self.announce: Callable[[], None] = lambda: None
        self.hears: Callable[[], bool] = lambda: False

    @property
    def is_on(self) -> bool:
        return self.hears() and self._monotonic() - self._busy_at > QUIET_S

    def note_call(self) -> None:
        """Note a call of a client or a replica, here and in the other processes."""
        self.busy()
        if self._busy_at - self._announced_at > ANNOUNCE_EVERY_S:
            self._announced_at = self._busy_at
            self.announce()

    def busy(self) -> None:
        """Note that something waits or runs, or that another process was called."""
        self._busy_at = self._monotonic()
        for sleeper in self._sleepers:
            sleeper.set()
        self._sleepers.clear()

    async def sleep(
        self, every_s: float, rest_s: float = REST_S, sooner: asyncio.Event | None = None
    ) -> None:
        """Sleep for ``every_s``, or until ``sooner`` is set. At rest, sleep for up to ``rest_s``,
        and for up to ``every_s`` after its end: all tasks at once would delay the call."""
        woken = sooner or asyncio.Event()
        if await _is_set(woken, every_s) or rest_s <= every_s or not self.is_on:
            return
        self._sleepers.add(woken)
        try:
            ended = await _is_set(woken, rest_s - every_s)
        finally:
            self._sleepers.discard(woken)
        if ended and sooner is None:
            await asyncio.sleep(every_s * random.random())  # noqa: S311 spreads load


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            return await event.wait()
    return False
