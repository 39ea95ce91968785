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
# A repeated statement, whose first answer was lost, finds its own id and is as good as the first. A
# job that nobody wants any more is ended at once.
ACCEPT: LiteralString = """
-- name: accept_hosted_call
WITH accepted AS (
    UPDATE hosted_calls
    SET state = 'accepted', provider_id = %(provider_id)s, place = %(place)s::json
    WHERE id = %(id)s AND (
        state IN ('sending', 'unconfirmed')
        OR (state = 'accepted' AND provider_id = %(provider_id)s))
    RETURNING id
),
due AS (
    UPDATE jobs j SET due_at = now(), lease = NULL FROM accepted a
    WHERE j.kind = 'hosted' AND j.key = a.id
)
SELECT 1 FROM accepted
"""
END: LiteralString = """
-- name: end_hosted_call
WITH ended AS (
    UPDATE hosted_calls SET state = %(state)s
    WHERE id = %(id)s AND state IN ('sending', 'unconfirmed') RETURNING id
),
wanted AS (DELETE FROM jobs j USING ended e WHERE j.kind = 'hosted' AND j.key = e.id)
SELECT 1 FROM ended
"""
# A call of a request that has ended cannot keep equal ones waiting. The time is for a replica that
# still looks for it, to cancel it.
RELEASE: LiteralString = """
-- name: release_hosted_call
UPDATE hosted_calls c SET state = 'unconfirmed'
WHERE c.state = 'sending' AND c.provider = %(account)s AND c.owner = %(owner)s
  AND c.endpoint = %(endpoint)s AND c.input_hash = %(input_hash)s
  AND c.sent_at < clock_timestamp() - %(after_s)s * interval '1 second'
  AND NOT EXISTS (
    SELECT FROM requests r WHERE r.id = c.request_id AND r.state IN ('queued', 'running'))
RETURNING 1
"""
RELEASE_AFTER_S = 180.0
UNWANTED: LiteralString = """
-- name: unwanted_hosted_job
SELECT coalesce(a.endpoint, CASE WHEN a.request_id IS NULL THEN r.fell_back_to END, r.endpoint),
       c.owner, coalesce(c.place, '{}'::json), c.state = 'accepted'
FROM hosted_calls c JOIN requests r ON r.id = c.request_id
LEFT JOIN attempts a ON a.request_id = r.id AND a.attempt = c.attempt
WHERE c.id = %(id)s
"""


class PostgresHostedCalls:
    """Calls of hosted providers, as their executor begins and ends them."""

    def __init__(self, database: Database, release_after_s: float = RELEASE_AFTER_S) -> None:
        self._database = database
        self._release_after_s = release_after_s

    async def begin(self, lease_key: LeaseKey, new: NewCall) -> HostedCall | None:
        """Write that a provider is about to be called for a request, and return that call; or the
        call that an earlier attempt made for it, which must not be sent again. None: an equal call
        of another request is being sent; ask again soon. ``Fenced`` if the lease is not held."""
        params = {
            "id": new.id,
            "request_id": lease_key.request_id,
            "attempt": lease_key.attempt,
            "nonce": lease_key.nonce,
            "account": new.account,
            "owner": new.owner,
            "endpoint": new.endpoint,
            "input_hash": new.input_hash,
        }
        row = await self._database.row(BEGIN, params)
        if row is None:
            raise Fenced("Only the holder of a lease may call a provider for its request.")
        earlier, *columns = row
        if earlier is not None:
            return HostedCall(earlier, *columns)
        await self._database.rows(RELEASE, {**params, "after_s": self._release_after_s})
        return None

    async def accept(self, call_id: str, provider_id: str, place: Mapping[str, Any]) -> bool:
        """Write the provider's id of a call, and where its job is. False: the job belongs to
        another call, or this one has ended."""
        params = {"id": call_id, "provider_id": provider_id, "place": json.dumps(place)}
        try:
            return bool(await self._database.rows(ACCEPT, params))
        except pg.UniqueViolation:
            return False

    async def end(self, call_id: str, state: str) -> bool:
        """Write that a call without an answer was ``refused``, is ``unconfirmed``, or will be
        ``repeated``. False: it has an answer, or has ended."""
        return bool(await self._database.rows(END, {"id": call_id, "state": state}))

    async def find_unwanted_job(self, call_id: str) -> UnwantedJob | None:
        """The provider's job of a call that nobody wants. None: the call was deleted."""
        row = await self._database.row(UNWANTED, {"id": call_id})
        return UnwantedJob(*row) if row else None
