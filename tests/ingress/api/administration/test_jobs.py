"""Background jobs over HTTP and on the command line."""

from __future__ import annotations

from typing import cast

from serve_app.cli.connection.resources import table
from serve_app.jobs.jobs import JobKind
from serve_app.resources.jobs import JOBS
from serve_app.tenants.scopes import READ
from tests.fakes.jobs import FakeJobs
from tests.ingress.house import House

JOB = "notice/evt_1"


async def given_up(jobs: FakeJobs) -> None:
    """Put ``JOB`` for the tenant ``ann``, and give it up after its first attempt."""
    jobs.put("notice", "evt_1", "ann")
    taken = await jobs.take(JobKind("notice", 1.0, 1.0), 1)
    await jobs.give_up(taken, "The receiver answered 500.")


async def test_an_operator_sees_the_jobs_that_fail_and_why(idle: House) -> None:
    await given_up(cast("FakeJobs", idle.services.jobs))
    reader = await idle.keys.create("default", scopes=frozenset({READ}))
    async with idle.client() as operator, idle.client(str(reader)) as other:
        (job,) = (await operator.get("/v1/jobs")).json()["jobs"]
        assert (job["job"], job["tenant"], job["attempts"]) == (JOB, "ann", 1)
        assert (job["error"], job["next_attempt_at"]) == ("The receiver answered 500.", None)
        assert (await other.get("/v1/jobs")).status_code == 403
    heading, line = table(JOBS.table_columns, [job])
    assert heading.split()[:3] == ["JOB", "TENANT", "ATTEMPTS"]
    assert line.endswith("The receiver answered 500.")


async def test_a_job_that_was_given_up_is_restarted(idle: House) -> None:
    await given_up(cast("FakeJobs", idle.services.jobs))
    async with idle.client() as operator:
        job = (await operator.post(f"/v1/jobs/{JOB}/restart")).json()
        assert (job["job"], job["attempts"], job["given_up_at"]) == (JOB, 0, None)
        unknown = await operator.post("/v1/jobs/notice/evt_2/restart")
        assert unknown.status_code == 404
        assert "There is no job notice/evt_2" in unknown.text
    assert [*await idle.services.jobs.due_kinds(["notice"])] == ["notice"]
