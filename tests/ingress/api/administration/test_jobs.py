"""Background jobs over HTTP and on the command line."""

from __future__ import annotations

from typing import cast

from serve_app.cli.connection.resources import table
from serve_app.jobs.jobs import JobKind
from serve_app.resources.jobs import JOBS
from serve_app.tenants.scopes import READ
from tests.fakes.jobs import FakeJobs
from tests.ingress.house import House


async def test_an_operator_sees_the_jobs_that_fail_and_why(idle: House) -> None:
    jobs = cast("FakeJobs", idle.services.jobs)
    jobs.put("notice", "evt_1", "ann")
    taken = await jobs.take(JobKind("notice", 1.0, 1.0), 1)
    await jobs.give_up(taken, "The receiver answered 500.")
    reader = await idle.keys.create("default", scopes=frozenset({READ}))
    async with idle.client() as operator, idle.client(str(reader)) as other:
        (job,) = (await operator.get("/v1/jobs")).json()["jobs"]
        assert (job["job"], job["tenant"], job["attempts"]) == ("notice/evt_1", "ann", 1)
        assert (job["error"], job["next_attempt_at"]) == ("The receiver answered 500.", None)
        assert (await other.get("/v1/jobs")).status_code == 403
    heading, line = table(JOBS.columns, [job])
    assert heading.split()[:3] == ["JOB", "TENANT", "ATTEMPTS"]
    assert line.endswith("The receiver answered 500.")
