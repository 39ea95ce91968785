"""Starts and ends of ingress processes and replicas, with their reasons, for operators.

An ingress writes its own start and its orderly end. All else is read once in a while by one ingress
of each Ray cluster: starts of replicas from their announcements, and ends from Ray's actor table.
Terms also end as in ``state/terms.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import Death, Liveness
from serve_app.postgres.database import Database
from serve_app.queue.reaper import STOPPED
from serve_app.queue.state.terms import Terms

log = logging.getLogger(__name__)

REPLACED = Death("it was stopped or replaced", by_itself=False)
KEEP = "7 days"
MAX_EVENTS = 50

START = """
-- name: start_process
INSERT INTO processes (actor_id, kind, name, node, version, cluster, started_at, why_started)
VALUES (%(actor_id)s, 'ingress', %(name)s, %(node)s, %(version)s, %(cluster)s, now(), %(why)s)
ON CONFLICT DO NOTHING
"""
LAST = """
-- name: read_last_ingress
SELECT name, version, ended_at IS NOT NULL, why_ended FROM processes
WHERE kind = 'ingress' AND cluster = %(cluster)s
ORDER BY greatest(started_at, ended_at) DESC LIMIT 1
"""
START_REPLICAS = """
-- name: start_replicas
INSERT INTO processes (actor_id, kind, name, pool, node, cluster, started_at)
SELECT r.actor_id, 'replica', r.replica_id, r.pool, r.node, %(cluster)s, now() FROM replicas r
WHERE r.actor_id = ANY(%(alive)s::text[])
    AND NOT EXISTS (SELECT FROM processes p WHERE p.actor_id = r.actor_id)
ORDER BY 1
ON CONFLICT DO NOTHING
RETURNING name, pool, node
"""
# A row is forgotten by the time of its last change, so what lives for longer is written at times.
READ_ALIVE = f"""
-- name: read_processes
WITH forgotten AS (
    DELETE FROM processes WHERE seen_at < now() - interval '{KEEP}'
),
draining AS (
    UPDATE processes p SET drains = true FROM replicas r
    WHERE r.actor_id = p.actor_id AND r.stage = 'draining' AND NOT p.drains AND p.ended_at IS NULL
),
seen AS (
    UPDATE processes SET seen_at = now()
    WHERE cluster = %(cluster)s AND ended_at IS NULL AND actor_id = ANY(%(alive)s::text[])
        AND seen_at < now() - interval '1 day'
)
SELECT actor_id FROM processes WHERE cluster = %(cluster)s AND ended_at IS NULL
"""
EVENTS = """
-- name: show_processes
(SELECT started_at AS at, kind, name, pool, node, version, 'started', why_started FROM processes
 WHERE started_at IS NOT NULL ORDER BY started_at DESC LIMIT %(limit)s)
UNION ALL
(SELECT ended_at, kind, name, pool, node, version, 'ended', why_ended FROM processes
 WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT %(limit)s)
UNION ALL
(SELECT since, 'node', node, '', node, '', 'quarantined', 'it lost requests ' || losses || ' times'
 FROM quarantines ORDER BY since DESC LIMIT %(limit)s)
UNION ALL
(SELECT released_at, 'node', node, '', node, '', 'released', '' FROM quarantines
 WHERE released_at IS NOT NULL ORDER BY released_at DESC LIMIT %(limit)s)
ORDER BY at DESC LIMIT %(limit)s
"""
NAMES = "at", "kind", "name", "pool", "node", "version", "event", "reason"


@dataclass(frozen=True, slots=True)
class IngressProcess:
    """An ingress, as it knows itself."""

    actor_id: str  # Ray's, hex
    name: str
    node: str  # address of its machine
    version: str


class ProcessLog:
    """Writes and reads what started and ended. ``alive``: ids of the actors of this Ray cluster
    that live; it blocks. ``cluster``: its id, or the same for all clusters of which the database
    has one at a time."""

    def __init__(
        self,
        database: Database,
        liveness: Liveness,
        alive: Callable[[], frozenset[str]],
        cluster: str,
    ) -> None:
        self._database = database
        self._liveness = liveness
        self._alive = alive
        self._terms = Terms(database)
        self._cluster = cluster

    async def record_start(self, ingress: IngressProcess) -> None:
        """Write the start of an ingress, with its reason."""
        await self.look()  # or the end of the one before it is not known yet
        last = await self._database.row(LAST, {"cluster": self._cluster})
        why = _why_started(ingress.version, *last) if last else "the first one here"
        params = {**asdict(ingress), "cluster": self._cluster, "why": why}
        await self._database.rows(START, params)
        log.info(
            "The ingress %s of version %s has started on %s: %s.",
            ingress.name,
            ingress.version,
            ingress.node,
            why,
        )

    async def record_stop(self, ingress: IngressProcess) -> None:
        """Write the orderly end of an ingress, unless the database is away."""
        with contextlib.suppress(DarkroomError):
            await self._terms.end({ingress.actor_id: REPLACED}, logging.INFO)

    async def look(self) -> None:
        """Write and log the starts and ends that are new."""
        alive = await asyncio.to_thread(self._alive)
        params = {"cluster": self._cluster, "alive": sorted(alive)}
        for name, pool, node in await self._database.rows(START_REPLICAS, params):
            log.info("The replica %s of the pool %s has started on %s.", name, pool, node or "?")
        rows = await self._database.rows(READ_ALIVE, params)
        if gone := [str(actor) for (actor,) in rows if actor not in alive]:
            stopped = dict.fromkeys(await self._liveness.of_previous_run(gone), STOPPED)
            await self._terms.end({**await self._liveness.dead(gone), **stopped})

    async def events(self) -> Sequence[Mapping[str, Any]]:
        """The last starts, ends and quarantines, newest first: one JSON object each."""
        rows = await self._database.rows(EVENTS, {"limit": MAX_EVENTS})
        return [dict(zip(NAMES, (at.isoformat(), *others), strict=True)) for at, *others in rows]


def _why_started(version: str, name: str, before: str, ended: bool, why_ended: str) -> str:  # noqa: FBT001 a row
    """Reason of the start of an ingress, by the last one before it that started or ended."""
    if before != version:
        return f"version {version} in place of {before}"
    return f"{name} had ended: {why_ended}" if ended else f"beside {name}"
