"""Tenants: their names, their own limits, and whether they are disabled, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString, Protocol
from urllib.parse import urlsplit

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database

MAX_TENANTS = 1000
"""Tenants that a list has."""

Limits = Mapping[str, Any]
"""Limits of a tenant by the names of ``TenantLimits``; only those that an operator has set."""


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """Tenant. A key for a tenant that does not exist creates it."""

    id: str
    created_at: datetime
    valid_keys: int = 0  # neither revoked nor expired
    name: str = ""  # for people; empty: the id
    disabled_at: datetime | None = None  # None: enabled
    limits: Limits = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class TenantChange:
    """Change of a tenant. None: unchanged. ``limits``: None as a value removes one."""

    name: str | None = None
    limits: Limits = field(default_factory=dict[str, Any])
    disabled: bool | None = None


class Tenants(Protocol):
    """All tenants. Each change and its audit entry are written in one transaction."""

    async def version(self) -> str:
        """Text that differs after each change of limits or of what is disabled."""
        ...

    async def special(self) -> Sequence[TenantInfo]:
        """Tenants with limits of their own and disabled ones, without the number of their keys."""
        ...

    async def list(self) -> Sequence[TenantInfo]:
        """All tenants by id, at most ``MAX_TENANTS``."""
        ...

    async def find(self, tenant: str) -> TenantInfo | None: ...

    async def create(self, tenant: str, name: str, limits: Limits, actor: Actor) -> bool:
        """Create a tenant. Returns False if it exists, and changes nothing then."""
        ...

    async def change(self, tenant: str, change: TenantChange, actor: Actor) -> TenantInfo | None:
        """Change a tenant and return it as it is now; None if it does not exist."""
        ...


# The order of a table is not defined, and a tenant that was deleted leaves no trace of its time.
VERSION: LiteralString = """
-- name: tenants_version
SELECT coalesce(md5(string_agg(id || ' ' || changed_at, ' ' ORDER BY id)), '') FROM tenants
WHERE limits <> '{}' OR disabled_at IS NOT NULL
"""
SPECIAL: LiteralString = """
-- name: read_tenants
SELECT id, created_at, 0, name, disabled_at, limits FROM tenants
WHERE limits <> '{}' OR disabled_at IS NOT NULL ORDER BY id
"""
LIST: LiteralString = """
SELECT t.id, t.created_at,
       count(k.id) FILTER (
           WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > %(now)s)),
       t.name, t.disabled_at, t.limits
FROM tenants t LEFT JOIN api_keys k ON k.tenant = t.id
WHERE %(only)s::text IS NULL OR t.id = %(only)s
GROUP BY t.id ORDER BY t.id LIMIT %(most)s
"""
CREATE: LiteralString = f"""
WITH made AS (
    INSERT INTO tenants (id, name, limits, created_at, changed_at)
    VALUES (%(id)s, %(name)s, %(limits)s::jsonb, %(now)s, clock_timestamp())
    ON CONFLICT (id) DO NOTHING RETURNING id
),
noted AS ({insert_audit("id", "made")})
SELECT id FROM made
"""
# A tenant that is disabled twice keeps its first time. While there is no budget, what is spent is
# not added up: the next request under a changed one counts its period anew, as of another unit.
CHANGE: LiteralString = f"""
WITH changed AS (
    UPDATE tenants SET
        name = coalesce(%(name)s::text, name),
        limits = jsonb_strip_nulls(limits || %(limits)s::jsonb),
        disabled_at = CASE WHEN %(disabled)s::boolean IS NULL THEN disabled_at
                           WHEN %(disabled)s::boolean THEN coalesce(disabled_at, %(now)s) END,
        changed_at = clock_timestamp()
    WHERE id = %(id)s RETURNING id
),
counted_anew AS (
    UPDATE tenant_quotas SET unit = 'changed'
    WHERE unit <> '' AND %(limits)s::jsonb ? 'budget' AND tenant IN (SELECT id FROM changed)
)
{insert_audit("id", "changed")}
"""


def action_of(change: TenantChange) -> str:
    """Name of a change in the audit log."""
    if change.disabled is None:
        return "tenant.change"
    return "tenant.disable" if change.disabled else "tenant.enable"


def detail_of(change: TenantChange) -> Mapping[str, Any]:
    """Details of a change in the audit log."""
    named = {} if change.name is None else {"name": change.name}
    return named | ({"limits": limits_for_audit(change.limits)} if change.limits else {})


def limits_for_audit(limits: Limits) -> Mapping[str, Any]:
    """``limits`` for the audit log, from which nothing is deleted: of the URL of a webhook, which
    may contain a password, only the host."""
    budget = limits.get("budget")
    if not budget or not budget.get("webhook"):
        return dict(limits)
    host = urlsplit(budget["webhook"]).hostname
    return {**limits, "budget": {**budget, "webhook": host}}


class PostgresTenants:
    """Implements ``Tenants``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def version(self) -> str:
        version = await self._database.value(VERSION)
        return str(version)

    async def special(self) -> Sequence[TenantInfo]:
        return [TenantInfo(*row) for row in await self._database.rows(SPECIAL)]

    async def list(self) -> Sequence[TenantInfo]:
        return await self._infos(None)

    async def find(self, tenant: str) -> TenantInfo | None:
        return next(iter(await self._infos(tenant)), None)

    async def create(self, tenant: str, name: str, limits: Limits, actor: Actor) -> bool:
        name = name or tenant
        params = {
            "id": tenant,
            "name": name,
            "limits": json.dumps(limits),
            "now": self._clock.now(),
            **audit_params(actor, "tenant.create", name=name, limits=limits_for_audit(limits)),
        }
        return bool(await self._database.rows(CREATE, params))

    async def change(self, tenant: str, change: TenantChange, actor: Actor) -> TenantInfo | None:
        params = {
            "id": tenant,
            "name": change.name,
            "limits": json.dumps(change.limits),
            "disabled": change.disabled,
            "now": self._clock.now(),
            **audit_params(actor, action_of(change), **detail_of(change)),
        }
        await self._database.rows(CHANGE, params)
        return await self.find(tenant)

    async def _infos(self, only: str | None) -> Sequence[TenantInfo]:
        params = {"most": MAX_TENANTS, "now": self._clock.now(), "only": only}
        return [TenantInfo(*row) for row in await self._database.rows(LIST, params)]
