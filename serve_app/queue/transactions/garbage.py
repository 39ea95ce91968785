"""Files of attempts that ended without them: nobody else knows that they lie in storage.

An attempt's files have names that follow from its tickets, which can be made again. So nothing is
written when tickets are given out, and an attempt that ended in another way than with its files has
all of its keys noted as unwanted, whether something was uploaded or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.ports import LeaseTerms
from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.telemetry.logs import about

log = logging.getLogger(__name__)

AT_ONCE = 200
DEAD_S = 6 * 3600.0
"""After the end of an attempt whose replica may go on uploading: as long as its tickets count."""
ALIVE_S = 300.0
"""After one that its replica ended itself: an upload that it broke off may still arrive."""

# The attempts first: a plan that was made while both tables were empty would read all requests.
DUE = f"""
WITH due AS MATERIALIZED (
    SELECT request_id, attempt, ended FROM attempts
    WHERE ended NOT IN ('succeeded', 'undo') AND NOT collected
    LIMIT {AT_ONCE}
)
SELECT a.request_id::text, a.attempt, a.ended, r.endpoint, r.input
FROM due a JOIN requests r ON r.id = a.request_id
"""
COLLECT = """
WITH named AS (
    SELECT * FROM json_to_recordset(%(attempts)s::json) AS x(id uuid, attempt integer)
),
noted AS (
    INSERT INTO unwanted (key, due_at)
    SELECT x.key, now() + make_interval(secs => x.after_s)
    FROM json_to_recordset(%(keys)s::json) AS x(key text, after_s double precision)
    ON CONFLICT (key) DO NOTHING
)
UPDATE attempts a SET collected = true FROM named n
WHERE a.request_id = n.id AND a.attempt = n.attempt
"""


class Orphans:
    def __init__(self, database: Database, terms: LeaseTerms) -> None:
        self._database = database
        self._terms = terms

    async def collect(self) -> None:
        """Note what attempts that have ended left, all of them."""
        while rows := await self._database.rows(DUE):
            keys = [
                {"key": key, "after_s": DEAD_S if ended in _GONE else ALIVE_S}
                for request_id, attempt, ended, endpoint, input_ in rows
                for key in self._keys(request_id, attempt, endpoint, input_)
            ]
            attempts = [{"id": request_id, "attempt": attempt} for request_id, attempt, *_ in rows]
            params = {"attempts": wording.compact(attempts), "keys": wording.compact(keys)}
            await self._database.rows(COLLECT, params)

    def _keys(
        self, request_id: str, attempt: int, endpoint_id: str, input: Mapping[str, Any]
    ) -> Sequence[str]:
        endpoint = self._terms.endpoint(endpoint_id)
        if endpoint is None:
            return ()  # and so it got no lease
        try:
            tickets = self._terms.tickets(request_id, attempt, endpoint, input)
        except Exception:
            # A broken catalogue or storage setting must not hold up the others.
            with about(request_id):
                log.exception("What attempt %s of %s may have left is unknown", attempt, request_id)
            return ()
        return [ticket.key for ticket in tickets]


_GONE = frozenset({"lost", "stopped", "by_hand"})
