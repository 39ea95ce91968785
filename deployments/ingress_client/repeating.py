"""Calls of replicas of executors to the ingress, repeated while it does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, Unavailable
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import AppSource, Clock, SafetyLog
from serve_app.domain.progress import PartialResult

log = logging.getLogger(__name__)
T = TypeVar("T")

BUNDLE_WITHIN_S = 60.0  # the code of an app has up to 16 MiB


class ExecutorIngress(AppSource, SafetyLog, Protocol):
    """The ingress, as replicas of executors call it."""


class IngressRetry(Unavailable):
    """Raised when the ingress has not answered for ``give_up_s``. It does not leave the replica:
    the attempt is handed back."""


class RepeatedSource:
    """What one attempt, or the start of an app, asks the ingress for. Implements
    ``ExecutorIngress``. Calls are repeated while the ingress or its database is away: an app's
    work is worth more than the minute in which an ingress restarts. Use on one event loop.

    All of them may be repeated: a ticket is the same again, and of a decision the log may have two
    lines. Who stops the attempt cancels its call, so none goes on for a lease that is lost.
    """

    def __init__(
        self,
        source: ExecutorIngress,
        delays: Callable[[], Iterator[float]],
        clock: Clock,
        call_timeout_s: float,
        give_up_s: float,
    ) -> None:
        """``delays``: of a new call, in seconds. ``give_up_s``: time of one call with all its
        repeats; infinity for what must not be lost."""
        self._source = source
        self._delays = delays
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._give_up_s = give_up_s

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        return await self._retry(
            lambda: self._source.file_ticket(lease_key, tenant, number, media_type)
        )

    async def app_bundle(self, digest: str) -> bytes:
        return await self._retry(lambda: self._source.app_bundle(digest), BUNDLE_WITHIN_S)

    async def secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        return await self._retry(lambda: self._source.secrets(lease_key, tenant))

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        await self._retry(lambda: self._source.report_decisions(lease_key, decisions))

    async def add_partials(
        self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int
    ) -> None:
        # Not repeated here: ``PartialSender`` has rules of its own.
        await self._source.add_partials(lease_key, values, first)

    async def _retry(self, call: Callable[[], Awaitable[T]], within_s: float | None = None) -> T:
        """Result of a call. Raises the ingress's error if another call would have it too, and
        ``IngressRetry`` after ``give_up_s``."""
        give_up_at = self._clock.monotonic() + self._give_up_s
        for delay_s in self._delays():
            try:
                async with asyncio.timeout(within_s or self._call_timeout_s):
                    return await call()
            except Exception as error:  # such as Ray's, while an ingress restarts
                if isinstance(error, DarkroomError) and not error.retryable:
                    raise
                log.warning("The ingress does not answer, so its call is repeated: %r", error)
            if self._clock.monotonic() + delay_s >= give_up_at:
                break
            await asyncio.sleep(delay_s)
        # Nothing of the error: it may be Ray's, with names of machines.
        raise IngressRetry(
            f"The ingress did not answer a call of the replica for {self._give_up_s:g} s."
        )
