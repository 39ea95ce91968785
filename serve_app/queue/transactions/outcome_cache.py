"""Outcome cache: earlier outcomes are reused for requests with the same input."""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain.outcome import Usage
from serve_app.domain.request import NewRequest
from serve_app.postgres.database import Database, Lock
from serve_app.queue.store import messages, rows
from serve_app.queue.store.billing import BILL_COLUMNS, bill
from serve_app.queue.store.rows import COLUMNS, SOURCE, StoredRequest, request_from_row
from serve_app.queue.transactions.deletion import OUTCOME_LOCK
from serve_app.queue.transactions.insert import EncodedInput, columns_of

# The newest: if it has lost its artifacts, the next computed one becomes the newest. The artifacts
# are not counted inside the outcome here: PostgreSQL cannot look into JSON that has a NUL in it.
FIND = """
-- name: find_outcome
SELECT r.id::text, r.outcome,
       (SELECT count(*) FROM artifacts a
        WHERE a.request_id = r.id AND a.thumbnail_of IS NULL)
FROM requests r
WHERE r.tenant = %(tenant)s AND r.reuse_digest = %(digest)s AND r.state = 'succeeded'
ORDER BY r.id DESC LIMIT 1
"""
# Stored as a request that ends in the same statement, with its events and an empty usage line.
STORE = f"""
-- name: store_reused
WITH whole AS MATERIALIZED (
    SELECT WHERE (SELECT count(*) FROM artifacts
                  WHERE request_id = %(reuses)s::uuid AND thumbnail_of IS NULL) = %(kept)s
),
keyed AS (
    INSERT INTO idempotency_keys (tenant, endpoint, key, request_id, body_digest)
    SELECT %(tenant)s, %(endpoint)s, %(key)s::text, %(id)s::uuid, %(body)s FROM whole
    WHERE %(key)s::text IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING request_id
),
kept AS (
    INSERT INTO requests (
        id, tenant, endpoint, endpoint_digest, pool, priority, input, shown, alone, webhook_url,
        call, reuses, state, outcome, started_at, finished_at, events, key_id, price)
    SELECT
        %(id)s::uuid, %(tenant)s, %(endpoint)s, %(digest)s, %(pool)s, %(priority)s,
        %(input)s::text::json, %(shown)s::text::json, %(alone)s,
        %(webhook)s, %(call)s::jsonb, %(reuses)s::uuid, 'succeeded',
        %(outcome)s::text::json, now(), now(), 1 + cardinality(%(warnings)s::text[]),
        %(key_id)s, %(price)s::jsonb
    FROM whole WHERE %(key)s::text IS NULL OR EXISTS (SELECT FROM keyed)
    RETURNING id, tenant, endpoint, events, webhook_url, key_id, price, reserved, created_at
),
searched AS (
    INSERT INTO request_words (tenant, request_id, words)
    SELECT tenant, id, %(words)s::text::tsvector FROM kept WHERE %(words)s::text IS NOT NULL
),
notified AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT k.id, w.place, 'WARNING', NULL, w.message
    FROM kept k CROSS JOIN LATERAL
        unnest(%(warnings)s::text[]) WITH ORDINALITY AS w(message, place)
    UNION ALL
    SELECT id, events, 'INFO', 'succeeded', %(message)s FROM kept
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units,
        {BILL_COLUMNS})
    SELECT id, tenant, endpoint, 'succeeded', 0, 0, 0, 0,
           {bill()}
    FROM kept
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM kept WHERE webhook_url IS NOT NULL
)
SELECT id::text FROM kept
"""
READ = f"SELECT {COLUMNS} FROM {SOURCE} WHERE r.id = %(id)s::uuid"


class OutcomeCache:
    """Reuse stored outcomes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store_reused(self, new: NewRequest) -> StoredRequest | None:
        """Store ``new`` with an existing outcome. None if there is none, or if ``new`` is a
        repeat.
        """
        if not new.reuse_digest:
            return None
        lookup = {"tenant": new.tenant, "digest": new.reuse_digest}
        row = await self._database.row(FIND, lookup)
        if not row:
            return None
        earlier, outcome, kept = row
        reused = replace(rows.outcome_from_json(outcome), usage=Usage())
        if kept != len(reused.artifacts):
            return None  # some were deleted
        columns = columns_of(new, EncodedInput(new.input))
        params = columns | {
            "body": new.body_digest or None,
            "reuses": earlier,
            "outcome": messages.compact(rows.outcome_to_json(reused)),
            "message": messages.reuse(earlier),
            "kept": kept,
            "price": columns["price"] and messages.compact(columns["price"]),
            "call": columns["call"] and messages.compact(columns["call"]),
        }
        # The files are not deleted until the request is stored.
        if not await self._database.rows(STORE, params, lock=Lock((OUTCOME_LOCK,), shared=True)):
            return None
        (row,) = await self._database.rows(READ, {"id": new.id})
        return request_from_row(row)
