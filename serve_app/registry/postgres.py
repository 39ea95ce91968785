"""Registered weights in PostgreSQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor
from serve_app.postgres.database import Database, Lock
from serve_app.registry.records import (
    MAX_COUNTED,
    CheckedWeights,
    NewWeights,
    StoredWeightFile,
    TenantWeights,
    WeightQuota,
    WeightState,
    still_used,
)

MAX_TRIES = 3
"""Processes that may end while they check the same weights."""
KEPT_S = 86_400.0
"""Seconds after the last use of a file until it is deleted: queued requests may name it."""

TRIED_TOO_OFTEN = (
    "Three processes ended while they checked these weights: the file may need more memory than "
    "the server has. Ask the operator to look at the log."
)

_COLUMNS: LiteralString = """
w.tenant, w.name, w.kind, w.base, w.base_weights, w.source, w.state, w.problem, w.size, w.done,
w.facts, w.endpoint, w.scale, w.public, w.created_at, w.changed_at,
(SELECT coalesce(json_agg(json_build_array(f.path, f.digest, f.size) ORDER BY f.path), '[]')
 FROM tenant_weight_files f WHERE f.tenant = w.tenant AND f.name = w.name)
"""
# Statements of one tenant run one after another, by a lock: each counts what others have stored.
ADD: LiteralString = """
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
        size = 0, done = 0, facts = '{}', tries = 0, worker = '', public = false, due_at = now(),
        created_at = now(), changed_at = clock_timestamp(), created_by = excluded.created_by
    RETURNING tenant, name, base
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'weights.add', tenant || '/' || name,
           json_build_object('tenant', tenant, 'base', base, 'source', %(audited)s::json)
    FROM added
)
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
REMOVE: LiteralString = """
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
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'weights.remove', tenant || '/' || name,
           json_build_object('tenant', tenant) FROM removed
)
SELECT (SELECT number FROM unfinished), EXISTS (SELECT FROM removed)
"""
PUBLISH: LiteralString = """
WITH changed AS (
    UPDATE tenant_weights SET public = %(public)s::boolean, changed_at = clock_timestamp()
    WHERE tenant = %(tenant)s AND name = %(name)s AND state = 'ready' RETURNING tenant, name
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s,
           CASE WHEN %(public)s::boolean THEN 'weights.publish' ELSE 'weights.unpublish' END,
           tenant || '/' || name, json_build_object('tenant', tenant) FROM changed
)
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
TAKE: LiteralString = f"""
-- name: take_weights
WITH due AS (
    SELECT tenant, name, tries FROM tenant_weights w
    WHERE state IN ('waiting', 'fetching', 'checking') AND due_at <= now()
        AND tenant <> ALL (%(except_of)s::text[])
    ORDER BY (
        SELECT count(*) FROM tenant_weights o WHERE o.tenant = w.tenant
            AND o.state IN ('fetching', 'checking') AND o.due_at > now()
    ), tries, due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE tenant_weights w SET
    state = CASE WHEN d.tries >= %(max_tries)s::integer THEN 'refused' ELSE 'fetching' END,
    problem = CASE WHEN d.tries >= %(max_tries)s::integer THEN %(gave_up)s ELSE '' END,
    size = CASE WHEN d.tries >= %(max_tries)s::integer THEN 0 ELSE w.size END,
    tries = w.tries + 1, worker = %(worker)s, done = 0, changed_at = clock_timestamp(),
    due_at = now() + make_interval(secs => %(lease_s)s)
FROM due d WHERE w.tenant = d.tenant AND w.name = d.name
RETURNING {_COLUMNS}
"""
_HELD: LiteralString = """
tenant = %(tenant)s AND name = %(name)s AND worker = %(worker)s
AND state IN ('fetching', 'checking')
"""
REPORT: LiteralString = f"""
-- name: report_weights
UPDATE tenant_weights SET state = %(state)s, done = %(done)s::bigint,
    due_at = now() + make_interval(secs => %(lease_s)s), changed_at = clock_timestamp()
WHERE {_HELD} RETURNING name
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
PUT_BACK: LiteralString = f"""
-- name: put_weights_back
UPDATE tenant_weights SET state = 'waiting', tries = tries - 1, worker = '', done = 0,
    due_at = now() + make_interval(secs => %(again_s)s), changed_at = clock_timestamp()
WHERE {_HELD}
RETURNING name
"""
REFUSE: LiteralString = f"""
-- name: refuse_weights
UPDATE tenant_weights SET state = 'refused', problem = %(problem)s, size = 0,
    changed_at = clock_timestamp()
WHERE {_HELD}
"""
COLLECT: LiteralString = """
-- name: collect_weights
WITH gone AS (
    DELETE FROM weight_files f WHERE f.touched_at < now() - make_interval(secs => %(kept_s)s)
        AND NOT EXISTS (SELECT FROM tenant_weight_files u WHERE u.digest = f.digest)
    RETURNING f.key
)
INSERT INTO jobs (kind, key, due_at) SELECT 'file', key, now() FROM gone
ON CONFLICT (kind, key) DO NOTHING
"""


class PostgresWeightBook:
    """Implements ``WeightBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewWeights, quota: WeightQuota, actor: Actor) -> str:
        given = {
            "tenant": new.tenant,
            "name": new.name,
            "kind": new.kind,
            "base": new.base,
            "source": json.dumps(dict(new.source)),
            "audited": json.dumps(dict(new.audited_source)),
            "endpoint": new.endpoint,
            "scale": new.scale,
            "max_bytes": quota.max_bytes,
            "max_endpoints": quota.max_endpoints,
            "max_unfinished": quota.max_unfinished,
            **_audited(actor),
        }
        locks = [new.tenant] if new.endpoint is None else [new.tenant, new.endpoint]
        ((problem,),) = await self._database.rows(ADD, given, lock=_lock(*locks))
        return str(problem)

    async def find(self, tenant: str, name: str) -> TenantWeights | None:
        found = await self._rows(FIND, {"tenant": tenant, "name": name})
        return found[0] if found else None

    async def page(self, tenant: str, limit: int) -> Sequence[TenantWeights]:
        return await self._rows(PAGE, {"tenant": tenant, "limit": limit})

    async def remove(self, tenant: str, name: str, actor: Actor, *, force: bool = False) -> bool:
        given = {"tenant": tenant, "name": name, "force": force, **_audited(actor)}
        given["max_counted"] = MAX_COUNTED
        ((unfinished, removed),) = await self._database.rows(REMOVE, given)
        if unfinished and not removed:
            raise still_used(name, unfinished)
        return bool(removed)

    async def publish(self, tenant: str, name: str, actor: Actor, *, public: bool) -> bool:
        given = {"tenant": tenant, "name": name, "public": public, **_audited(actor)}
        return bool(await self._database.rows(PUBLISH, given))

    async def used(self, tenant: str) -> int:
        ((used,),) = await self._database.rows(USED, {"tenant": tenant})
        return int(used)

    async def key_of(self, digest: str) -> str | None:
        rows = await self._database.rows(KEY_OF, {"digest": digest})
        return rows[0][0] if rows else None

    async def version(self) -> str:
        ((version,),) = await self._database.rows(VERSION)
        return str(version)

    async def endpoints(self) -> Sequence[TenantWeights]:
        return await self._rows(ENDPOINTS, {})

    async def take(
        self, worker: str, lease_s: float, except_of: Collection[str] = ()
    ) -> TenantWeights | None:
        given = {"worker": worker, "lease_s": lease_s, "except_of": [*except_of]}
        given |= {"max_tries": MAX_TRIES, "gave_up": TRIED_TOO_OFTEN}
        found = await self._rows(TAKE, given)
        return next((each for each in found if not each.state.final), None)

    async def report(
        self, job: TenantWeights, worker: str, state: WeightState, done: int, lease_s: float
    ) -> bool:
        given = {**_held(job, worker), "state": str(state), "done": done, "lease_s": lease_s}
        return bool(await self._database.rows(REPORT, given))

    async def reserve(self, job: TenantWeights, worker: str, size: int, max_bytes: int) -> bool:
        given = {**_held(job, worker), "size": size, "max_bytes": max_bytes}
        return bool(await self._database.rows(RESERVE, given, lock=_lock(job.tenant)))

    async def adopt(self, digest: str, key: str, size: int) -> str:
        given = {"digest": digest, "key": key, "size": size}
        ((kept,),) = await self._database.rows(ADOPT, given)
        return str(kept)

    async def accept(self, job: TenantWeights, worker: str, checked: CheckedWeights) -> bool:
        files = [
            {"path": each.path, "digest": each.digest, "size": each.size} for each in checked.files
        ]
        given = {
            **_held(job, worker),
            "kind": checked.kind,
            "base_weights": checked.base_weights,
            "facts": json.dumps(dict(checked.facts)),
            "files": json.dumps(files),
        }
        return bool(await self._database.rows(ACCEPT, given))

    async def refuse(self, job: TenantWeights, worker: str, problem: str) -> None:
        await self._database.rows(REFUSE, {**_held(job, worker), "problem": problem})

    async def put_back(self, job: TenantWeights, worker: str, again_s: float) -> None:
        await self._database.rows(PUT_BACK, {**_held(job, worker), "again_s": again_s})

    async def collect(self) -> None:
        await self._database.rows(COLLECT, {"kept_s": KEPT_S})

    async def _rows(self, sql: LiteralString, given: dict[str, Any]) -> Sequence[TenantWeights]:
        return [_weights(row) for row in await self._database.rows(sql, given)]


def _weights(row: Sequence[Any]) -> TenantWeights:
    *values, files = row
    values[6] = WeightState(values[6])
    return TenantWeights(*values, files=tuple(StoredWeightFile(*each) for each in files))


def _held(job: TenantWeights, worker: str) -> dict[str, Any]:
    return {"tenant": job.tenant, "name": job.name, "worker": worker}


def _audited(actor: Actor) -> dict[str, Any]:
    return {"actor": actor.key_id, "address": actor.address}


def _lock(*names: str) -> Lock:
    digests = (hashlib.sha256(f"weights {name}".encode()).digest() for name in names)
    return Lock([int.from_bytes(each[:8], "big", signed=True) for each in digests])
