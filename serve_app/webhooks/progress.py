"""Progress webhooks: notify a client's server of the states of its request until the request ends.

They are neither stored nor retried. ``DeliveryWorker`` sends the final webhook, which is
guaranteed. The process that accepted a request follows it. The calls of one request are sent in
order, one at a time. A call that is in progress when the request ends is aborted, so no progress
webhook arrives after the final one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

import httpx2

from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, RequestNotFound
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.request import Request
from serve_app.domain.sharing.fair_queue import work_from_now_on_for
from serve_app.domain.webhook import ClaimedDelivery, DeliveryChannel
from serve_app.telemetry.logs import set_request
from serve_app.webhooks.circuit_breaker import CircuitBreakers
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

log = logging.getLogger(__name__)

MAX_FOLLOWED = 500
MAX_PER_TENANT = 200
"""Limits of requests that are followed at once. Others wait in their order of arrival."""

TIMEOUT_S = 5.0
CHECK_INTERVAL_S = 0.5
"""Interval and timeout of the check, during a call, whether the request has ended."""

OTHER_PROCESS_CALL_S = 2.5
"""Time after which no call of another process is in progress.

Another process's knowledge of a request is at most a second old when it checks.
"""

WAIT_S = 60.0
DATABASE_RETRY_S = 1.0  # delay of a retry while the database is unavailable
CHANNEL_RETRY_S = 0.25  # interval of the check whether the channel accepts a call
MAX_CHECKS = 40  # maximum number of these checks for the last call

_BY = ";told-by="

ComposeBody = Callable[[Request], Awaitable[bytes | None]]
"""Builds the body for the current state of a request; None if there is nothing to send.

Each body is sent at most once; a body whose call fails is lost.
"""


@dataclass(frozen=True, slots=True)
class ProgressState:
    """Progress webhook of one request."""

    url: str  # checked
    compose: ComposeBody
    every_s: float  # minimum interval of two calls
    to_the_end: bool = (
        False  # True: send the end too; False: ``DeliveryWorker`` does, and nothing follows
    )


class ProgressMetrics(Protocol):
    def webhook(self, result: str) -> None:
        """Count a call: ``told``, or ``lost``, because it is not retried."""
        ...


class ProgressNotifier:
    """Sender of progress webhooks in one ingress process.

    It has its own ``sender`` and channels, so that a receiver that does not answer here neither
    holds connections of ``DeliveryWorker`` nor opens its circuit breakers.
    """

    def __init__(
        self, queue: Queue, sender: Sender, clock: Clock, metrics: ProgressMetrics
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._clock = clock
        self._metrics = metrics
        self._name = secrets.token_hex(4)
        self._breakers = CircuitBreakers()
        self._total = asyncio.Semaphore(MAX_FOLLOWED)
        self._per_tenant = WeakValueDictionary[str, asyncio.Semaphore]()
        self._following: dict[str, asyncio.Task[None]] = {}

    def mark_origin(self, origin: str) -> str:
        """``origin`` with a mark that this process follows the request."""
        return f"{origin}{_BY}{self._name}"

    def follow(self, request: Request, webhook: ProgressState) -> None:
        """Start to follow a request; one that has ended only if ``webhook`` sends the end."""
        if request.id in self._following or (request.state.final and not webhook.to_the_end):
            return
        task = asyncio.create_task(self._follow(request, webhook))
        self._following[request.id] = task
        task.add_done_callback(lambda _: self._following.pop(request.id, None))

    async def wait_until_silent(self, claimed: ClaimedDelivery) -> ClaimedDelivery:
        """Return ``claimed`` without the mark when no progress call of its request is in progress.

        The request must have ended.
        """
        origin, by, name = claimed.origin.rpartition(_BY)
        if not by:
            return claimed
        if name != self._name:
            await asyncio.sleep(OTHER_PROCESS_CALL_S)
        elif (task := self._following.get(claimed.request_id)) is not None:
            task.cancel()
            await asyncio.wait((task,))
        return replace(claimed, origin=origin)

    async def aclose(self) -> None:
        """Stop: abort calls in progress and follow no request further."""
        tasks = [*self._following.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, request: Request, webhook: ProgressState) -> None:
        set_request(
            request.id, tenant=request.tenant, endpoint=request.endpoint, trace=request.trace
        )
        work_from_now_on_for(request.tenant)
        of_tenant = self._per_tenant.setdefault(request.tenant, asyncio.Semaphore(MAX_PER_TENANT))
        try:
            async with of_tenant, self._total:
                await self._send_changes(request, webhook)
        except RequestNotFound:
            return  # deleted
        except Exception:
            log.exception("Progress webhooks of request %s stop after an error", request.id)

    async def _send_changes(self, request: Request, webhook: ProgressState) -> None:
        channel = DeliveryChannel(request.tenant, httpx2.URL(webhook.url).netloc.decode())
        seen: Request | None = None
        calls = checks = 0
        while True:
            try:
                now = await self._next(request, seen)
                if now.state.final and (not webhook.to_the_end or checks == MAX_CHECKS):
                    return
                if not self._breakers.choose((channel,), self._clock.monotonic()):
                    checks += now.state.final
                    await asyncio.sleep(CHANNEL_RETRY_S)
                    continue
                body = await webhook.compose(now)
                if body is not None:
                    calls += 1
                    message = SignedMessage(
                        f"{request.id}-{calls}", request.id, request.tenant, body, request.trace
                    )
                    await self._call(channel, webhook, message)
            except RequestNotFound:
                raise
            except DarkroomError:
                await asyncio.sleep(DATABASE_RETRY_S)
                continue
            if now.state.final:
                return
            seen = now
            if body is not None:
                await asyncio.sleep(webhook.every_s)

    async def _next(self, request: Request, seen: Request | None) -> Request:
        """State of the request at its next change; the current state on the first call."""
        if seen is None:
            return await self._queue.get(request.tenant, request.id)
        return await self._queue.wait_for_change(request.tenant, request.id, WAIT_S, since=seen)

    async def _call(
        self, channel: DeliveryChannel, webhook: ProgressState, message: SignedMessage
    ) -> None:
        if await self._over(webhook, message):
            return
        self._breakers.count_start(channel)
        call = asyncio.create_task(self._sender.post(webhook.url, message, TIMEOUT_S))
        call.add_done_callback(lambda _: self._breakers.count_end(channel))
        try:
            while not call.done():
                await asyncio.wait((call,), timeout=CHECK_INTERVAL_S)
                if not call.done() and await self._over(webhook, message):
                    return
            answer = call.result()
        finally:
            call.cancel()
            await asyncio.wait((call,))
        self._breakers.record_result(channel, answer, self._clock.monotonic())
        self._metrics.webhook("told" if answer.is_accepted else "lost")

    async def _over(self, webhook: ProgressState, message: SignedMessage) -> bool:
        """Return True if the request has ended, so that the final webhook may be sent.

        Raises ``DatabaseUnavailable`` if this cannot be determined in time.
        """
        if webhook.to_the_end:
            return False
        try:
            async with asyncio.timeout(CHECK_INTERVAL_S):
                return (await self._queue.get(message.tenant, message.request_id)).state.final
        except TimeoutError:
            raise DatabaseUnavailable("The state of the request cannot be read now.") from None
