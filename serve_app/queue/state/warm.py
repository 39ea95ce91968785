"""Warm targets in the database, and the weights that each replica should hold for them.

One ingress process decides what the replicas hold and writes it. Every process reads it once a
second, and passes it on in its replies to the replicas.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.lease import Ask, KeptWeights, LeaseTerms, Presence, Work
from serve_app.domain.operations import WarmTarget, WeightsLevel
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages

READ = """
-- name: read_warm_targets
SELECT endpoint, replicas, level, until, at, actor FROM warm_targets
WHERE until IS NULL OR until > now() ORDER BY endpoint
"""
SET = f"""
WITH over AS (
    DELETE FROM warm_targets WHERE until <= now() AND endpoint <> %(endpoint)s
),
noted AS ({insert_audit("%(endpoint)s", "(SELECT) once")})
INSERT INTO warm_targets (endpoint, replicas, level, until, actor)
VALUES (%(endpoint)s, %(replicas)s, %(level)s, %(until)s, %(actor)s)
ON CONFLICT (endpoint) DO UPDATE SET
    replicas = excluded.replicas, level = excluded.level, until = excluded.until,
    at = now(), actor = excluded.actor
RETURNING at
"""
END = f"""
WITH ended AS (
    DELETE FROM warm_targets WHERE endpoint = %(endpoint)s RETURNING endpoint, until
),
noted AS (
    {insert_audit("endpoint", "(SELECT * FROM ended WHERE until IS NULL OR until > now()) valid")}
)
SELECT until IS NULL OR until > now() FROM ended
"""


class StoredWarmTargets:
    """Warm targets set by operators."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Sequence[WarmTarget]:
        rows = await self._database.rows(READ)
        return [
            WarmTarget(endpoint, replicas, WeightsLevel(level), until, at, actor)
            for endpoint, replicas, level, until, at, actor in rows
        ]

    async def set(self, target: WarmTarget, actor: Actor) -> WarmTarget:
        """Set or replace the target of an endpoint."""
        until = None if target.until is None else target.until.isoformat()
        at = await self._database.value(
            SET,
            {
                "endpoint": target.endpoint,
                "replicas": target.replicas,
                "level": target.level,
                "until": target.until,
                **audit_params(
                    actor, "warm.set", replicas=target.replicas, level=target.level, until=until
                ),
            },
        )
        return WarmTarget(
            target.endpoint, target.replicas, target.level, target.until, at, actor.key_id
        )

    async def end(self, endpoint: str, actor: Actor) -> bool:
        """End the target of an endpoint. False if there was none, or its time was over."""
        params = {"endpoint": endpoint, **audit_params(actor, "warm.end")}
        return bool(await self._database.value(END, params))


# The weights that each replica should hold.

READ_HELD = """
-- name: read_held_weights
SELECT replica_id, pool, stage, hot, warm, on_disk, not_kept, keep FROM live_replicas
WHERE stage <> 'draining'
ORDER BY replica_id
"""
WRITE_KEEP = """
-- name: write_kept_weights
WITH named AS (
    SELECT replica, keep FROM json_to_recordset(%(keep)s::json) AS x(replica text, keep json)
),
chosen AS (
    SELECT r.replica_id, n.keep FROM named n JOIN replicas r ON r.replica_id = n.replica
    ORDER BY 1 FOR NO KEY UPDATE OF r
)
UPDATE replicas r SET keep = c.keep FROM chosen c WHERE r.replica_id = c.replica_id
"""

Upcoming = tuple[Endpoint, ...]
"""What a replica will probably run next, the first ones first."""

Keep = tuple[tuple[str, WeightsLevel], ...]
"""Endpoints whose weights a replica should hold, each with its level."""


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """Weights that a replica holds, by endpoint, and those that it should hold."""

    replica_id: str
    pool: str
    stage: str
    hot: frozenset[str]
    host: frozenset[str]
    disk: frozenset[str]
    not_kept: Mapping[str, str]  # with the reason
    keep: Keep | None  # None: not decided


class KeptWeightsRegistry:
    """What the replicas should hold, and what they will probably run next, in the memory of this
    process. Owned by one event loop."""

    def __init__(self, database: Database, terms: LeaseTerms) -> None:
        self._database = database
        self._terms = terms
        self._pools: frozenset[str] = frozenset()
        self._keep: dict[str, tuple[KeptWeights, str]] = {}  # with its version, by replica
        self._upcoming: Mapping[str, tuple[Upcoming, str]] = {}  # the same of what runs next

    async def refresh(self, pools: Collection[str]) -> Sequence[HeldWeights]:
        """Read what replicas hold, and what they should hold. ``pools``: those with a warm target,
        whose replicas wait at their start for what they should hold."""
        self._pools = frozenset(pools)
        rows = await self._database.rows(READ_HELD)
        replicas = [_weights_of_row(row) for row in rows]
        self._keep = {
            replica.replica_id: self._with_version(replica.keep)
            for replica in replicas
            if replica.keep is not None
        }
        return replicas

    async def write(self, keep: Mapping[str, Keep]) -> None:
        """Write what these replicas should hold, by id."""
        rows = [{"replica": id_, "keep": weights} for id_, weights in sorted(keep.items())]
        if rows:
            await self._database.rows(WRITE_KEEP, {"keep": messages.compact(rows)})

    def answer_to_ask(self, ask: Ask, work: Work) -> Work:
        """The reply to a poll, with what the replica should hold and runs next if that is new."""
        keep, version = self._keep.get(ask.replica_id, _NOTHING)
        told = (
            work if version == ask.kept_version else replace(work, keep=keep, keep_version=version)
        )
        return self._with_upcoming(ask, told) if self._upcoming or ask.upcoming else told

    def _with_upcoming(self, ask: Ask, work: Work) -> Work:
        upcoming, version = self.upcoming(ask.replica_id)
        known = ask.upcoming in (None, version)
        return work if known else replace(work, upcoming=upcoming, upcoming_version=version)

    def upcoming(self, replica_id: str) -> tuple[Upcoming, str]:
        """What a replica will probably run next, with its version."""
        return self._upcoming.get(replica_id, _NONE_UPCOMING)

    def decide_upcoming(self, names: Mapping[str, Sequence[str]]) -> None:
        """Replace what the replicas will probably run next: endpoints by the id of the replica.
        Those that the catalogue no longer has are left out."""
        upcoming: dict[str, tuple[Upcoming, str]] = {}
        for replica_id, endpoints in names.items():
            known = tuple(
                endpoint
                for endpoint in map(self._terms.endpoint, endpoints)
                if endpoint is not None
            )
            if known:
                upcoming[replica_id] = known, _version(known)
        self._upcoming = upcoming

    def answer_to_announcement(self, presence: Presence) -> Work | None:
        """The reply to a replica that starts. None: no warm target stands in its pool."""
        if presence.pool not in self._pools:
            return None
        known = self._keep.get(presence.replica_id)
        return Work() if known is None else Work(keep=known[0], keep_version=known[1])

    def _with_version(self, keep: Keep) -> tuple[KeptWeights, str]:
        """Endpoints by the catalogue of this moment. Those that it no longer has are left out."""
        pairs = [(self._terms.endpoint(name), level) for name, level in keep]
        weights = tuple(
            (endpoint, level.value) for endpoint, level in pairs if endpoint is not None
        )
        return (weights, _version(weights)) if weights else _NOTHING


_NOTHING: tuple[KeptWeights, str] = ((), "")
_NONE_UPCOMING: tuple[Upcoming, str] = ((), "")


def _version(weights: Sequence[object]) -> str:
    return blake2b(repr(weights).encode(), digest_size=8).hexdigest()


def _weights_of_row(row: tuple[Any, ...]) -> HeldWeights:
    id_, pool, stage, hot, warm, on_disk, not_kept, keep = row
    return HeldWeights(
        replica_id=id_,
        pool=pool,
        stage=stage,
        hot=frozenset(hot),
        host=frozenset(warm),
        disk=frozenset(on_disk),
        not_kept=dict(not_kept),
        keep=None
        if keep is None
        else tuple((endpoint, WeightsLevel(level)) for endpoint, level in keep),
    )
