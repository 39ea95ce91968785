"""Resume points of running requests. The snapshots themselves are in storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import StoredSnapshot
from serve_app.jobs.postgres import put_files
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import lease_columns

TICKET_S = 3600.0
"""Seconds after the issue of its ticket at which an unreferenced upload is deleted."""

# For `lease_until IS NOT NULL` see end_attempt.py.
KEEP = f"""
-- name: keep_snapshots
WITH named AS (
    SELECT * FROM json_to_recordset(%(kept)s::json) AS x(
        id uuid, attempt integer, nonce bigint, key text, step integer)
),
held AS (
    SELECT r.id, r.snapshot AS before, n.key, n.step
    FROM named n JOIN requests r ON r.id = n.id
    WHERE r.lease_until IS NOT NULL AND r.attempt = n.attempt AND r.lease_nonce = n.nonce
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
),
noted AS (
    UPDATE requests r SET snapshot = h.key, snapshot_step = h.step FROM held h WHERE r.id = h.id
),
wanted AS (
    DELETE FROM jobs j USING held h WHERE j.kind = 'file' AND j.key = h.key
)
{put_files("(SELECT before AS key FROM held WHERE before <> key) replaced")}
"""
EXPECT = f"""
-- name: expect_snapshots
{
    put_files(
        "json_array_elements_text(%(keys)s::json) AS key",
        "now() + make_interval(secs => %(ticket_s)s)",
    )
}
"""
FORGET_ENDED = f"""
-- name: forget_snapshots
WITH ended AS (
    SELECT id, snapshot FROM requests
    WHERE snapshot IS NOT NULL AND state NOT IN ('queued', 'running')
    LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED
),
forgotten AS (
    UPDATE requests r SET snapshot = NULL, snapshot_step = NULL FROM ended e WHERE r.id = e.id
)
{put_files("(SELECT snapshot AS key FROM ended) outdated")}
"""


async def store(database: Database, kept: Mapping[LeaseKey, StoredSnapshot]) -> None:
    """Store the latest snapshot of each attempt that holds its lease. Earlier ones are marked for
    deletion.
    """
    own = {lease: snapshot for lease, snapshot in kept.items() if belongs_to(lease, snapshot.key)}
    if not own:
        return
    named = [
        {**lease_columns(lease), "key": snapshot.key, "step": snapshot.step}
        for lease, snapshot in own.items()
    ]
    await database.rows(KEEP, {"kept": messages.compact(named)})


async def store_tickets(database: Database, keys: Sequence[str]) -> None:
    """Mark the keys of issued tickets for later deletion, in case they are never kept."""
    if keys:
        await database.rows(EXPECT, {"keys": messages.compact(list(keys)), "ticket_s": TICKET_S})


async def forget_ended(database: Database) -> None:
    """Mark the snapshots of ended requests for deletion."""
    await database.rows(FORGET_ENDED)


def belongs_to(lease_key: LeaseKey, key: str) -> bool:
    """True if the attempt got a ticket for the key. Without this check a replica could have any
    object deleted.
    """
    return key.startswith(f"s/{lease_key.request_id}/{lease_key.attempt}/")
