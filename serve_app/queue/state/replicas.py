"""Replicas saying that they exist and what they load: written at once at start and drain, else once
a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.domain.lease import Ask, Presence, ReplicaStage, Report
from serve_app.queue import wording
from serve_app.queue.census import Census
from serve_app.queue.database import Database

UPSERT = """
INSERT INTO replicas AS r (replica_id, actor_id, pool, stage, detail, loading, slots, busy_at)
SELECT replica, actor, pool, stage, detail, loading, coalesce(slots, 1),
       CASE WHEN busy THEN now() END
FROM json_to_recordset(%(seen)s::json) AS x(
    replica text, actor text, pool text, stage text, detail text, loading json, slots integer,
    busy boolean)
ORDER BY replica
ON CONFLICT (replica_id) DO UPDATE SET
    actor_id = excluded.actor_id,
    pool = excluded.pool,
    stage = excluded.stage,
    detail = excluded.detail,
    loading = excluded.loading,
    slots = CASE WHEN excluded.stage = 'draining' THEN r.slots ELSE excluded.slots END,
    busy_at = coalesce(excluded.busy_at, r.busy_at),
    seen_at = now()
"""
TOUCH = """
WITH seen AS (
    SELECT r.replica_id, x.detail, x.loading
    FROM json_to_recordset(%(seen)s::json) AS x(replica text, detail text, loading json)
    JOIN replicas r ON r.replica_id = x.replica
    ORDER BY 1 FOR NO KEY UPDATE OF r
)
UPDATE replicas r SET seen_at = now(), busy_at = now(), detail = seen.detail, loading = seen.loading
FROM seen WHERE r.replica_id = seen.replica_id
"""
BURY = """
DELETE FROM replicas WHERE actor_id = ANY(%(actors)s::text[])
    OR seen_at < now() - interval '1 hour'
"""


class PresenceBook:
    def __init__(self, database: Database, census: Census) -> None:
        self._database = database
        self._census = census
        self._asked: dict[str, Mapping[str, Any]] = {}
        self._reported: dict[str, Mapping[str, Any]] = {}

    async def announce(self, presence: Presence) -> None:
        self._census.present(presence, max(1, presence.slots))
        self._asked.pop(presence.replica_id, None)
        await self._write([_row(presence)])

    def asked(self, ask: Ask) -> None:
        """Every ask says READY, but one for signals only does not end a drain."""
        draining = self._census.stage(ask.replica_id) is ReplicaStage.DRAINING and ask.slots == 0
        stage = ReplicaStage.DRAINING if draining else ReplicaStage.READY
        presence = Presence(ask.replica_id, ask.actor_id, ask.pool, stage, ask.detail, ask.loading)
        slots = max(1, ask.slots + len(ask.held))
        self._census.present(presence, slots)
        if ask.replica_id in self._reported:
            self._reported[ask.replica_id] = _loads(ask)  # the newer word
        self._asked[ask.replica_id] = {
            **_row(presence),
            "slots": slots,
            "busy": bool(ask.held),
        }

    def reported(self, report: Report) -> None:
        if report.renewals:
            self._reported[report.replica_id] = _loads(report)

    async def bury(self, dead_actors: frozenset[str]) -> None:
        self._census.bury(dead_actors)
        await self._database.rows(BURY, {"actors": sorted(dead_actors)})

    async def flush(self) -> None:
        """Write what was seen since the last time."""
        asked, self._asked = self._asked, {}
        reported, self._reported = self._reported, {}
        if asked:
            await self._write([*asked.values()])
        if reported:
            seen = [{"replica": id_, **loads} for id_, loads in sorted(reported.items())]
            await self._database.rows(TOUCH, {"seen": wording.compact(seen)})

    async def _write(self, rows: list[Mapping[str, Any]]) -> None:
        await self._database.rows(UPSERT, {"seen": wording.compact(rows)})


def _row(presence: Presence) -> dict[str, Any]:
    return {
        "replica": presence.replica_id,
        "actor": presence.actor_id,
        "pool": presence.pool,
        "stage": presence.stage,
        **_loads(presence),
        "slots": presence.slots or None,
        "busy": False,
    }


def _loads(said: Presence | Ask | Report) -> dict[str, Any]:
    return {"detail": wording.clean(said.detail), "loading": said.loading}
