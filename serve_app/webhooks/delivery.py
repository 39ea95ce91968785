"""Webhook delivery worker: claims due webhooks, sends them and records the results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, RequestNotFound
from serve_app.domain.ports import Clock
from serve_app.domain.rest import Rest
from serve_app.domain.sharing.fair_queue import work_from_now_on_for
from serve_app.domain.webhook import (
    ClaimedDelivery,
    DeliveryChannel,
    Outbox,
    ReceiverResponse,
    WebhookBacklog,
)
from serve_app.periodic_task import PeriodicTask
from serve_app.telemetry.logs import set_request
from serve_app.webhooks.circuit_breaker import CircuitBreakers
from serve_app.webhooks.retrying import retry_delay_s
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

T = TypeVar("T")
log = logging.getLogger(__name__)

Compose = Callable[[ClaimedDelivery], Awaitable[bytes]]
Renew = Callable[[bytes, str], Awaitable[bytes]]
"""Builds the body of a delivery from its request.

Raises ``RequestNotFound`` if the request was deleted. After any other error it is called again.
"""

TIMEOUT_S = 15.0
"""Timeout of each try. fal waits 120 s from the second try on; here a receiver that hangs would
hold a delivery of its tenant for that long."""

CLEANUP_INTERVAL_S = 10.0
COMPOSE_RETRY_S = 30.0
"""Delay after a body could not be built, for example because the storage was unavailable."""

CHANNEL_PAGE = 200
PAGE_PAUSE_S = 0.02
"""Pause after a page without a delivery, so that many waiting channels cost little."""

DATABASE_RETRY_S = 0.5
DATABASE_ATTEMPTS = 40
"""Tries to store a body or a result while the database is unavailable.

Together they last about as long as a claim. If all fail after a 2xx, the webhook is delivered
twice.
"""


@dataclass(frozen=True, slots=True)
class RetryRules:
    """Retry rules of a webhook."""

    waits_s: Sequence[float]  # delays between the tries
    give_up_s: float  # age at which it is dead, regardless of the number of tries
    check_interval_s: float = 0.5  # interval of the search for due webhooks


class DeliveryMetrics(Protocol):
    """Metrics of deliveries."""

    def webhook(self, result: str) -> None:
        """Count a result: ``delivered``, ``failed`` (will be retried) or ``dead``."""
        ...

    def webhooks(self, backlog: WebhookBacklog) -> None: ...

    def webhook_called(self, result: str, elapsed_s: float) -> None:
        """Record a call by its answer's class: ``2xx`` to ``5xx``, or ``none``."""
        ...

    def breakers(self, receivers: int, tenants: int) -> None:
        """Record how many breakers are open."""
        ...


class DeliveryWorker:
    """Delivery worker of one ingress process. The processes share the work by claiming it."""

    def __init__(
        self,
        outbox: Outbox,
        compose: Compose,
        sender: Sender,
        clock: Clock,
        rules: RetryRules,
        metrics: DeliveryMetrics,
        renew: Renew | None = None,
    ) -> None:
        """``renew``: a stored body as its tenant reads it now; None: as it is."""
        self._outbox = outbox
        self._compose = compose
        self._sender = sender
        self._clock = clock
        self._rules = rules
        self._metrics = metrics
        self._renew = renew
        self.tracing: Tracing | None = None  # None: spans are off
        self._random = Random()  # noqa: S311 - jitter
        self._breakers = CircuitBreakers()
        self._after: DeliveryChannel | None = None
        self._rest = Rest()
        self._room = asyncio.Event()
        self._in_flight: dict[asyncio.Task[None], ClaimedDelivery] = {}
        self._rounds = (
            PeriodicTask(rules.check_interval_s, {"send webhooks": self._look}, sooner=self._room),
            PeriodicTask(CLEANUP_INTERVAL_S, {"clean up webhooks": self._clean_up}),
        )

    def start(self, rest: Rest | None = None) -> None:
        """``rest``: None if it never looks less often."""
        self._rest = rest or self._rest
        for task in self._rounds:
            task.start(rest)

    async def aclose(self) -> None:
        """Stop. Deliveries in progress are aborted and are due again at once."""
        for rounds in self._rounds:
            await rounds.aclose()
        in_flight = dict(self._in_flight)
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)
        for claimed in in_flight.values():
            with suppress(DarkroomError):  # on failure, the claim expires
                await self._outbox.put_back(claimed, 0.0)

    async def _look(self) -> None:
        """Start the deliveries that are due until none is, or none has room."""
        while await self._start_some():
            pass

    async def _start_some(self) -> bool:
        """Start some that are due. False: there may be no more."""
        page = await self._outbox.channels(self._after, CHANNEL_PAGE)
        if page:  # also one that waits to be sent again
            self._rest.busy()
        more = len(page) == CHANNEL_PAGE
        self._after = page[-1][0] if more else None
        due = [channel for channel, is_due in page if is_due]
        counts = self._breakers.choose(due, self._clock.monotonic())
        claimed = await self._outbox.claim(counts) if counts else ()
        for delivery in claimed:
            self._breakers.count_start(delivery.channel)
            task = asyncio.create_task(self._deliver(delivery))
            self._in_flight[task] = delivery
            task.add_done_callback(self._on_delivery_end)
        if more and not claimed:
            await asyncio.sleep(PAGE_PAUSE_S)
        return more or bool(claimed)

    def _on_delivery_end(self, task: asyncio.Task[None]) -> None:
        self._breakers.count_end(self._in_flight.pop(task).channel)
        self._room.set()

    async def _deliver(self, claimed: ClaimedDelivery) -> None:
        set_request(claimed.request_id, tenant=claimed.tenant, trace=claimed.trace)
        work_from_now_on_for(claimed.tenant)
        try:
            body = await self._retry(lambda: self._body(claimed))
            if body is None:
                return
            began = self._clock.monotonic()
            answer = await self._post(claimed, body)
            ended = self._clock.monotonic()
            result = "none" if answer.status is None else f"{answer.status // 100}xx"
            self._metrics.webhook_called(result, ended - began)
            self._breakers.record_result(claimed.channel, answer, ended)
            await self._retry(lambda: self._store_result(claimed, answer))
        except DarkroomError as error:
            # The claim expires, and the webhook is due again.
            log.warning("Webhook of request %s was not sent: %s", claimed.request_id, error.message)
        except Exception:
            log.exception("Webhook of request %s failed unexpectedly", claimed.request_id)

    async def _post(self, claimed: ClaimedDelivery, body: bytes) -> ReceiverResponse:
        message = SignedMessage(claimed.id, claimed.request_id, claimed.tenant, body, claimed.trace)
        if self.tracing is None or not claimed.trace:
            return await self._sender.post(claimed.url, message, TIMEOUT_S)
        span = self.tracing.begin_webhook(
            claimed.trace, claimed.request_id, claimed.url, claimed.tries
        )
        status, accepted = None, False
        try:
            message = replace(message, trace=span.trace)
            answer = await self._sender.post(claimed.url, message, TIMEOUT_S)
            status, accepted = answer.status, answer.is_accepted
            return answer
        finally:
            span.end_webhook(status, accepted=accepted)

    async def _body(self, claimed: ClaimedDelivery) -> bytes | None:
        if claimed.body is not None:
            body, renew = claimed.body, self._renew
            return body if renew is None else await renew(body, claimed.tenant)
        try:
            return await self._outbox.keep_body(claimed, await self._compose(claimed))
        except RequestNotFound:
            return None  # the request and its delivery were deleted
        except DatabaseUnavailable:
            raise
        except DarkroomError as error:
            log.warning("Webhook of request %s is delayed: %s", claimed.request_id, error.message)
            await self._outbox.put_back(claimed, COMPOSE_RETRY_S)
            return None

    async def _retry(self, act: Callable[[], Awaitable[T]]) -> T:
        """Retry ``act`` while the database is unavailable, at most ``DATABASE_ATTEMPTS`` times."""
        for left in reversed(range(DATABASE_ATTEMPTS)):
            try:
                return await act()
            except DatabaseUnavailable:
                if not left:
                    raise
                await asyncio.sleep(DATABASE_RETRY_S)
        raise AssertionError("unreachable")

    async def _store_result(self, claimed: ClaimedDelivery, answer: ReceiverResponse) -> None:
        if answer.is_accepted:
            if await self._outbox.record_success(claimed, answer):
                self._metrics.webhook("delivered")
            return
        chance = self._random.random()
        retry_s = retry_delay_s(answer, claimed.tries + 1, self._rules.waits_s, chance)
        if await self._outbox.record_failure(claimed, answer, retry_s):
            self._metrics.webhook("dead" if retry_s is None else "failed")
            if retry_s is None:
                log.warning("Webhook of request %s is dead: %s", claimed.request_id, answer.error)

    async def _clean_up(self) -> None:
        while expired := await self._outbox.expire(self._rules.give_up_s):
            for _ in range(expired):
                self._metrics.webhook("dead")
            log.warning("%s webhooks were given up: they were not delivered in time", expired)
        self._metrics.breakers(*self._breakers.open(self._clock.monotonic()))
        self._metrics.webhooks(await self._outbox.backlog())
