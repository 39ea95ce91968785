"""Endpoints that an operator has halted: set and ended here, and known from memory.

What is paused is looked up by the very statements that lease. The memory, refreshed once a second,
tells the reason of a wait and refuses submits to what drains.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.errors import EndpointDraining
from serve_app.domain.operations import Halt, HaltKind
from serve_app.queue.database import Database

PAUSED = "(SELECT array_agg(endpoint) FROM halts WHERE kind = 'paused')"
"""Null unless something is paused. It names no row, so a statement evaluates it once."""

NOT_PAUSED = f"""
    CASE WHEN {PAUSED} IS NULL THEN true ELSE r.endpoint <> ALL({PAUSED}::text[]) END
"""
"""Of a request ``r``. In a CASE, so that the planner does not guess that hardly any passes, and
nobody looks at its endpoint while nothing is paused."""

READ = "SELECT endpoint, kind, at, actor FROM halts ORDER BY endpoint"

# What was queued while the endpoint was paused was not served, and banks no credit for that.
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
noted AS (
    INSERT INTO audit (actor, action, subject) VALUES (%(actor)s, %(action)s, %(endpoint)s)
),
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
noted AS (
    INSERT INTO audit (actor, action, subject)
    SELECT %(actor)s, 'endpoint.resume', endpoint FROM ended
),
{_WAKE}
SELECT (SELECT coalesce(array_agg(DISTINCT pool), '{{}}') FROM waiting) FROM ended
"""

ACTIONS = {HaltKind.PAUSED: "endpoint.pause", HaltKind.DRAINING: "endpoint.drain"}


class Halts:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Halt] = {}
        self._acts = 0  # of this process

    async def refresh(self) -> Sequence[Halt]:
        """Those that there are."""
        acts = self._acts
        rows = await self._database.rows(READ)
        if acts == self._acts:  # else the reading may be older than what was done meanwhile
            self._known = {row[0]: Halt(row[0], HaltKind(row[1]), *row[2:]) for row in rows}
        return [*self._known.values()]

    def paused(self) -> frozenset[str]:
        """Endpoints."""
        return frozenset(
            each.endpoint for each in self._known.values() if each.kind is HaltKind.PAUSED
        )

    def admit(self, endpoint: str) -> None:
        """``EndpointDraining``."""
        known = self._known.get(endpoint)
        if known is not None and known.kind is HaltKind.DRAINING:
            raise EndpointDraining(
                f"{endpoint} accepts nothing for now: an operator lets it run empty."
            )

    async def set(self, endpoint: str, kind: HaltKind, actor: str) -> tuple[Halt, Sequence[str]]:
        """Also the pools in which something may be leased now that it is not paused any more."""
        params = {"endpoint": endpoint, "kind": kind, "actor": actor, "action": ACTIONS[kind]}
        ((_, _, at, _, pools),) = await self._database.rows(SET, params)
        self._acts += 1
        halt = self._known[endpoint] = Halt(endpoint, kind, at, actor)
        return halt, pools

    async def end(self, endpoint: str, actor: str) -> Sequence[str] | None:
        """The pools in which something of it waits; None: it was not halted."""
        rows = await self._database.rows(END, {"endpoint": endpoint, "actor": actor})
        self._acts += 1
        self._known.pop(endpoint, None)
        return rows[0][0] if rows else None
