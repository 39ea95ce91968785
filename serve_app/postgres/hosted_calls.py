"""Calls of hosted providers in the database. They are written before they are sent, so none is paid
twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg.errors as pg

from serve_app.domain.errors import Fenced
from serve_app.domain.executors.hosted import HostedCall, NewCall, UnwantedJob
from serve_app.domain.lease import LeaseKey
from serve_app.postgres.database import Database

# The holder of the lease gets the request's call, or a new one. No row: the lease is not held.
# A row without an id: an equal call of another request is being sent. A repeated statement gives
# the same call, which is still new to its maker.
BEGIN: LiteralString = """
-- name: begin_hosted_call
WITH held AS MATERIALIZED (
    SELECT id, tenant FROM requests
    WHERE id = %(request_id)s::uuid AND state = 'running' AND attempt = %(attempt)s
      AND lease_nonce = %(nonce)s
    FOR NO KEY UPDATE
),
known AS (
    SELECT c.* FROM hosted_calls c JOIN held h ON c.request_id = h.id
    WHERE c.state IN ('sending', 'accepted', 'unconfirmed')
),
made AS (
    INSERT INTO hosted_calls (
        id, request_id, tenant, attempt, provider, owner, endpoint, input_hash)
    SELECT %(id)s, h.id, h.tenant, %(attempt)s, %(account)s, %(owner)s, %(endpoint)s,
           %(input_hash)s
    FROM held h WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT DO NOTHING
    RETURNING *
),
either AS (
    SELECT id, state, owner, endpoint, sent_at, provider_id, place FROM known
    UNION ALL
    SELECT id, state, owner, endpoint, sent_at, provider_id, place FROM made
)
SELECT e.id, e.state, e.owner, e.endpoint,
       extract(epoch FROM clock_timestamp() - e.sent_at)::float8,
       coalesce(e.provider_id, ''), coalesce(e.place, '{}'::json), e.id = %(id)s
FROM held LEFT JOIN either e ON true
"""
# One that nobody wants any more is ended at once (`unwanted_at`).
# A repeated statement, whose first answer was lost, finds its own id and is as good as the first.
ACCEPT: LiteralString = """
-- name: accept_hosted_call
UPDATE hosted_calls
SET state = 'accepted', provider_id = %(provider_id)s, place = %(place)s::json,
    changed_at = clock_timestamp(),
    unwanted_at = CASE WHEN unwanted_at IS NOT NULL THEN clock_timestamp() END
WHERE id = %(id)s AND (
    state IN ('sending', 'unconfirmed')
    OR (state = 'accepted' AND provider_id = %(provider_id)s))
RETURNING 1
"""
END: LiteralString = """
-- name: end_hosted_call
UPDATE hosted_calls
SET state = %(state)s, changed_at = clock_timestamp(), unwanted_at = NULL
WHERE id = %(id)s AND state IN ('sending', 'unconfirmed')
RETURNING 1
"""
# A call of a request that has ended cannot keep equal ones waiting. The time is for a replica that
# still looks for it, to cancel it.
RELEASE: LiteralString = """
-- name: release_hosted_call
UPDATE hosted_calls c SET state = 'unconfirmed', changed_at = clock_timestamp()
WHERE c.state = 'sending' AND c.provider = %(account)s AND c.owner = %(owner)s
  AND c.endpoint = %(endpoint)s AND c.input_hash = %(input_hash)s
  AND c.sent_at < clock_timestamp() - %(after_s)s * interval '1 second'
  AND NOT EXISTS (
    SELECT FROM requests r WHERE r.id = c.request_id AND r.state IN ('queued', 'running'))
RETURNING 1
"""
RELEASE_AFTER_S = 180.0
# The next try is a minute later, if this process ends before the job has.
TAKE_UNWANTED: LiteralString = """
-- name: unwanted_hosted_jobs
UPDATE hosted_calls c SET unwanted_at = clock_timestamp() + interval '1 minute'
FROM requests r JOIN attempts a ON a.request_id = r.id
WHERE r.id = c.request_id AND a.attempt = c.attempt AND c.id IN (
    SELECT id FROM hosted_calls WHERE unwanted_at <= clock_timestamp()
    ORDER BY unwanted_at LIMIT 20 FOR UPDATE SKIP LOCKED)
RETURNING c.id, coalesce(a.endpoint, r.endpoint), c.owner, coalesce(c.place, '{}'::json),
          extract(epoch FROM clock_timestamp() - coalesce(r.finished_at, c.changed_at))::float8,
          c.state = 'accepted'
"""
FORGET_UNWANTED: LiteralString = """
-- name: forget_unwanted_hosted_job
UPDATE hosted_calls SET unwanted_at = NULL WHERE id = %(id)s
"""


class PostgresHostedCalls:
    """Answers the calls about hosted providers of ``domain.ports.AppSource``."""

    def __init__(self, database: Database, release_after_s: float = RELEASE_AFTER_S) -> None:
        self._database = database
        self._release_after_s = release_after_s

    async def begin(self, held: LeaseKey, new: NewCall) -> HostedCall | None:
        given = {
            "id": new.id,
            "request_id": held.request_id,
            "attempt": held.attempt,
            "nonce": held.nonce,
            "account": new.account,
            "owner": new.owner,
            "endpoint": new.endpoint,
            "input_hash": new.input_hash,
        }
        rows = await self._database.rows(BEGIN, given)
        if not rows:
            raise Fenced("Only the holder of a lease may call a provider for its request.")
        if rows[0][0] is not None:
            return HostedCall(*rows[0])
        await self._database.rows(RELEASE, {**given, "after_s": self._release_after_s})
        return None

    async def accept(self, call_id: str, provider_id: str, place: Mapping[str, Any]) -> bool:
        given = {"id": call_id, "provider_id": provider_id, "place": json.dumps(place)}
        try:
            return bool(await self._database.rows(ACCEPT, given))
        except pg.UniqueViolation:
            return False

    async def end(self, call_id: str, state: str) -> bool:
        return bool(await self._database.rows(END, {"id": call_id, "state": state}))

    async def take_unwanted(self) -> list[UnwantedJob]:
        """Jobs that should be ended now. They are not returned again for a minute."""
        return [UnwantedJob(*row) for row in await self._database.rows(TAKE_UNWANTED)]

    async def forget_unwanted(self, call_id: str) -> None:
        """Try no more to end a job."""
        await self._database.rows(FORGET_UNWANTED, {"id": call_id})
