"""Repeated submits: each is answered with the request that the first one created."""

from __future__ import annotations

from serve_app.domain.errors import FieldProblem, InvalidInput, RequestDeleted
from serve_app.domain.request import NewRequest
from serve_app.postgres.database import Database
from serve_app.queue.store.rows import COLUMNS, SOURCE, StoredRequest, known_id, request_from_row

HEADER = "Idempotency-Key"

UNDELIVERED_S = 60.0
"""How long a lost response can be repeated. fal's clients retry within seconds."""

OF_KEY = f"""
-- name: find_by_key
SELECT {COLUMNS}, r.id IS NULL, k.body_digest
FROM idempotency_keys k LEFT JOIN ({SOURCE}) ON r.id = k.request_id
WHERE k.tenant = %(tenant)s AND k.endpoint = %(endpoint)s AND k.key = %(key)s
"""
NOTE = """
-- name: note_undelivered
INSERT INTO undelivered (request_id, api_key, body_digest)
VALUES (%(id)s::uuid, %(key)s, %(body)s)
ON CONFLICT (request_id) DO UPDATE SET at = now()
"""
# Two repeats that arrive together take one row each: the row taken by the other is locked or gone.
TAKE = f"""
-- name: take_undelivered
WITH lost AS (
    SELECT request_id FROM undelivered
    WHERE api_key = %(key)s AND body_digest = %(body)s
      AND at > now() - make_interval(secs => %(within_s)s)
    ORDER BY at LIMIT 1
    FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM undelivered u USING lost WHERE u.request_id = lost.request_id
    RETURNING u.request_id
)
SELECT {COLUMNS} FROM {SOURCE}
WHERE r.id = (SELECT request_id FROM taken) AND r.tenant = %(tenant)s
"""
FORGET = "DELETE FROM undelivered WHERE at < now() - make_interval(secs => %(within_s)s)"


class IdempotencyKeys:
    """Find the earlier request of a repeated submit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, new: NewRequest) -> StoredRequest | None:
        """Request stored under the idempotency key of ``new``, or None. Raises ``InvalidInput`` if
        its body was different.
        """
        if new.idempotency_key is None:
            return None
        params = {"tenant": new.tenant, "endpoint": new.endpoint, "key": new.idempotency_key}
        row = await self._database.row(OF_KEY, params)
        if not row:
            return None
        *columns, is_deleted, digest = row
        if bytes(digest) != new.body_digest:
            raise another_body()
        if is_deleted:
            raise request_deleted_error()
        return request_from_row(columns)

    async def record_undelivered(self, new: NewRequest, request_id: str) -> None:
        """Note that the response about ``request_id`` did not reach its client."""
        params = {"id": known_id(request_id), "key": new.replay_key, "body": new.body_digest}
        await self._database.rows(NOTE, params)

    async def take_undelivered(self, new: NewRequest) -> StoredRequest | None:
        """Take a request of the same body and API key whose response was lost within the last
        ``UNDELIVERED_S`` seconds.
        """
        if new.replay_key is None:
            return None
        params = {
            "tenant": new.tenant,
            "key": new.replay_key,
            "body": new.body_digest,
            "within_s": UNDELIVERED_S,
        }
        row = await self._database.row(TAKE, params)
        return request_from_row(row) if row else None

    async def forget_undelivered(self) -> None:
        """Delete lost responses that are too old to be repeated."""
        await self._database.rows(FORGET, {"within_s": UNDELIVERED_S})


def request_deleted_error() -> RequestDeleted:
    return RequestDeleted(
        f"The request with this {HEADER} was deleted: send a new key to run it again."
    )


def another_body() -> InvalidInput:
    message = (
        f"This {HEADER} was already used with another body: send the same body again, or a new key"
    )
    problem = FieldProblem(("header", HEADER), message, "idempotency_key_reuse")
    return InvalidInput(f"{message}.", (problem,))
