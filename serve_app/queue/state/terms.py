"""Terms of replicas. A term begins with the replica's actor and ends once, by whoever learns of it.

Under an ended term a replica is leased nothing more, its attempts have ended, and its next call is
answered with the reason: it ends its process. So a replica that the cluster has given up, such as
one whose node could not be reached for a while, does not go on beside the one that replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.postgres.database import Database
from serve_app.queue.store import messages

REMEMBER = "1 day"
"""Age at which ended terms are forgotten. Their processes have ended long before."""

END = f"""
-- name: end_terms
WITH forgotten AS (
    DELETE FROM ended_terms WHERE ended_at < now() - interval '{REMEMBER}'
)
INSERT INTO ended_terms (actor_id, reason)
SELECT actor, reason FROM json_to_recordset(%(ends)s::json) AS x(actor text, reason text)
ORDER BY actor
ON CONFLICT (actor_id) DO NOTHING
"""
READ = """
-- name: read_ended_terms
SELECT actor_id, reason FROM ended_terms
"""


class Terms:
    """Ended terms, as this process knows them: within a second of the other processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended: Mapping[str, str] = {}

    def end_of(self, actor_id: str) -> str:
        """Why the actor's term has ended; empty if it has not."""
        return self._ended.get(actor_id, "")

    @property
    def ended(self) -> frozenset[str]:
        """Actors whose terms have ended."""
        return frozenset(self._ended)

    async def refresh(self) -> None:
        """Learn what other processes have ended."""
        self._ended = dict(await self._database.rows(READ))

    async def end(self, reasons: Mapping[str, str]) -> None:
        """End the terms of actors, for a reason each."""
        new = {actor: why for actor, why in reasons.items() if actor not in self._ended}
        if not new:
            return
        ends = [{"actor": actor, "reason": why} for actor, why in new.items()]
        await self._database.rows(END, {"ends": messages.compact(ends)})
        self._ended = {**self._ended, **new}
