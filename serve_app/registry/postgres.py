"""Registered weights in PostgreSQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor
from serve_app.jobs.jobs import Job
from serve_app.jobs.postgres import HELD, RESTART, lease_params, put_files
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock
from serve_app.registry.records import (
    MAX_COUNTED,
    CheckedWeights,
    NewWeights,
    StoredWeightFile,
    TenantWeights,
    WeightQuota,
    WeightState,
    job_name,
    weights_in_use,
)

KEPT_S = 86_400.0
"""Seconds after the last use of a file until it is deleted: queued requests may name it."""

_COLUMNS: LiteralString = """
w.tenant, w.name, w.kind, w.base, w.base_weights, w.source, w.state, w.problem, w.size, w.done,
w.facts, w.endpoint, w.scale, w.public, w.created_at, w.changed_at,
(SELECT coalesce(json_agg(json_build_array(f.path, f.digest, f.size) ORDER BY f.path), '[]')
 FROM tenant_weight_files f WHERE f.tenant = w.tenant AND f.name = w.name)
"""
# Statements of one tenant run one after another, by a lock: each counts what others have stored.
ADD: LiteralString = f"""
-- name: add_weights
WITH mine AS (
    SELECT * FROM tenant_weights
    WHERE tenant = %(tenant)s AND NOT (name = %(name)s AND state = 'refused')
),
verdict AS (
    SELECT CASE
        WHEN EXISTS (SELECT FROM mine WHERE name = %(name)s) THEN 'exists'
        WHEN (SELECT count(*) FROM mine WHERE state NOT IN ('ready', 'refused'))
             >= %(max_unfinished)s::integer THEN 'unfinished'
        WHEN (SELECT coalesce(sum(size), 0) FROM mine WHERE state <> 'refused')
             >= %(max_bytes)s::bigint THEN 'bytes'
        WHEN %(endpoint)s::text IS NULL THEN ''
        WHEN (SELECT count(endpoint) FROM mine) >= %(max_endpoints)s::integer THEN 'endpoints'
        WHEN EXISTS (SELECT FROM tenant_weights WHERE endpoint = %(endpoint)s::text
                     AND NOT (tenant = %(tenant)s AND name = %(name)s)) THEN 'endpoint'
        ELSE '' END AS problem
),
added AS (
    INSERT INTO tenant_weights (tenant, name, kind, base, source, endpoint, scale, created_by)
    SELECT %(tenant)s, %(name)s, %(kind)s, %(base)s, %(source)s::jsonb, %(endpoint)s::text,
           %(scale)s::float8, %(actor)s FROM verdict WHERE problem = ''
    ON CONFLICT (tenant, name) DO UPDATE SET
        kind = excluded.kind, base = excluded.base, base_weights = '', source = excluded.source,
        endpoint = excluded.endpoint, scale = excluded.scale, state = 'waiting', problem = '',
        size = 0, done = 0, facts = '{{}}', public = false, created_at = now(),
        changed_at = clock_timestamp(), created_by = excluded.created_by
    RETURNING tenant, name
),
put AS (
    INSERT INTO jobs (kind, key, tenant)
    SELECT 'weights', tenant || '/' || name, tenant FROM added {RESTART}
),
noted AS ({insert_audit("tenant || '/' || name", "added")})
SELECT problem FROM verdict
"""
FIND: LiteralString = f"""
-- name: find_weights
SELECT {_COLUMNS} FROM tenant_weights w WHERE w.tenant = %(tenant)s AND w.name = %(name)s
"""
PAGE: LiteralString = f"""
-- name: list_weights
SELECT {_COLUMNS} FROM tenant_weights w
WHERE w.tenant = %(tenant)s OR (w.public AND w.state = 'ready')
ORDER BY w.tenant = %(tenant)s DESC, w.created_at DESC, w.tenant, w.name LIMIT %(limit)s::integer
"""
REMOVE: LiteralString = f"""
-- name: remove_weights
WITH unfinished AS (
    SELECT count(*) AS number FROM (
        SELECT FROM requests r JOIN tenant_weights w
            ON r.tenant = w.tenant AND r.endpoint = w.endpoint
        WHERE w.tenant = %(tenant)s AND w.name = %(name)s
            AND r.state IN ('queued', 'following', 'running') LIMIT %(max_counted)s::integer
    ) AS counted
),
removed AS (
    DELETE FROM tenant_weights WHERE tenant = %(tenant)s AND name = %(name)s
        AND (%(force)s::boolean OR (SELECT number FROM unfinished) = 0)
    RETURNING tenant, name
),
noted AS ({insert_audit("tenant || '/' || name", "removed")})
SELECT (SELECT number FROM unfinished), EXISTS (SELECT FROM removed)
"""
PUBLISH: LiteralString = f"""
WITH changed AS (
    UPDATE tenant_weights SET public = %(public)s::boolean, changed_at = clock_timestamp()
    WHERE tenant = %(tenant)s AND name = %(name)s AND state = 'ready' RETURNING tenant, name
),
noted AS ({insert_audit("tenant || '/' || name", "changed")})
SELECT name FROM changed
"""
USED: LiteralString = """
SELECT coalesce(sum(size), 0)::bigint FROM tenant_weights
WHERE tenant = %(tenant)s AND state <> 'refused'
"""
KEY_OF: LiteralString = """
-- name: weight_file
SELECT key FROM weight_files WHERE digest = %(digest)s AND stored
"""
VERSION: LiteralString = """
-- name: weights_version
SELECT coalesce(md5(string_agg(tenant || ' ' || name || ' ' || changed_at, ' '
                               ORDER BY tenant, name)), '')
FROM tenant_weights WHERE endpoint IS NOT NULL AND state = 'ready'
"""
ENDPOINTS: LiteralString = f"""
-- name: read_private_endpoints
SELECT {_COLUMNS} FROM tenant_weights w
WHERE w.endpoint IS NOT NULL AND w.state = 'ready' ORDER BY w.tenant, w.name
"""
_HELD: LiteralString = f"""
tenant = %(tenant)s AND name = %(name)s AND state IN ('waiting', 'fetching', 'checking')
AND EXISTS ({HELD})
"""
REPORT: LiteralString = f"""
-- name: report_weights
UPDATE tenant_weights w SET state = %(state)s, done = %(done)s::bigint,
    changed_at = clock_timestamp()
WHERE {_HELD} RETURNING {_COLUMNS}
"""
RESERVE: LiteralString = f"""
-- name: reserve_weights
UPDATE tenant_weights SET size = %(size)s::bigint
WHERE {_HELD} AND %(size)s::bigint + (
    SELECT coalesce(sum(o.size), 0) FROM tenant_weights o
    WHERE o.tenant = %(tenant)s AND o.name <> %(name)s AND o.state <> 'refused'
) <= %(max_bytes)s::bigint
RETURNING name
"""
ADOPT: LiteralString = """
-- name: adopt_weight_file
INSERT INTO weight_files (digest, key, size) VALUES (%(digest)s, %(key)s, %(size)s::bigint)
ON CONFLICT (digest) DO UPDATE SET touched_at = now() RETURNING key
"""
ACCEPT: LiteralString = f"""
-- name: accept_weights
WITH accepted AS (
    UPDATE tenant_weights SET state = 'ready', kind = %(kind)s, problem = '',
        base_weights = %(base_weights)s, facts = %(facts)s::jsonb, changed_at = clock_timestamp()
    WHERE {_HELD} RETURNING tenant, name
),
given AS (
    SELECT * FROM json_to_recordset(%(files)s::json) AS x(path text, digest text, size bigint)
),
stored AS (
    UPDATE weight_files f SET stored = true, touched_at = now()
    FROM given g, accepted a WHERE f.digest = g.digest
)
INSERT INTO tenant_weight_files (tenant, name, path, digest, size)
SELECT a.tenant, a.name, g.path, g.digest, g.size FROM accepted a, given g RETURNING name
"""
REFUSE: LiteralString = f"""
-- name: refuse_weights
UPDATE tenant_weights SET state = 'refused', problem = %(problem)s, size = 0,
    changed_at = clock_timestamp()
WHERE {_HELD}
"""
COLLECT: LiteralString = f"""
-- name: collect_weights
WITH gone AS (
    DELETE FROM weight_files f WHERE f.touched_at < now() - make_interval(secs => %(kept_s)s)
        AND NOT EXISTS (SELECT FROM tenant_weight_files u WHERE u.digest = f.digest)
    RETURNING f.key
)
{put_files("gone")}
"""


class PostgresWeightBook:
    """Implements ``WeightBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewWeights, quota: WeightQuota, actor: Actor) -> str:
        params = {
            "tenant": new.tenant,
            "name": new.name,
            "kind": new.kind,
            "base": new.base,
            "source": json.dumps(dict(new.source)),
            "endpoint": new.endpoint,
            "scale": new.scale,
            "max_bytes": quota.max_bytes,
            "max_endpoints": quota.max_endpoints,
            "max_unfinished": quota.max_unfinished,
            **audit_params(
                actor,
                "weights.add",
                tenant=new.tenant,
                base=new.base,
                source=dict(new.audited_source),
            ),
        }
        locks = [new.tenant] if new.endpoint is None else [new.tenant, new.endpoint]
        problem = await self._database.value(ADD, params, lock=_lock(*locks))
        return str(problem)

    async def find(self, tenant: str, name: str) -> TenantWeights | None:
        weights = await self._rows(FIND, {"tenant": tenant, "name": name})
        return weights[0] if weights else None

    async def page(self, tenant: str, limit: int) -> Sequence[TenantWeights]:
        return await self._rows(PAGE, {"tenant": tenant, "limit": limit})

    async def remove(self, tenant: str, name: str, actor: Actor, *, force: bool = False) -> bool:
        params = {
            "tenant": tenant,
            "name": name,
            "force": force,
            "max_counted": MAX_COUNTED,
            **audit_params(actor, "weights.remove", tenant=tenant),
        }
        ((unfinished, removed),) = await self._database.rows(REMOVE, params)
        if unfinished and not removed:
            raise weights_in_use(name, unfinished)
        return bool(removed)

    async def publish(self, tenant: str, name: str, actor: Actor, *, public: bool) -> bool:
        action = "weights.publish" if public else "weights.unpublish"
        noted = audit_params(actor, action, tenant=tenant)
        params = {"tenant": tenant, "name": name, "public": public, **noted}
        return bool(await self._database.rows(PUBLISH, params))

    async def used_bytes(self, tenant: str) -> int:
        used = await self._database.value(USED, {"tenant": tenant})
        return int(used)

    async def key_of(self, digest: str) -> str | None:
        return await self._database.value(KEY_OF, {"digest": digest})

    async def version(self) -> str:
        version = await self._database.value(VERSION)
        return str(version)

    async def endpoints(self) -> Sequence[TenantWeights]:
        return await self._rows(ENDPOINTS, {})

    async def report(self, job: Job, state: WeightState, done: int) -> TenantWeights | None:
        params = {**_job_params(job), "state": str(state), "done": done}
        weights = await self._rows(REPORT, params)
        return weights[0] if weights else None

    async def reserve(self, job: Job, size: int, max_bytes: int) -> bool:
        params = {**_job_params(job), "size": size, "max_bytes": max_bytes}
        return bool(await self._database.rows(RESERVE, params, lock=_lock(job.tenant)))

    async def adopt(self, digest: str, key: str, size: int) -> str:
        params = {"digest": digest, "key": key, "size": size}
        kept = await self._database.value(ADOPT, params)
        return str(kept)

    async def accept(self, job: Job, checked: CheckedWeights) -> bool:
        files = [
            {"path": file.path, "digest": file.digest, "size": file.size} for file in checked.files
        ]
        params = {
            **_job_params(job),
            "kind": checked.kind,
            "base_weights": checked.base_weights,
            "facts": json.dumps(dict(checked.facts)),
            "files": json.dumps(files),
        }
        return bool(await self._database.rows(ACCEPT, params))

    async def refuse(self, job: Job, problem: str) -> None:
        await self._database.rows(REFUSE, {**_job_params(job), "problem": problem})

    async def collect(self) -> None:
        await self._database.rows(COLLECT, {"kept_s": KEPT_S})

    async def _rows(self, sql: LiteralString, params: dict[str, Any]) -> Sequence[TenantWeights]:
        return [_weights(row) for row in await self._database.rows(sql, params)]


def _weights(row: Sequence[Any]) -> TenantWeights:
    *values, files = row
    weights = TenantWeights(*values, files=tuple(StoredWeightFile(*file) for file in files))
    return replace(weights, state=WeightState(weights.state))


def _job_params(job: Job) -> dict[str, Any]:
    tenant, name = job_name(job)
    return {**lease_params(job), "tenant": tenant, "name": name}


def _lock(*names: str) -> Lock:
    digests = (hashlib.sha256(f"weights {name}".encode()).digest() for name in names)
    return Lock([int.from_bytes(digest[:8], "big", signed=True) for digest in digests])
