"""Reports: leases renewed, progress noted, the cancelled and the fenced named."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import Held, Report, ReportReply
from serve_app.domain.ports import LeaseTerms
from serve_app.domain.progress import Preview, Progress
from serve_app.queue import snapshots, wording
from serve_app.queue.batcher import Batcher
from serve_app.queue.database import Database
from serve_app.queue.limits import QueueLimits
from serve_app.queue.watch import Watch

# A lease is written again only when a quarter of it has passed: reports come twice a second, and
# each such write is a new version of the row in every index. (For `lease_until IS NOT NULL` see
# endings.py.)
REPORT = """
WITH named AS (
    SELECT DISTINCT id, attempt
    FROM json_to_recordset(%(held)s::json) AS x(id uuid, attempt integer)
),
due AS (
    SELECT r.id FROM requests r JOIN named n ON n.id = r.id
    WHERE r.lease_until IS NOT NULL AND r.attempt = n.attempt AND (
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
        id uuid, attempt integer, stage text, step bigint, steps bigint, rate double precision,
        preview text, preview_step bigint)
    JOIN requests r ON r.id = x.id AND r.attempt = x.attempt
        AND r.lease_until IS NOT NULL
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
SELECT n.id::text, n.attempt,
       coalesce(r.state = 'running' AND r.attempt = n.attempt, false), r.cancel_requested,
       coalesce(r.previews AND p.watched_until > now(), false)
FROM named n LEFT JOIN requests r ON r.id = n.id LEFT JOIN progress p ON p.request_id = n.id
"""


class Reports:
    def __init__(
        self, database: Database, terms: LeaseTerms, limits: QueueLimits, watch: Watch
    ) -> None:
        self._database = database
        self._terms = terms
        self._limits = limits
        self._watch = watch
        self._batcher: Batcher[Report, ReportReply] = Batcher(self._run, in_flight=1)

    async def report(self, report: Report) -> ReportReply:
        if not report.renewals and not report.progress:
            return ReportReply()
        return await self._batcher.put(report)

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _run(self, reports: Sequence[Report]) -> Sequence[ReportReply]:
        progress = {held: each for report in reports for held, each in report.progress}
        previews = {held: each for report in reports for held, each in report.previews}
        rows = await self._database.rows(
            REPORT,
            {
                "held": wording.compact(
                    [
                        {"id": held.request_id, "attempt": held.attempt}
                        for report in reports
                        for held in report.renewals
                    ]
                ),
                "progress": wording.compact(
                    [_row(held, each, previews.get(held)) for held, each in progress.items()]
                ),
                "lease_s": self._limits.lease_s,
            },
        )
        holds = {Held(id_, attempt): holds for id_, attempt, holds, *_ in rows}
        asked = {Held(id_, attempt) for id_, attempt, _, cancelled, _ in rows if cancelled}
        watched = {Held(id_, attempt) for id_, attempt, *_, watched in rows if watched}
        for held, each in progress.items():
            if holds.get(held, True):
                preview = previews.get(held)
                self._watch.learn_progress(held, each, preview.step if preview else 0)
        await snapshots.keep(
            self._database, {held: each for report in reports for held, each in report.snapshots}
        )
        wanted = {held for report in reports for held in report.wants_tickets if holds.get(held)}
        tickets = {held: self._terms.snapshot_ticket(held) for held in wanted}
        await snapshots.expect(self._database, [each.key for each in tickets.values()])
        return [_reply(report, holds, asked, watched, tickets) for report in reports]


def _row(held: Held, progress: Progress, preview: Preview | None) -> Mapping[str, Any]:
    return {
        "id": held.request_id,
        "attempt": held.attempt,
        "stage": progress.stage,
        "step": progress.step,
        "steps": progress.steps,
        "rate": progress.rate,
        "preview": b64encode(preview.picture).decode() if preview else None,
        "preview_step": preview.step if preview else 0,
    }


def _reply(
    report: Report,
    holds: dict[Held, bool],
    asked: set[Held],
    watched: set[Held],
    tickets: dict[Held, UploadTicket],
) -> ReportReply:
    return ReportReply(
        cancelled=tuple(held for held in report.renewals if holds[held] and held in asked),
        fenced=tuple(held for held in report.renewals if not holds[held]),
        snapshot_tickets=tuple(
            (held, tickets[held]) for held in report.wants_tickets if held in tickets
        ),
        watched=tuple(held for held in report.renewals if holds[held] and held in watched),
    )
