"""Files of attempts that ended without success, which are to be deleted.

The names of an attempt's files follow from its tickets, which can be recomputed. So nothing is
written when tickets are issued. For an attempt that ended without its files, all its keys are
marked for deletion, whether something was uploaded or not. No other record of them exists.

The files of executors are not known in advance. They are marked when their tickets are issued, and
the mark is removed with the success that names them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.lease import LeaseKey, LeaseTerms
from serve_app.jobs.postgres import put_files
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.transactions.end_attempt import WITHOUT_REPLICA
from serve_app.telemetry.logs import log_context

log = logging.getLogger(__name__)

AT_ONCE = 200
DEAD_S = 6 * 3600.0
"""Delay after the end of an attempt whose replica may still upload: as long as its tickets are
valid.
"""
ALIVE_S = 300.0
"""Delay after an attempt that its replica ended itself: an aborted upload may still arrive."""

# The attempts first: a plan made while both tables were empty would read all requests.
DUE = f"""
-- name: find_garbage
WITH due AS MATERIALIZED (
    SELECT request_id, attempt, nonce, ended, endpoint FROM attempts
    WHERE ended <> 'undo' AND NOT collected
    LIMIT {AT_ONCE}
)
SELECT a.request_id::text, a.attempt, a.nonce, a.ended, coalesce(a.endpoint, r.endpoint), r.input,
       r.file_access, CASE WHEN a.endpoint IS NOT NULL THEN r.fallback END
FROM due a JOIN requests r ON r.id = a.request_id
"""
COLLECT = f"""
-- name: list_garbage
WITH named AS (
    SELECT * FROM json_to_recordset(%(attempts)s::json) AS x(id uuid, attempt integer)
),
noted AS (
    {
    put_files(
        "json_to_recordset(%(keys)s::json) AS x(key text, after_s double precision)",
        "now() + make_interval(secs => x.after_s)",
    )
}
)
UPDATE attempts a SET collected = true FROM named n
WHERE a.request_id = n.id AND a.attempt = n.attempt
"""


class GarbageFiles:
    """Mark the files of unsuccessful attempts for deletion."""

    def __init__(self, database: Database, terms: LeaseTerms) -> None:
        self._database = database
        self._terms = terms

    async def collect(self) -> None:
        """Mark the files of all unsuccessful attempts that were not collected yet."""
        while rows := await self._database.rows(DUE):
            keys = [
                {"key": key, "after_s": DEAD_S if ended in WITHOUT_REPLICA else ALIVE_S}
                for *lease, ended, endpoint, input_, access, fallback in rows
                for key in self._keys(LeaseKey(*lease), endpoint, input_, access or "", fallback)
            ]
            attempts = [{"id": request_id, "attempt": attempt} for request_id, attempt, *_ in rows]
            params = {"attempts": messages.compact(attempts), "keys": messages.compact(keys)}
            await self._database.rows(COLLECT, params)

    def _keys(
        self,
        lease_key: LeaseKey,
        endpoint_id: str,
        input: Mapping[str, Any],
        file_access: str,
        fallback: Mapping[str, Any] | None,
    ) -> Sequence[str]:
        endpoint = self._terms.endpoint(endpoint_id)
        if endpoint is None:
            return ()  # and so it got no lease
        try:
            if fallback is not None and (fields := fallback["fields"]) is not None:
                there = self._terms.fallback_input(endpoint_id, fields, input)
                return self._terms.leftovers(lease_key, endpoint, there, file_access)
            return self._terms.leftovers(lease_key, endpoint, input, file_access)
        except Exception:
            # A broken catalogue or storage setting must not block the others.
            with log_context(lease_key.request_id):
                log.exception(
                    "The files left by attempt %s of %s are unknown",
                    lease_key.attempt,
                    lease_key.request_id,
                )
            return ()
