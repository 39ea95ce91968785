"""Terms of replicas. A term begins with the replica's actor and ends once, by whoever learns of it.

Under an ended term a replica is leased nothing more, its attempts have ended, and its next call is
answered with the reason: it ends its process. So a replica that the cluster has given up, such as
one whose node could not be reached for a while, does not go on beside the one that replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.domain.lease import Death
from serve_app.postgres.database import Database
from serve_app.queue.store import messages

REMEMBER = "1 hour"
"""Age at which ended terms are forgotten. A process that lives on for longer is given up again when
it polls."""

END = f"""
-- name: end_terms
WITH forgotten AS (
    DELETE FROM ended_terms WHERE ended_at < now() - interval '{REMEMBER}'
)
INSERT INTO ended_terms (actor_id, reason, by_itself)
SELECT actor, reason, by_itself
FROM json_to_recordset(%(ends)s::json) AS x(actor text, reason text, by_itself boolean)
ORDER BY actor
ON CONFLICT (actor_id) DO NOTHING
"""
READ = f"""
-- name: read_ended_terms
SELECT actor_id, reason, by_itself FROM ended_terms
WHERE ended_at > now() - interval '{REMEMBER}'
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

    async def end(self, deaths: Mapping[str, Death]) -> Mapping[str, Death]:
        """End the terms of actors, and return all ended ones. One that another process has ended
        before keeps its reason."""
        ended = await self._read()
        if new := {actor: death for actor, death in deaths.items() if actor not in ended}:
            rows = [
                {"actor": actor, "reason": death.reason, "by_itself": death.by_itself}
                for actor, death in new.items()
            ]
            await self._database.rows(END, {"ends": messages.compact(rows)})
            ended = await self._read()
        self._ended = ended
        return ended

    async def _read(self) -> Mapping[str, Death]:
        rows = await self._database.rows(READ)
        return {str(actor): Death(reason, by_itself) for actor, reason, by_itself in rows}
