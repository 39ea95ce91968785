"""Submits that were made before: each is answered with the request that it made then."""

from __future__ import annotations

from serve_app.domain.errors import FieldProblem, InvalidInput, RequestDeleted
from serve_app.domain.request import NewRequest
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, SOURCE, Stored, stored

HEADER = "Idempotency-Key"

UNDELIVERED_S = 60.0
"""For so long an answer that was lost is given again. fal's clients try again within seconds."""

OF_KEY = f"""
SELECT {COLUMNS}, r.deleted_at, r.body_digest FROM {SOURCE}
WHERE r.tenant = %(tenant)s AND r.endpoint = %(endpoint)s AND r.idempotency_key = %(key)s
"""
NOTE = """
INSERT INTO undelivered (request_id, api_key, body_digest)
VALUES (%(id)s::uuid, %(key)s, %(body)s)
ON CONFLICT (request_id) DO UPDATE SET at = now()
"""
# Two that come at once take one each: what the other has just taken is locked or gone.
TAKE = f"""
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


class Repeats:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, new: NewRequest) -> Stored | None:
        """What was stored under the key of ``new``. ``InvalidInput`` if its body was another."""
        if new.idempotency_key is None:
            return None
        params = {"tenant": new.tenant, "endpoint": new.endpoint, "key": new.idempotency_key}
        rows = await self._database.rows(OF_KEY, params)
        if not rows:
            return None
        if bytes(rows[0][-1]) != new.body_digest:
            raise another_body()
        if rows[0][-2] is not None:
            raise deleted()
        return stored(rows[0])

    async def note_undelivered(self, new: NewRequest, request_id: str) -> None:
        params = {"id": request_id, "key": new.replay_key, "body": new.body_digest}
        await self._database.rows(NOTE, params)

    async def take_undelivered(self, new: NewRequest) -> Stored | None:
        """A request of the same body and API key whose answer was lost a moment ago."""
        if new.replay_key is None:
            return None
        params = {
            "tenant": new.tenant,
            "key": new.replay_key,
            "body": new.body_digest,
            "within_s": UNDELIVERED_S,
        }
        rows = await self._database.rows(TAKE, params)
        return stored(rows[0]) if rows else None

    async def forget_undelivered(self) -> None:
        """Drop what is too old to be given again."""
        await self._database.rows(FORGET, {"within_s": UNDELIVERED_S})


def deleted() -> RequestDeleted:
    return RequestDeleted(
        f"The request of this {HEADER} was deleted: to have it made again, send a new key."
    )


def another_body() -> InvalidInput:
    message = (
        f"This {HEADER} was sent before with another body: send the same body again, or a new key"
    )
    return InvalidInput(f"{message}.", (FieldProblem(("header", HEADER), message, "value_error"),))
