"""The audit log in PostgreSQL: reading it, sealing its entries into a chain of hashes, and deleting
old ones.

Entries are written by the transactions of the acts. Their ids are drawn before the commit, so they
are neither dense nor in the order of commits. Sealing gives each committed entry the next place of
the chain; an entry with a lower id that commits later gets a later place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.audit.acts import Act
from serve_app.domain.audit.chain import FIRST_PREVIOUS, SealedAct
from serve_app.postgres.database import Database, Lock
from serve_app.queue.store import messages
from serve_app.queue.store.config import DAY_S, Retention

SEAL_EVERY_S = 1.0
SEAL_LOCK = 0x7365616C
SEAL_BATCH = 500
PRUNE_BATCH = 1000
MAX_BATCHES = 500  # in one round

AUDIT = """
-- name: show_audit
SELECT id, at, actor, action, subject, coalesce(detail, '{}'::json), address FROM audit
WHERE id < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY id DESC LIMIT %(limit)s
"""
AUDIT_OF_TENANT = """
-- name: show_audit_of_tenant
SELECT id, at, actor, action, subject, coalesce(detail, '{}'::json),
       CASE WHEN EXISTS (SELECT FROM api_keys k WHERE k.id = audit.actor AND k.tenant = %(tenant)s)
            THEN address ELSE '' END
FROM audit
WHERE tenant = %(tenant)s AND tenant <> ''
  AND id < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY id DESC LIMIT %(limit)s
"""
_CHAINED = """
    a.sequence, a.id, a.at, a.actor, a.address, a.action, a.subject,
    coalesce(a.detail, '{}'::json), a.tenant, a.previous, a.hash
FROM audit a WHERE a.sequence IS NOT NULL
"""
TAIL = f"""
-- name: audit_tail
SELECT {_CHAINED} ORDER BY a.sequence DESC LIMIT 1
"""
CHAIN = f"""
-- name: export_audit
SELECT {_CHAINED} AND a.sequence > %(after)s ORDER BY a.sequence LIMIT %(limit)s
"""
# The tenant that the act is about. A request that is gone already leaves it empty: then operators
# alone see the entry.
UNSEALED = """
-- name: unsealed_audit
SELECT 0, a.id, a.at, a.actor, a.address, a.action, a.subject, coalesce(a.detail, '{}'::json),
    coalesce(
        CASE WHEN starts_with(a.action, 'tenant.') OR a.action IN ('safety.input', 'budget.warning')
             THEN a.subject END,
        CASE WHEN json_typeof(a.detail) = 'object' THEN a.detail ->> 'tenant' END,
        CASE WHEN (starts_with(a.action, 'request.')
                   OR a.action IN ('webhook.redeliver', 'safety.output'))
                  AND a.subject ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
             THEN (SELECT r.tenant FROM requests r WHERE r.id = a.subject::uuid) END,
        ''), '', ''
FROM audit a WHERE a.sequence IS NULL ORDER BY a.id LIMIT %(most)s
"""
# Nothing is sealed if another process was faster, or if an entry is gone.
SEAL = """
-- name: seal_audit
WITH given AS (
    SELECT * FROM json_to_recordset(%(acts)s::json)
        AS x(id bigint, sequence bigint, tenant text, previous text, hash text)
),
held AS MATERIALIZED (
    SELECT a.id FROM audit a JOIN given g ON g.id = a.id WHERE a.sequence IS NULL
    FOR NO KEY UPDATE OF a
)
UPDATE audit a
SET sequence = g.sequence, tenant = g.tenant, previous = g.previous, hash = g.hash
FROM given g
WHERE a.id = g.id AND (SELECT count(*) FROM held) = (SELECT count(*) FROM given)
  AND coalesce((SELECT max(t.sequence) FROM audit t WHERE t.sequence IS NOT NULL), 0) = %(after)s
RETURNING a.id
"""
PRUNE = """
-- name: delete_audit
SELECT prune_audit(%(age_s)s::float8, %(most)s::integer)
"""


class PostgresAuditLog:
    """Reads, seals and prunes the audit log. Any number of processes may do each at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, before: int | None = None, limit: int = 50, tenant: str | None = None
    ) -> Sequence[Act]:
        """Entries, newest first. ``tenant``: only those about it, once they are sealed, without the
        addresses of others; None: all."""
        params = {"before": before, "limit": limit, "tenant": tenant}
        rows = await self._database.rows(AUDIT if tenant is None else AUDIT_OF_TENANT, params)
        return [Act(*row) for row in rows]

    async def chain(self, after: int = 0, limit: int = 500) -> Sequence[SealedAct]:
        """Entries in the order of the chain, after a place in it."""
        rows = await self._database.rows(CHAIN, {"after": after, "limit": limit})
        return [SealedAct(*row) for row in rows]

    async def tail(self) -> SealedAct | None:
        """Last entry of the chain."""
        row = await self._database.row(TAIL)
        return SealedAct(*row) if row else None

    async def seal(self) -> SealedAct | None:
        """Seal what is committed and not sealed yet. Returns the last entry of the chain."""
        while True:
            tail = await self.tail()
            rows = await self._database.rows(UNSEALED, {"most": SEAL_BATCH})
            if not rows:
                return tail
            acts = chain_acts(tail, [SealedAct(*row) for row in rows])
            records = [
                {name: getattr(act, name) for name in ("id", "sequence", *_SEALED_NAMES)}
                for act in acts
            ]
            after = 0 if tail is None else tail.sequence
            params: dict[str, Any] = {"acts": messages.compact(records), "after": after}
            await self._database.rows(SEAL, params, lock=Lock((SEAL_LOCK,)))

    async def prune(self, retention: Retention) -> None:
        """Seal all entries, then delete those whose retention is over, in small statements and
        ``MAX_BATCHES`` at most. Each leaves a checkpoint in the chain."""
        if retention.audit_days is None:
            return
        await self.seal()
        params = {"age_s": retention.audit_days * DAY_S, "most": PRUNE_BATCH}
        for _ in range(MAX_BATCHES):
            gone = await self._database.value(PRUNE, params, lock=Lock((SEAL_LOCK,)))
            if gone == 0:
                break


_SEALED_NAMES = ("tenant", "previous", "hash")


def chain_acts(tail: SealedAct | None, acts: Sequence[SealedAct]) -> Sequence[SealedAct]:
    """Continue a chain after ``tail``; None: begin it."""
    sequence, previous = (0, FIRST_PREVIOUS) if tail is None else (tail.sequence, tail.hash)
    sealed: list[SealedAct] = []
    for act in acts:
        sequence += 1
        placed = replace(act, sequence=sequence, previous=previous)
        sealed.append(replace(placed, hash=placed.computed_hash))
        previous = sealed[-1].hash
    return sealed
