"""``/v1/jobs``: background jobs that fail."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.ingress.resources.calls import MAX_LISTED, Call, Calls
from serve_app.jobs.jobs import FailingJob
from serve_app.resources.jobs import JOBS

calls = Calls(JOBS)
ROUTES = calls.routes


@calls.list("List background jobs whose last attempt failed; first those that were given up")
async def list_jobs(call: Call) -> Sequence[FailingJob]:
    return await call.services.jobs.failing(MAX_LISTED)


@calls.act("restart", f"Restart a failing job. {JOBS.restart.rstrip('.')}", method="POST")
async def restart_job(call: Call, job: str, _: None) -> FailingJob | None:
    return await call.services.jobs.restart(job, call.actor)
