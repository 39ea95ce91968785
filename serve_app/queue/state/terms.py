"""Terms of processes. Each begins with the process's actor and ends once, by whoever learns of it.

Under an ended term a replica is leased nothing more, its attempts have ended, and its next call is
answered with the reason: it ends its process. So a replica that the cluster has given up, such as
one whose node could not be reached for a while, does not go on beside the one that replaces it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from serve_app.domain.lease import Death
from serve_app.postgres.database import Database
from serve_app.queue.store import messages

log = logging.getLogger(__name__)

REMEMBER = "1 hour"
"""Age at which the end of a term leaves this memory. A process that polls later is told when the
cluster is asked for it again."""

END = """
-- name: end_terms
INSERT INTO processes AS p (
    actor_id, kind, name, pool, node, ended_at, why_ended, by_itself)
SELECT x.actor, 'replica', coalesce(r.replica_id, ''), coalesce(r.pool, ''), coalesce(r.node, ''),
       now(), x.reason, x.by_itself
FROM json_to_recordset(%(ends)s::json) AS x(actor text, reason text, by_itself boolean)
LEFT JOIN replicas r ON r.actor_id = x.actor
ORDER BY x.actor
ON CONFLICT (actor_id) DO UPDATE SET
    ended_at = now(), seen_at = now(), by_itself = excluded.by_itself,
    why_ended = excluded.why_ended
        || CASE WHEN p.drains THEN ', after its drain had begun' ELSE '' END
WHERE p.ended_at IS NULL
RETURNING kind, name, pool, node, why_ended
"""
READ = f"""
-- name: read_ended_terms
SELECT actor_id, why_ended, by_itself FROM processes
WHERE ended_at > now() - interval '{REMEMBER}'
   OR actor_id = ANY(%(named)s::text[]) AND ended_at IS NOT NULL
"""


class Terms:
    """Ended terms. All processes know the same end of a term, and each within a second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended: Mapping[str, Death] = {}

    def end_of(self, actor_id: str) -> str:
        """Why the actor's term has ended; empty if it has not."""
        death = self._ended.get(actor_id)
        return "" if death is None else death.reason

    async def end(
        self, deaths: Mapping[str, Death], level: int = logging.WARNING
    ) -> Mapping[str, Death]:
        """End the terms of actors, and return the ended ones. One that another process has ended
        before keeps its reason. Each end is logged once, at ``level``."""
        ended = await self._read(deaths)
        if new := {actor: death for actor, death in deaths.items() if actor not in ended}:
            ends = [
                {"actor": actor, "reason": death.reason, "by_itself": death.by_itself}
                for actor, death in new.items()
            ]
            rows = await self._database.rows(END, {"ends": messages.compact(ends)})
            for kind, name, pool, node, why in rows:
                of = f" of the pool {pool}" if pool else ""
                log.log(level, "The %s %s%s on %s has ended: %s.", kind, name, of, node or "?", why)
            ended = await self._read(deaths)
        self._ended = ended
        return ended

    async def _read(self, named: Mapping[str, Death]) -> Mapping[str, Death]:
        rows = await self._database.rows(READ, {"named": list(named)})
        return {str(actor): Death(reason, by_itself) for actor, reason, by_itself in rows}
