"""Webhook deliveries that are due: claim, settle, list and redeliver them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import NotFound, OutcomeForgotten, RequestActive, RequestNotFound
from serve_app.domain.request import Redacted, State
from serve_app.domain.webhook import (
    MAX_COUNTED,
    ClaimedDelivery,
    DeliveryAttempt,
    DeliveryChannel,
    DeliveryState,
    ReceiverResponse,
    WebhookBacklog,
    WebhookDelivery,
)
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import known_id

FIRST_CLAIM_S = 40.0
LATER_CLAIM_S = 150.0
"""How long a claim excludes other processes: longer than its try may take (``sender.py``)."""

MAX_PER_CHANNEL = 8
AT_ONCE = 500

# One index step per channel, however many deliveries wait in it.
CHANNELS = """
-- name: webhook_channels
WITH RECURSIVE channel AS (
    (SELECT tenant, host FROM webhook_deliveries
     WHERE state = 'pending' AND (tenant, host) > (%(tenant)s, %(host)s)
     ORDER BY tenant, host LIMIT 1)
    UNION ALL
    SELECT next.tenant, next.host FROM channel l CROSS JOIN LATERAL (
        SELECT w.tenant, w.host FROM webhook_deliveries w
        WHERE w.state = 'pending' AND (w.tenant, w.host) > (l.tenant, l.host)
        ORDER BY w.tenant, w.host LIMIT 1) next
)
SELECT l.tenant, l.host, coalesce((
    SELECT w.due_at <= now() FROM webhook_deliveries w
    WHERE w.state = 'pending' AND w.tenant = l.tenant AND w.host = l.host
    ORDER BY w.due_at LIMIT 1), false)
FROM (SELECT tenant, host FROM channel LIMIT %(most)s) l
"""
CLAIM = """
-- name: claim_webhooks
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(wanted)s::json) AS x(tenant text, host text, most integer)
),
due AS MATERIALIZED (
    SELECT d.id, d.tenant, d.host, d.due_at, l.most FROM wanted l CROSS JOIN LATERAL (
        SELECT w.id, w.tenant, w.host, w.due_at FROM webhook_deliveries w
        WHERE w.state = 'pending' AND w.tenant = l.tenant AND w.host = l.host AND w.due_at <= now()
        ORDER BY w.due_at LIMIT %(of_channel)s FOR NO KEY UPDATE SKIP LOCKED) d
),
chosen AS (
    SELECT id FROM (
        SELECT id, most, row_number() OVER (PARTITION BY tenant, host ORDER BY due_at) AS n FROM due
    ) numbered WHERE n <= most
)
UPDATE webhook_deliveries w SET
    claims = w.claims + 1,
    due_at = now() + make_interval(secs =>
        CASE WHEN w.tries = 0 THEN %(first_s)s::double precision ELSE %(later_s)s END)
FROM chosen c, requests r WHERE w.id = c.id AND r.id = w.request_id
RETURNING w.id::text, w.claims, w.request_id::text, w.tenant, w.host, w.url,
          coalesce(r.call ->> 'origin', ''), w.tries, w.body, coalesce(r.call ->> 'trace', '')
"""
_MINE = "id = %(id)s::uuid AND claims = %(claim)s AND state = 'pending'"
KEEP_BODY = f"""
-- name: keep_webhook_body
UPDATE webhook_deliveries SET body = coalesce(body, %(body)s::bytea) WHERE {_MINE} RETURNING body
"""
# `claims` grows, so that a try that is still on its way is not recorded twice.
SETTLE = f"""
-- name: settle_webhook
WITH settled AS (
    UPDATE webhook_deliveries SET
        state = %(state)s::text,
        tries = tries + 1,
        claims = claims + 1,
        status = %(status)s::integer,
        error = %(error)s::text,
        due_at = now() + make_interval(secs => %(again_s)s::double precision),
        ended_at = CASE WHEN %(state)s::text <> 'pending' THEN now() END
    WHERE {_MINE} RETURNING id
),
tried AS (
    INSERT INTO webhook_tries (delivery, claim, at, took_s, status, error)
    SELECT id, %(claim)s::integer, now() - make_interval(secs => %(took_s)s::double precision),
           %(took_s)s::double precision, %(status)s::integer, %(error)s::text
    FROM settled
)
SELECT id::text FROM settled
"""
PUT_BACK = f"""
-- name: put_back_webhook
UPDATE webhook_deliveries SET claims = claims + 1,
    due_at = now() + make_interval(secs => %(after_s)s::double precision)
WHERE {_MINE} RETURNING id::text
"""
GIVE_UP = """
-- name: give_up_webhooks
UPDATE webhook_deliveries SET state = 'dead', claims = claims + 1, ended_at = now(),
    error = 'Not delivered in time. ' || error
WHERE id IN (
    SELECT id FROM webhook_deliveries
    WHERE state = 'pending' AND since < now() - make_interval(secs => %(after_s)s)
    ORDER BY since LIMIT %(most)s FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id::text
"""
BACKLOG = """
-- name: webhook_backlog
SELECT (SELECT count(*) FROM (
            SELECT 1 FROM webhook_deliveries WHERE state = 'pending' ORDER BY since LIMIT %(most)s
        ) counted),
       (SELECT extract(epoch FROM now() - since)::double precision
        FROM webhook_deliveries WHERE state = 'pending' ORDER BY since LIMIT 1)
"""
_SHOWN = """
    w.id::text, r.id::text, r.tenant, coalesce(w.url, r.webhook_url), coalesce(w.state, 'awaited'),
    coalesce(w.tries, 0), CASE WHEN w.state = 'pending' THEN w.due_at END, w.created_at, w.ended_at,
    w.status, coalesce(w.error, '')
"""
GET = f"""
SELECT {_SHOWN}, r.state, r.forgetting
FROM requests r LEFT JOIN webhook_deliveries w ON w.request_id = r.id
WHERE r.id = %(id)s::uuid AND r.tenant = %(tenant)s
"""
TRIES = """
SELECT t.at, t.took_s, t.status, t.error
FROM webhook_deliveries w JOIN webhook_tries t ON t.delivery = w.id
WHERE w.request_id = %(id)s::uuid AND w.tenant = %(tenant)s ORDER BY t.claim
"""
_PAGE = f"""
SELECT {_SHOWN}
FROM webhook_deliveries w JOIN requests r ON r.id = w.request_id
WHERE w.tenant = %(tenant)s
  AND w.request_id < coalesce(
      %(before)s::text::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
  {{of_state}}
ORDER BY w.request_id DESC LIMIT %(limit)s
"""
PAGES = {
    # The state is a literal, not a parameter: only then is the index of dead deliveries used.
    state: _PAGE.format(of_state="" if state is None else f"AND w.state = '{state}'")
    for state in (None, *DeliveryState)
}
REDELIVER = f"""
WITH again AS (
    UPDATE webhook_deliveries SET state = 'pending', tries = 0, claims = claims + 1, due_at = now(),
        since = now(), ended_at = NULL
    WHERE request_id = %(id)s::uuid AND tenant = %(tenant)s
    RETURNING request_id
)
{insert_audit("request_id::text", "again")}
"""


class PostgresOutbox:
    """Implements ``Outbox``."""

    def __init__(
        self,
        database: Database,
        first_claim_s: float = FIRST_CLAIM_S,
        later_claim_s: float = LATER_CLAIM_S,
    ) -> None:
        self._database = database
        self._first_s = first_claim_s
        self._later_s = later_claim_s

    async def channels(
        self, after: DeliveryChannel | None, most: int
    ) -> Sequence[tuple[DeliveryChannel, bool]]:
        behind = after or DeliveryChannel("", "")
        params = {"tenant": behind.tenant, "host": behind.host, "most": most}
        rows = await self._database.rows(CHANNELS, params)
        return [(DeliveryChannel(tenant, host), due) for tenant, host, due in rows]

    async def claim(self, limits: Mapping[DeliveryChannel, int]) -> Sequence[ClaimedDelivery]:
        channels = [
            {"tenant": channel.tenant, "host": channel.host, "most": most}
            for channel, most in limits.items()
        ]
        rows = await self._database.rows(
            CLAIM,
            {
                "wanted": messages.compact(channels),
                "of_channel": MAX_PER_CHANNEL,
                "first_s": self._first_s,
                "later_s": self._later_s,
            },
        )
        return [_delivery_of_row(row) for row in rows]

    async def keep_body(self, claimed: ClaimedDelivery, body: bytes) -> bytes | None:
        value = await self._database.value(KEEP_BODY, {**_mine(claimed), "body": body})
        return None if value is None else bytes(value)

    async def record_success(self, claimed: ClaimedDelivery, answer: ReceiverResponse) -> bool:
        return await self._settle(claimed, answer, DeliveryState.DELIVERED, 0.0)

    async def record_failure(
        self, claimed: ClaimedDelivery, answer: ReceiverResponse, again_after_s: float | None
    ) -> bool:
        state = DeliveryState.DEAD if again_after_s is None else DeliveryState.PENDING
        return await self._settle(claimed, answer, state, again_after_s or 0.0)

    async def put_back(self, claimed: ClaimedDelivery, after_s: float) -> bool:
        return bool(
            await self._database.rows(PUT_BACK, {**_mine(claimed), "after_s": float(after_s)})
        )

    async def expire(self, after_s: float) -> int:
        params = {"after_s": float(after_s), "most": AT_ONCE}
        return len(await self._database.rows(GIVE_UP, params))

    async def backlog(self) -> WebhookBacklog:
        ((pending, oldest_s),) = await self._database.rows(BACKLOG, {"most": MAX_COUNTED})
        return WebhookBacklog(pending, oldest_s or 0.0)

    async def get(self, tenant: str, request_id: str) -> WebhookDelivery:
        delivery, *_ = await self._find_delivery(tenant, request_id)
        return delivery

    async def tries(self, tenant: str, request_id: str) -> Sequence[DeliveryAttempt]:
        params = {"tenant": tenant, "id": known_id(request_id)}
        return [DeliveryAttempt(*row) for row in await self._database.rows(TRIES, params)]

    async def page(
        self,
        tenant: str,
        *,
        state: DeliveryState | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[WebhookDelivery]:
        params = {"tenant": tenant, "before": before, "limit": limit}
        return [_delivery(row) for row in await self._database.rows(PAGES[state], params)]

    async def redeliver(self, tenant: str, request_id: str, actor: Actor) -> WebhookDelivery:
        delivery, state, forgetting = await self._find_delivery(tenant, request_id)
        if not state.final:
            raise unfinished_error(state)
        if forgetting == Redacted.DONE:
            raise outcome_forgotten_error()
        noted = audit_params(actor, "webhook.redeliver")
        params = {"tenant": tenant, "id": delivery.request_id, **noted}
        await self._database.rows(REDELIVER, params)
        return await self.get(tenant, request_id)

    async def _find_delivery(
        self, tenant: str, request_id: str
    ) -> tuple[WebhookDelivery, State, str | None]:
        params = {"tenant": tenant, "id": known_id(request_id)}
        row = await self._database.row(GET, params)
        if not row:
            raise RequestNotFound(f"There is no request {request_id}.")
        *columns, state, forgetting = row
        delivery = _delivery(columns)
        if not delivery.url:
            raise no_webhook(request_id)
        return delivery, State(state), forgetting

    async def _settle(
        self,
        claimed: ClaimedDelivery,
        answer: ReceiverResponse,
        state: DeliveryState,
        again_after_s: float,
    ) -> bool:
        params = {
            **_mine(claimed),
            "state": state,
            "status": answer.status,
            "error": messages.clean(answer.error),
            "again_s": float(again_after_s),
            "took_s": answer.took_s,
        }
        return bool(await self._database.rows(SETTLE, params))


def no_webhook(request_id: str) -> NotFound:
    return NotFound(f"The request {request_id} was submitted without a webhook.")


def unfinished_error(state: State) -> RequestActive:
    return RequestActive(f"The request is {state}: its webhook is sent when it has ended.")


def outcome_forgotten_error() -> OutcomeForgotten:
    return OutcomeForgotten(
        "The outcome is no longer stored, so there is nothing to send: the request was sent with "
        "X-Fal-Store-IO: 0, or this installation keeps outcomes no longer."
    )


def _mine(claimed: ClaimedDelivery) -> dict[str, Any]:
    return {"id": claimed.id, "claim": claimed.claim}


def _delivery_of_row(row: tuple[Any, ...]) -> ClaimedDelivery:
    (id_, claim, request_id, tenant, host, url, origin, tries, body, trace) = row
    stored = None if body is None else bytes(body)
    return ClaimedDelivery(id_, claim, request_id, tenant, host, url, origin, tries, stored, trace)


def _delivery(row: Sequence[Any]) -> WebhookDelivery:
    id_, request_id, tenant, url, state, tries, due_at, created_at, ended_at, status, error = row
    return WebhookDelivery(
        id=id_,
        request_id=request_id,
        tenant=tenant,
        url=url,
        state=DeliveryState(state),
        tries=tries,
        due_at=due_at,
        created_at=created_at,
        ended_at=ended_at,
        status=status,
        error=error,
    )
