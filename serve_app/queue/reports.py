"""Reports: leases renewed, progress noted, the cancelled and the fenced named."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.lease import Held, Report, ReportReply
from serve_app.queue import wording
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
    INSERT INTO progress AS p (request_id, attempt, stage, step, steps)
    SELECT DISTINCT ON (x.id) x.id, x.attempt, x.stage, x.step, x.steps
    FROM json_to_recordset(%(progress)s::json) AS x(
        id uuid, attempt integer, stage text, step bigint, steps bigint)
    JOIN requests r ON r.id = x.id AND r.attempt = x.attempt
        AND r.lease_until IS NOT NULL
    ORDER BY x.id
    ON CONFLICT (request_id) DO UPDATE SET
        attempt = excluded.attempt, stage = excluded.stage,
        step = excluded.step, steps = excluded.steps, at = now()
    WHERE p.attempt <= excluded.attempt
)
SELECT n.id::text, n.attempt,
       coalesce(r.state = 'running' AND r.attempt = n.attempt, false), r.cancel_requested
FROM named n LEFT JOIN requests r ON r.id = n.id
"""


class Reports:
    def __init__(self, database: Database, limits: QueueLimits, watch: Watch) -> None:
        self._database = database
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
                    [
                        {
                            "id": held.request_id,
                            "attempt": held.attempt,
                            "stage": each.stage,
                            "step": each.step,
                            "steps": each.steps,
                        }
                        for held, each in progress.items()
                    ]
                ),
                "lease_s": self._limits.lease_s,
            },
        )
        holds = {Held(id_, attempt): holds for id_, attempt, holds, _ in rows}
        asked = {Held(id_, attempt) for id_, attempt, _, cancelled in rows if cancelled}
        for held, each in progress.items():
            if holds.get(held, True):
                self._watch.learn_progress(held, each)
        return [_reply(report, holds, asked) for report in reports]


def _reply(report: Report, holds: dict[Held, bool], asked: set[Held]) -> ReportReply:
    return ReportReply(
        cancelled=tuple(held for held in report.renewals if holds[held] and held in asked),
        fenced=tuple(held for held in report.renewals if not holds[held]),
    )
