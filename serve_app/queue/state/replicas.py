"""Registry of replicas: their stage and the weights they load.

A replica's start and drain are written at once, everything else once a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.lease import Ask, Presence, ReplicaStage, Report
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.queue.state.stats import QueueStats
from serve_app.queue.store import messages
from serve_app.telemetry.queue_metrics import GpuMemory, QueueMeter

POLLS_WITHIN_S = 15.0
"""A replica that polls here does so again within a few seconds, or has gone to another process."""

UPSERT = """
-- name: write_replicas
INSERT INTO replicas AS r (
    replica_id, actor_id, pool, stage, detail, loading, slots, busy_at, hot, warm, on_disk,
    not_kept, node, device, memory_used, memory_total)
SELECT replica, actor, pool, stage, detail, loading, coalesce(slots, 1),
       CASE WHEN busy THEN now() END, hot, warm, on_disk, not_kept, node, device, memory_used,
       memory_total
FROM json_to_recordset(%(seen)s::json) AS x(
    replica text, actor text, pool text, stage text, detail text, loading json, slots integer,
    busy boolean, hot json, warm json, on_disk json, not_kept json, node text, device text,
    memory_used bigint, memory_total bigint)
ORDER BY replica
ON CONFLICT (replica_id) DO UPDATE SET
    actor_id = excluded.actor_id,
    pool = excluded.pool,
    stage = excluded.stage,
    detail = excluded.detail,
    loading = excluded.loading,
    slots = CASE WHEN excluded.stage = 'draining' THEN r.slots ELSE excluded.slots END,
    busy_at = coalesce(excluded.busy_at, r.busy_at),
    hot = CASE WHEN excluded.stage = 'draining' THEN r.hot ELSE excluded.hot END,
    warm = CASE WHEN excluded.stage = 'draining' THEN r.warm ELSE excluded.warm END,
    on_disk = excluded.on_disk,
    not_kept = excluded.not_kept,
    node = coalesce(nullif(excluded.node, ''), r.node),
    device = coalesce(nullif(excluded.device, ''), r.device),
    memory_used = coalesce(excluded.memory_used, r.memory_used),
    memory_total = coalesce(excluded.memory_total, r.memory_total),
    seen_at = now()
"""
TOUCH = """
-- name: touch_replicas
WITH seen AS (
    SELECT r.replica_id, x.detail, x.loading, x.hot
    FROM json_to_recordset(%(seen)s::json) AS x(replica text, detail text, loading json, hot json)
    JOIN replicas r ON r.replica_id = x.replica
    ORDER BY 1 FOR NO KEY UPDATE OF r
)
UPDATE replicas r SET seen_at = now(), busy_at = now(), detail = seen.detail,
    loading = seen.loading, hot = coalesce(seen.hot, r.hot)
FROM seen WHERE r.replica_id = seen.replica_id
"""
DELETE_DEAD = """
-- name: delete_replicas
DELETE FROM replicas WHERE actor_id = ANY(%(actors)s::text[])
    OR seen_at < now() - interval '1 hour'
"""


class ReplicaRegistry:
    """Record replicas in memory and in the database."""

    def __init__(
        self, database: Database, stats: QueueStats, clock: Clock, metrics: QueueMeter
    ) -> None:
        self._database = database
        self._stats = stats
        self._clock = clock
        self._metrics = metrics
        self._memory: dict[str, tuple[float, GpuMemory]] = {}  # and when a poll said it
        self._weights: dict[str, tuple[float, Ask]] = {}  # the last poll, and when it came
        self._polls: dict[str, Mapping[str, Any]] = {}
        self._reports: dict[str, Mapping[str, Any]] = {}

    async def announce(self, presence: Presence) -> None:
        """Record a replica and write it at once."""
        self._polls.pop(presence.replica_id, None)
        await self._write([_row(presence)])
        # After the write: rows that were read before it may come now, and count less than this.
        self._stats.replica_seen(presence, max(1, presence.slots))

    def record_poll(self, ask: Ask) -> None:
        """Record a lease poll. Each poll means READY, except that a poll for signals only does not
        end a drain.
        """
        draining = self._stats.stage_of(ask.replica_id) is ReplicaStage.DRAINING and ask.slots == 0
        stage = ReplicaStage.DRAINING if draining else ReplicaStage.READY
        presence = Presence(ask.replica_id, ask.actor_id, ask.pool, stage, ask.detail, ask.loading)
        if ask.device_bytes:
            memory = GpuMemory(ask.pool, ask.device_bytes, ask.free_bytes)
            self._memory[ask.replica_id] = self._clock.monotonic(), memory
        slots = max(1, ask.slots + len(ask.leases))
        self._stats.replica_seen(presence, slots)
        if ask.replica_id in self._reports:
            self._reports[ask.replica_id] = _loads(ask) | {"hot": ask.hot}  # this poll is newer
        self._polls[ask.replica_id] = {
            **_row(presence),
            "slots": slots,
            "busy": bool(ask.leases),
            "hot": ask.hot,
            "warm": ask.warm,
            "on_disk": ask.on_disk,
            "not_kept": [(name, messages.clean(why)) for name, why in ask.not_kept],
            "node": ask.node,
            "device": ask.device,
            **_memory(ask.memory),
        }
        _, last = self._weights.get(ask.replica_id, (0.0, None))
        if last is not None and ask.hot != last.hot:
            for endpoint in set(ask.hot).difference(last.hot):
                self._metrics.count_weights_load(
                    ask.pool, endpoint, from_host=endpoint in last.warm
                )
        self._weights[ask.replica_id] = self._clock.monotonic(), ask

    def gpu_memory(self) -> Mapping[str, GpuMemory]:
        """GPU memory of the replicas that poll here, by replica."""
        since = self._clock.monotonic() - POLLS_WITHIN_S
        self._memory = {id_: sample for id_, sample in self._memory.items() if sample[0] >= since}
        return {id_: memory for id_, (_, memory) in self._memory.items()}

    def weights(self) -> Counter[tuple[str, str, str]]:
        """Replicas that poll here, by pool, endpoint and the place of its weights: ``device`` or
        ``host``."""
        return Counter(
            (ask.pool, endpoint, place)
            for ask in self._recent()
            for place, endpoints in (("device", ask.hot), ("host", ask.warm))
            for endpoint in endpoints
        )

    def places(self) -> frozenset[tuple[str, str, str, str]]:
        """Pool, id, node and GPU of the replicas that poll here."""
        return frozenset((ask.pool, ask.replica_id, ask.node, ask.device) for ask in self._recent())

    def _recent(self) -> Sequence[Ask]:
        """The last poll of each replica that polls here."""
        since = self._clock.monotonic() - POLLS_WITHIN_S
        self._weights = {id_: poll for id_, poll in self._weights.items() if poll[0] >= since}
        return [ask for _, ask in self._weights.values()]

    def record_report(self, report: Report) -> None:
        """Record a report that renews leases."""
        if report.renewals:
            self._reports[report.replica_id] = _loads(report) | {"hot": report.hot}

    async def remove_dead(self, dead_actors: frozenset[str]) -> None:
        """Forget the replicas of dead actors."""
        self._stats.remove_dead(dead_actors)
        await self._database.rows(DELETE_DEAD, {"actors": sorted(dead_actors)})

    async def flush(self) -> None:
        """Write everything recorded since the last call."""
        polls, self._polls = self._polls, {}
        reports, self._reports = self._reports, {}
        if polls:
            await self._write([*polls.values()])
        if reports:
            seen = [{"replica": id_, **loads} for id_, loads in sorted(reports.items())]
            await self._database.rows(TOUCH, {"seen": messages.compact(seen)})

    async def _write(self, rows: list[Mapping[str, Any]]) -> None:
        await self._database.rows(UPSERT, {"seen": messages.compact(rows)})


def _row(presence: Presence) -> dict[str, Any]:
    return {
        "replica": presence.replica_id,
        "actor": presence.actor_id,
        "pool": presence.pool,
        "stage": presence.stage,
        **_loads(presence),
        "slots": presence.slots or None,
        "busy": False,
        "hot": (),
        "warm": (),
        "on_disk": (),
        "not_kept": (),
        "node": presence.node,
        "device": "",
        **_memory(None),
    }


def _memory(figures: tuple[int, int] | None) -> dict[str, int | None]:
    used, total = figures or (None, None)
    return {"memory_used": used, "memory_total": total}


def _loads(poll_or_report: Presence | Ask | Report) -> dict[str, Any]:
    return {"detail": messages.clean(poll_or_report.detail), "loading": poll_or_report.loading}


# Replicas that are there, for the status page.

SELECT = """
-- name: show_replicas
SELECT replica_id, pool, stage, detail, loading, slots, hot, warm,
       extract(epoch FROM now() - seen_at)::double precision, r.node, device, on_disk, not_kept,
       coalesce(keep, '[]'::json), memory_used, memory_total,
       coalesce('Node ' || r.node || ' is quarantined since ' || to_char(
           q.since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') || ': it lost attempts '
           || q.losses || ' times. While another node has ready replicas, one request at a time '
           'tries it.', '')
FROM live_replicas r LEFT JOIN quarantines q ON q.node = r.node AND q.released_at IS NULL
ORDER BY pool, replica_id
"""
NAMES = (
    *("replica_id", "pool", "stage", "detail", "loading", "slots", "hot", "warm", "seen_s"),
    *("node", "device", "on_disk", "not_kept", "keep", "memory_used", "memory_total"),
    "quarantine",
)


async def roster(database: Database) -> Sequence[Mapping[str, Any]]:
    """One JSON object per replica; ``seen_s`` is the time since it last called."""
    rows = await database.rows(SELECT)
    return [dict(zip(NAMES, row, strict=True)) for row in rows]
