"""Reports of replicas: renew leases, store progress, and return the cancelled and fenced
attempts.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import StorageUnavailable
from serve_app.domain.lease import LeaseKey, LeaseTerms, Report, ReportReply
from serve_app.domain.progress import Preview, Progress
from serve_app.postgres.database import UNAWAITED, Database
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import lease_columns
from serve_app.queue.transactions import snapshots
from serve_app.telemetry.queue_metrics import QueueMeter

UNFOLLOWED_REPORT_S = 2.0
"""Longest time between two reports about requests that no client follows."""

# A lease is written again only when a quarter of it has passed: reports come more often, and
# each such write is a new version of the row. A renewal that a crash of the server loses is made
# again: reaping waits for one lease time then. (For `lease_until IS NOT NULL` see
# end_attempt.py.)
REPORT = f"""
-- name: report
WITH named AS (
    SELECT DISTINCT id, attempt, nonce
    FROM json_to_recordset(%(held)s::json) AS x(id uuid, attempt integer, nonce bigint)
),
due AS (
    SELECT r.id FROM requests r JOIN named n ON n.id = r.id
    WHERE r.lease_until IS NOT NULL AND r.attempt = n.attempt AND r.lease_nonce = n.nonce AND (
        NOT r.confirmed OR r.lease_until < now() + make_interval(secs => 0.75 * %(lease_s)s))
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
),
renewed AS (
    UPDATE requests r SET
        confirmed = true, start_by = NULL,
        lease_until = now() + make_interval(secs => %(lease_s)s)
    FROM due WHERE r.id = due.id
),
noted AS (
    INSERT INTO progress AS p (
        request_id, attempt, stage, step, steps, rate, preview, preview_step)
    SELECT DISTINCT ON (x.id) x.id, x.attempt, x.stage, x.step, x.steps, x.rate,
           decode(x.preview, 'base64'), x.preview_step
    FROM json_to_recordset(%(progress)s::json) AS x(
        id uuid, attempt integer, nonce bigint, stage text, step bigint, steps bigint,
        rate double precision, preview text, preview_step bigint)
    JOIN requests r ON r.id = x.id AND r.attempt = x.attempt
        AND r.lease_nonce = x.nonce AND r.lease_until IS NOT NULL
    ORDER BY x.id
    ON CONFLICT (request_id) DO UPDATE SET
        attempt = excluded.attempt, stage = excluded.stage,
        step = excluded.step, steps = excluded.steps, rate = excluded.rate, at = now(),
        preview = CASE WHEN excluded.preview_step > 0 OR p.attempt < excluded.attempt
            THEN excluded.preview ELSE p.preview END,
        preview_step = CASE WHEN excluded.preview_step > 0 OR p.attempt < excluded.attempt
            THEN excluded.preview_step ELSE p.preview_step END
    WHERE p.attempt <= excluded.attempt
)
SELECT n.id::text, n.attempt, n.nonce,
       coalesce(r.state = 'running' AND r.attempt = n.attempt AND r.lease_nonce = n.nonce, false),
       r.cancel_requested,
       coalesce(r.previews AND p.watched_until > now(), false),
       coalesce(p.followed_until > now(), false), r.tenant, {UNAWAITED}
FROM named n LEFT JOIN requests r ON r.id = n.id LEFT JOIN progress p ON p.request_id = n.id
"""


class Heartbeats:
    """Process reports in batches, one statement at a time."""

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        terms: LeaseTerms,
        state: QueueState,
        metrics: QueueMeter,
    ) -> None:
        self._database = database
        self._terms = terms
        self._limits = limits
        self._state = state
        self._metrics = metrics
        self._batcher: Batcher[Report, ReportReply] = Batcher(self._run, in_flight=1)

    async def report(self, report: Report) -> ReportReply:
        self._state.replicas.record_report(report)
        if not (report.renewals or report.progress or report.snapshots):
            return ReportReply()
        return await self._batcher.call(report)

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _run(self, reports: Sequence[Report]) -> Sequence[ReportReply]:
        progress = {key: value for report in reports for key, value in report.progress}
        previews = {key: value for report in reports for key, value in report.previews}
        rows = await self._database.rows(
            REPORT,
            {
                "held": messages.compact(
                    [lease_columns(key) for report in reports for key in report.renewals]
                ),
                "progress": messages.compact(
                    [
                        _progress_columns(key, value, previews.get(key))
                        for key, value in progress.items()
                    ]
                ),
                "lease_s": self._limits.lease_s,
            },
        )
        named = [_NamedLease(*columns) for *columns, _unawaited in rows]
        leases = {lease.key: lease for lease in named}
        self._metrics.count_fenced("report", sum(not lease.is_held for lease in named))
        for key, current in progress.items():
            if key not in leases or leases[key].is_held:
                preview = previews.get(key)
                self._state.requests.update_progress(key, current, preview.step if preview else 0)
        await snapshots.store(
            self._database,
            {key: snapshot for report in reports for key, snapshot in report.snapshots},
        )
        wanted = {key for report in reports for key in report.wants_tickets}
        tickets = self._tickets([leases[key] for key in wanted if key in leases])
        await snapshots.store_tickets(self._database, [ticket.key for ticket in tickets.values()])
        return [
            _reply(report, leases, tickets, next_in_s=self._next_in_s(report, leases))
            for report in reports
        ]

    def _tickets(self, leases: Sequence[_NamedLease]) -> Mapping[LeaseKey, UploadTicket]:
        """Tickets for snapshots of the leases that are held. A tenant whose storage cannot be used
        gets none, and its replica asks again: the reports of others must not wait for it."""
        tickets: dict[LeaseKey, UploadTicket] = {}
        for lease in leases:
            if lease.is_held:
                with suppress(StorageUnavailable):
                    tickets[lease.key] = self._terms.snapshot_ticket(lease.key, lease.tenant)
        return tickets

    def _next_in_s(self, report: Report, leases: Mapping[LeaseKey, _NamedLease]) -> float:
        """How much later the next report may come; 0 while a client follows one of its requests."""
        followed = self._state.requests.is_followed
        if any(leases[key].is_followed or followed(key.request_id) for key in report.renewals):
            return 0.0
        return min(UNFOLLOWED_REPORT_S, self._limits.lease_s / 8)


class _NamedLease(NamedTuple):
    """Lease that a report names, with what the database knows of it: a row of ``REPORT``."""

    request_id: str
    attempt: int
    nonce: int
    is_held: bool  # False: fenced
    cancel_requested: bool
    is_watched: bool  # a client reads its previews
    is_followed: bool  # a client reads its progress
    tenant: str

    @property
    def key(self) -> LeaseKey:
        return LeaseKey(self.request_id, self.attempt, self.nonce)


def _progress_columns(
    key: LeaseKey, progress: Progress, preview: Preview | None
) -> Mapping[str, Any]:
    return {
        **lease_columns(key),
        "stage": progress.stage,
        "step": progress.step,
        "steps": progress.steps,
        "rate": progress.rate,
        "preview": b64encode(preview.image).decode() if preview else None,
        "preview_step": preview.step if preview else 0,
    }


def _reply(
    report: Report,
    leases: Mapping[LeaseKey, _NamedLease],
    tickets: Mapping[LeaseKey, UploadTicket],
    next_in_s: float,
) -> ReportReply:
    held_keys = [key for key in report.renewals if leases[key].is_held]
    return ReportReply(
        cancelled=tuple(key for key in held_keys if leases[key].cancel_requested),
        fenced=tuple(key for key in report.renewals if not leases[key].is_held),
        snapshot_tickets=tuple(
            (key, tickets[key]) for key in report.wants_tickets if key in tickets
        ),
        watched=tuple(key for key in held_keys if leases[key].is_watched),
        next_in_s=next_in_s,
    )
