"""Deletions of tenants: asked for here, done by a job of the queue."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, LiteralString, Protocol

from pydantic import Field

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.jobs.postgres import RESTART
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database

COUNTED_TO = 10_000
GRACE_S = 15.0
"""Time from the call until anything is deleted: until then another ingress process may accept the
tenant's keys, which it checked before."""


class UsageKept(StrEnum):
    """What is kept of the usage of a deleted tenant: sums by day and endpoint, or nothing."""

    NAMED = "named"  # under its name, by key
    ANONYMOUS = "anonymous"  # under a random name
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class TenantDeletion:
    """Deletion of a tenant. It goes on by itself, also after a restart."""

    tenant: str
    asked_at: datetime
    actor: Annotated[str, Field(description="Id of the key that asked for it.")]
    usage_kept_as: Annotated[
        str | None,
        Field(description="Name of its sums of usage. Null: none are kept, or without a name."),
    ]
    ended_at: Annotated[datetime | None, Field(description="Null: it is under way.")]
    left: Annotated[
        Mapping[str, int], Field(description=f"What is left, counted up to {COUNTED_TO}.")
    ]


class TenantDeletions(Protocol):
    async def ask(self, tenant: str, usage: UsageKept, actor: Actor) -> TenantDeletion | None:
        """Disable a tenant and begin its deletion, in one transaction with the audit log. One that
        is under way goes on as it is. None: there is no such tenant."""
        ...

    async def find(self, tenant: str) -> TenantDeletion | None:
        """Latest deletion of a tenant; None: there was none."""
        ...


def kept_name(tenant: str, usage: UsageKept, at: datetime) -> str | None:
    """Tenant of the sums that are kept. Its colon is in no name that a tenant may have, so no later
    tenant of the name sees them."""
    if usage is UsageKept.NOTHING:
        return None
    if usage is UsageKept.ANONYMOUS:
        return f"deleted:{secrets.token_hex(6)}"
    return f"deleted:{tenant}:{at:%Y-%m-%dT%H:%M:%S}"


ASK: LiteralString = f"""
-- name: delete_tenant
WITH target AS (SELECT id FROM tenants WHERE id = %(tenant)s FOR UPDATE),
asked AS (
    INSERT INTO tenant_deletions AS d (tenant, asked_at, actor, kept_as)
    SELECT id, %(now)s, %(actor)s, %(kept_as)s FROM target
    ON CONFLICT (tenant) DO UPDATE SET asked_at = excluded.asked_at, actor = excluded.actor,
        kept_as = excluded.kept_as, ended_at = NULL
    WHERE d.ended_at IS NOT NULL
    RETURNING d.tenant
),
put AS (
    INSERT INTO jobs (kind, key, due_at)
    SELECT 'tenant', tenant, now() + make_interval(secs => %(grace_s)s) FROM asked {RESTART}
),
disabled AS (
    UPDATE tenants t SET disabled_at = coalesce(t.disabled_at, %(now)s),
        changed_at = clock_timestamp()
    FROM target WHERE t.id = target.id
)
{insert_audit("tenant", "asked")}
"""
FIND: LiteralString = """
SELECT d.tenant, d.asked_at, d.actor,
       CASE WHEN d.kept_as LIKE 'deleted:' || d.tenant || ':' || chr(37) THEN d.kept_as END,
       d.ended_at,
       (SELECT count(*) FROM (SELECT FROM requests r WHERE r.tenant = d.tenant
                              LIMIT %(most)s) x),
       (SELECT count(*) FROM (SELECT FROM uploads u WHERE u.tenant = d.tenant LIMIT %(most)s) x),
       (SELECT count(*) FROM (SELECT FROM usage u WHERE u.tenant = d.tenant LIMIT %(most)s) x),
       (SELECT count(*) FROM api_keys k WHERE k.tenant = d.tenant)
FROM tenant_deletions d WHERE d.tenant = %(tenant)s
"""
LEFT: tuple[str, ...] = ("requests", "uploads", "usage_lines", "keys")


class PostgresTenantDeletions:
    """Implements ``TenantDeletions``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def ask(self, tenant: str, usage: UsageKept, actor: Actor) -> TenantDeletion | None:
        now = self._clock.now()
        params = {
            "tenant": tenant,
            "now": now,
            "kept_as": kept_name(tenant, usage, now),
            "grace_s": GRACE_S,
            **audit_params(actor, "tenant.delete", usage=str(usage)),
        }
        await self._database.rows(ASK, params)
        deletion = await self.find(tenant)
        return None if deletion is None or deletion.ended_at is not None else deletion

    async def find(self, tenant: str) -> TenantDeletion | None:
        row = await self._database.row(FIND, {"tenant": tenant, "most": COUNTED_TO})
        if not row:
            return None
        *fields, requests, uploads, usage, keys = row
        counts: dict[str, int] = dict(zip(LEFT, (requests, uploads, usage, keys), strict=True))
        return TenantDeletion(*fields, left=counts)
