"""Paused and draining endpoints: set and ended here, and known from memory.

The leasing statements read the paused endpoints from the table. The memory, refreshed once a
second, gives the reason of a wait and refuses submits to draining endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import EndpointDraining
from serve_app.domain.operations import Pause, PauseKind
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database

PAUSED = "(SELECT array_agg(endpoint) FROM halts WHERE kind = 'paused')"
"""Array of the paused endpoints; null if there are none. It refers to no outer row, so a statement
evaluates it once.
"""


def not_paused(paused: str) -> str:
    """Condition on a request ``r``; ``paused``: expression of the array of the paused endpoints.

    In a CASE, so that the planner does not assume that hardly any row passes, and the endpoint is
    not read while nothing is paused.
    """
    return (
        f"CASE WHEN {paused} IS NULL THEN true ELSE r.endpoint <> ALL({paused}::text[]) "
        f"AND coalesce(r.fell_back_to <> ALL({paused}::text[]), true) END"
    )


READ = """
-- name: read_pauses
SELECT endpoint, kind, at, actor FROM halts ORDER BY endpoint
"""

# Requests that were queued while the endpoint was paused were not served, and earn no credit for
# it.
_WAKE = """
waiting AS (
    SELECT DISTINCT r.pool, r.tenant FROM ended e
    JOIN requests r ON r.endpoint = e.endpoint AND r.state = 'queued'
),
chosen AS (
    SELECT l.pool, l.tenant FROM fair_lanes l
    JOIN waiting w ON w.pool = l.pool AND w.tenant = l.tenant
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
),
woken AS (
    UPDATE fair_lanes l SET active = true, rested = true, woken_at = now() FROM chosen c
    WHERE l.pool = c.pool AND l.tenant = c.tenant
)
"""
SET = f"""
WITH halted AS (
    INSERT INTO halts (endpoint, kind, actor) VALUES (%(endpoint)s, %(kind)s, %(actor)s)
    ON CONFLICT (endpoint) DO UPDATE SET kind = excluded.kind, at = now(), actor = excluded.actor
    RETURNING endpoint, kind, at, actor
),
noted AS ({insert_audit("endpoint", "halted")}),
ended AS (SELECT endpoint FROM halted WHERE kind = 'draining'),
{_WAKE}
SELECT h.endpoint, h.kind, h.at, h.actor,
       (SELECT coalesce(array_agg(DISTINCT pool), '{{}}') FROM waiting)
FROM halted h
"""
END = f"""
WITH ended AS (
    DELETE FROM halts WHERE endpoint = %(endpoint)s RETURNING endpoint
),
noted AS ({insert_audit("endpoint", "ended")}),
{_WAKE}
SELECT (SELECT coalesce(array_agg(DISTINCT pool), '{{}}') FROM waiting) FROM ended
"""

ACTIONS = {PauseKind.PAUSED: "endpoint.pause", PauseKind.DRAINING: "endpoint.drain"}


class Pauses:
    """Paused and draining endpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Pause] = {}
        self._version = 0  # number of changes by this process

    async def refresh(self) -> Sequence[Pause]:
        """Read the pauses again and return them."""
        version = self._version
        rows = await self._database.rows(READ)
        if version == self._version:  # else the rows may be older than a change by this process
            self._known = {
                endpoint: Pause(endpoint, PauseKind(kind), at, actor)
                for endpoint, kind, at, actor in rows
            }
        return [*self._known.values()]

    def paused_endpoints(self) -> frozenset[str]:
        """Paused endpoints, from memory."""
        return frozenset(
            pause.endpoint for pause in self._known.values() if pause.kind is PauseKind.PAUSED
        )

    def halted_endpoints(self) -> frozenset[str]:
        """Endpoints that are paused or drained, from memory."""
        return frozenset(self._known)

    def admit(self, endpoint: str) -> None:
        """Raise ``EndpointDraining`` if the endpoint is draining."""
        known = self._known.get(endpoint)
        if known is not None and known.kind is PauseKind.DRAINING:
            raise EndpointDraining(
                f"{endpoint} accepts no new requests for now: an operator is draining it. "
                "Try again later, or use another endpoint."
            )

    async def set(
        self, endpoint: str, kind: PauseKind, actor: Actor
    ) -> tuple[Pause, Sequence[str]]:
        """Pause or drain the endpoint. Also returns the pools in which requests may be leased now,
        because it is no longer paused.
        """
        params = {"endpoint": endpoint, "kind": kind, **audit_params(actor, ACTIONS[kind])}
        ((_, _, at, _, pools),) = await self._database.rows(SET, params)
        self._version += 1
        pause = self._known[endpoint] = Pause(endpoint, kind, at, actor.key_id)
        return pause, pools

    async def end(self, endpoint: str, actor: Actor) -> Sequence[str] | None:
        """End the pause. Returns the pools with queued requests of the endpoint; None if it was not
        paused.
        """
        params = {"endpoint": endpoint, **audit_params(actor, "endpoint.resume")}
        ended = await self._database.value(END, params)
        self._version += 1
        self._known.pop(endpoint, None)
        return ended
