"""Files in storage to delete: those of attempts that ended without success, and all objects that a
transaction made unneeded.

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
    WHERE ended NOT IN ('succeeded', 'undo') AND NOT collected
    LIMIT {AT_ONCE}
)
SELECT a.request_id::text, a.attempt, a.nonce, a.ended, coalesce(a.endpoint, r.endpoint), r.input,
       r.file_access, CASE WHEN a.endpoint IS NOT NULL THEN r.fallback END
FROM due a JOIN requests r ON r.id = a.request_id
"""
COLLECT = """
-- name: list_garbage
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
                for *held, ended, endpoint, input_, access, fallback in rows
                for key in self._keys(LeaseKey(*held), endpoint, input_, access or "", fallback)
            ]
            attempts = [{"id": request_id, "attempt": attempt} for request_id, attempt, *_ in rows]
            params = {"attempts": messages.compact(attempts), "keys": messages.compact(keys)}
            await self._database.rows(COLLECT, params)

    def _keys(
        self,
        held: LeaseKey,
        endpoint_id: str,
        input: Mapping[str, Any],
        file_access: str,
        fallback: Mapping[str, Any] | None,
    ) -> Sequence[str]:
        endpoint = self._terms.endpoint(endpoint_id)
        if endpoint is None:
            return ()  # and so it got no lease
        try:
            fields = None if fallback is None else fallback["fields"]
            given = (
                input if fields is None else self._terms.fallback_input(endpoint_id, fields, input)
            )
            return self._terms.leftovers(held, endpoint, given, file_access)
        except Exception:
            # A broken catalogue or storage setting must not block the others.
            with log_context(held.request_id):
                log.exception(
                    "The files left by attempt %s of %s are unknown", held.attempt, held.request_id
                )
            return ()


# Objects in storage that are no longer needed. They are recorded in the transaction that made
# them unneeded, and deleted later by any process.

AGAIN_S = 300.0
"""Seconds after which another process retries: the one that took the keys may have died."""

# A file of an executor may be due while its attempt still runs, and one that was asked for again at
# the moment of its success may still be marked.
TAKE = """
-- name: take_garbage
WITH due AS MATERIALIZED (
    SELECT key, regexp_match(
        key, '(?:^|/)r/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,9})/') AS made
    FROM unwanted WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
later AS (
    UPDATE unwanted u SET due_at = now() + make_interval(secs => %(again_s)s)
    FROM due d WHERE u.key = d.key
)
SELECT d.key FROM due d
WHERE NOT EXISTS (SELECT FROM artifacts a WHERE a.key = d.key)
  AND NOT EXISTS (
    SELECT FROM requests r WHERE r.id = d.made[1]::uuid AND r.attempt = d.made[2]::integer
    AND r.lease_until IS NOT NULL)
"""
FORGET = """
DELETE FROM unwanted WHERE key IN (SELECT json_array_elements_text(%(keys)s::json))
"""


class UnwantedFiles:
    """Keys of objects to delete."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, most: int) -> Sequence[str]:
        """Take keys to delete now. Unless they are forgotten, they are returned again after
        ``AGAIN_S``.
        """
        rows = await self._database.rows(TAKE, {"again_s": AGAIN_S, "most": most})
        return [key for (key,) in rows]

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove the keys of deleted objects."""
        await self._database.rows(FORGET, {"keys": messages.compact(list(keys))})
