"""Webhooks that are due, of the fake queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import uuid4

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.ports import Clock
from serve_app.domain.request import Redacted
from serve_app.domain.webhook import (
    ClaimedDelivery,
    DeliveryAttempt,
    DeliveryChannel,
    DeliveryState,
    ReceiverResponse,
    WebhookBacklog,
    WebhookDelivery,
)
from serve_app.queue.store import messages
from serve_app.queue.transactions.webhook_outbox import (
    FIRST_CLAIM_S,
    LATER_CLAIM_S,
    no_webhook,
    outcome_forgotten_error,
    unfinished_error,
)
from tests.fakes.queue_row import Row


@dataclass
class _Entry:
    delivery: WebhookDelivery
    due: float  # monotonic
    since: float  # monotonic
    claims: int = 0
    body: bytes | None = None
    tries: list[DeliveryAttempt] = field(default_factory=list[DeliveryAttempt])

    @property
    def channel(self) -> DeliveryChannel:
        host = self.delivery.url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()
        return DeliveryChannel(self.delivery.tenant, host.partition("?")[0])

    @property
    def pending(self) -> bool:
        return self.delivery.state is DeliveryState.PENDING


class FakeOutbox:
    """``note`` writes the audit."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        note: Callable[[Actor, str, str], None],
        first_claim_s: float = FIRST_CLAIM_S,
        later_claim_s: float = LATER_CLAIM_S,
    ) -> None:
        self._clock = clock
        self._rows = rows
        self._note = note
        self.first_claim_s = first_claim_s
        self.later_claim_s = later_claim_s
        self._entries: dict[str, _Entry] = {}

    def on_end(self, row: Row) -> None:
        """A request has reached its end."""
        if row.webhook is None:
            return
        request, now = row.request, self._clock.monotonic()
        assert request.id not in self._entries
        delivery = WebhookDelivery(
            id=str(uuid4()),
            request_id=request.id,
            tenant=request.tenant,
            url=row.webhook.url,
            state=DeliveryState.PENDING,
            due_at=self._clock.now(),
            created_at=self._clock.now(),
        )
        self._entries[request.id] = _Entry(delivery, now, now)

    def on_delete(self, request_id: str) -> None:
        self._entries.pop(request_id, None)

    async def channels(
        self, after: DeliveryChannel | None, most: int
    ) -> Sequence[tuple[DeliveryChannel, bool]]:
        now = self._clock.monotonic()
        due: dict[DeliveryChannel, bool] = {}
        for entry in self._live():
            due[entry.channel] = due.get(entry.channel, False) or entry.due <= now
        behind = after or DeliveryChannel("", "")
        channels = sorted(due.items(), key=lambda pair: (pair[0].tenant, pair[0].host))
        later = [
            pair
            for pair in channels
            if (pair[0].tenant, pair[0].host) > (behind.tenant, behind.host)
        ]
        return later[:most]

    async def claim(self, limits: Mapping[DeliveryChannel, int]) -> Sequence[ClaimedDelivery]:
        now = self._clock.monotonic()
        claimed: list[ClaimedDelivery] = []
        for channel, most in limits.items():
            due = [
                delivery
                for delivery in self._live()
                if delivery.channel == channel and delivery.due <= now
            ]
            for entry in sorted(due, key=lambda delivery: delivery.due)[:most]:
                entry.claims += 1
                tries = entry.delivery.tries
                entry.due = now + (self.later_claim_s if tries else self.first_claim_s)
                claimed.append(self._claimed(entry))
        return claimed

    async def keep_body(self, claimed: ClaimedDelivery, body: bytes) -> bytes | None:
        entry = self._mine(claimed)
        if entry is None:
            return None
        entry.body = entry.body or body
        return entry.body

    async def record_success(self, claimed: ClaimedDelivery, answer: ReceiverResponse) -> bool:
        return self._settle(claimed, answer, DeliveryState.DELIVERED, 0.0)

    async def record_failure(
        self, claimed: ClaimedDelivery, answer: ReceiverResponse, again_after_s: float | None
    ) -> bool:
        state = DeliveryState.DEAD if again_after_s is None else DeliveryState.PENDING
        return self._settle(claimed, answer, state, again_after_s or 0.0)

    async def put_back(self, claimed: ClaimedDelivery, after_s: float) -> bool:
        entry = self._mine(claimed)
        if entry is not None:
            entry.claims += 1
            entry.due = self._clock.monotonic() + after_s
        return entry is not None

    async def expire(self, after_s: float) -> int:
        over = self._clock.monotonic() - after_s
        late = [delivery for delivery in self._live() if delivery.since < over]
        for entry in late:
            self._bury(entry, f"Not delivered in time. {entry.delivery.error}")
        return len(late)

    async def backlog(self) -> WebhookBacklog:
        live = self._live()
        now = self._clock.monotonic()
        return WebhookBacklog(len(live), max((now - entry.since for entry in live), default=0.0))

    async def get(self, tenant: str, request_id: str) -> WebhookDelivery:
        row = self._rows.get(request_id)
        if row is None or row.request.tenant != tenant:
            raise RequestNotFound(f"There is no request {request_id}.")
        if row.webhook is None:
            raise no_webhook(request_id)
        self._live()
        entry = self._entries.get(request_id)
        if entry is None:
            return WebhookDelivery(None, request_id, tenant, row.webhook.url, DeliveryState.AWAITED)
        left_s = entry.due - self._clock.monotonic()
        due_at = self._clock.now() + timedelta(seconds=left_s) if entry.pending else None
        return replace(entry.delivery, due_at=due_at)

    async def tries(self, tenant: str, request_id: str) -> Sequence[DeliveryAttempt]:
        entry = self._entries.get(request_id)
        return tuple(entry.tries) if entry and entry.delivery.tenant == tenant else ()

    async def page(
        self,
        tenant: str,
        *,
        state: DeliveryState | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[WebhookDelivery]:
        self._live()
        entries = [
            entry.delivery
            for request_id, entry in sorted(self._entries.items(), reverse=True)
            if entry.delivery.tenant == tenant
            and state in (None, entry.delivery.state)
            and (before is None or request_id < before)
        ]
        return entries[:limit]

    async def redeliver(self, tenant: str, request_id: str, actor: Actor) -> WebhookDelivery:
        await self.get(tenant, request_id)
        request = self._rows[request_id].request
        if not request.state.final:
            raise unfinished_error(request.state)
        if request.forgetting is Redacted.DONE:
            raise outcome_forgotten_error()
        entry = self._entries[request_id]
        entry.claims += 1
        entry.due = entry.since = self._clock.monotonic()
        entry.delivery = replace(
            entry.delivery, state=DeliveryState.PENDING, tries=0, ended_at=None
        )
        self._note(actor, "webhook.redeliver", request_id)
        return await self.get(tenant, request_id)

    def _live(self) -> list[_Entry]:
        """Those that are pending, after what is to be forgotten is."""
        for entry in self._entries.values():
            if self._rows[entry.delivery.request_id].request.forgetting is Redacted.DONE:
                entry.body = None
                if entry.pending:
                    self._bury(entry, f"{messages.UNDELIVERED} {entry.delivery.error}".rstrip())
        return [delivery for delivery in self._entries.values() if delivery.pending]

    def _bury(self, entry: _Entry, error: str) -> None:
        entry.claims += 1
        now = self._clock.now()
        entry.delivery = replace(
            entry.delivery, state=DeliveryState.DEAD, error=error, ended_at=now
        )

    def _claimed(self, entry: _Entry) -> ClaimedDelivery:
        delivery, webhook = entry.delivery, self._rows[entry.delivery.request_id].webhook
        assert delivery.id is not None
        assert webhook is not None
        return ClaimedDelivery(
            delivery.id,
            entry.claims,
            delivery.request_id,
            delivery.tenant,
            entry.channel.host,
            delivery.url,
            webhook.origin,
            delivery.tries,
            entry.body,
            self._rows[delivery.request_id].request.trace,
        )

    def _mine(self, claimed: ClaimedDelivery) -> _Entry | None:
        entry = self._entries.get(claimed.request_id)
        if entry is None or not entry.pending or entry.claims != claimed.claim:
            return None
        return entry

    def _settle(
        self,
        claimed: ClaimedDelivery,
        answer: ReceiverResponse,
        state: DeliveryState,
        again_after_s: float,
    ) -> bool:
        entry = self._mine(claimed)
        if entry is None:
            return False
        now = self._clock.now()
        entry.claims += 1
        entry.due = self._clock.monotonic() + again_after_s
        entry.tries.append(
            DeliveryAttempt(
                now - timedelta(seconds=answer.took_s), answer.took_s, answer.status, answer.error
            )
        )
        entry.delivery = replace(
            entry.delivery,
            state=state,
            tries=entry.delivery.tries + 1,
            status=answer.status,
            error=answer.error,
            ended_at=None if state is DeliveryState.PENDING else now,
        )
        return True
