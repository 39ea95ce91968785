"""Contract of the store of background jobs: over the fake and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.jobs.jobs import Job, JobKind, Jobs
from serve_app.jobs.postgres import RESTART, PostgresJobs
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.queue_metrics import JobFigures
from tests.fakes.jobs import FakeJobs
from tests.queue.connections import LastingDatabase

PUT = f"""
INSERT INTO jobs (kind, key, tenant, payload)
SELECT %(kind)s, %(key)s, %(tenant)s, %(payload)s::jsonb {RESTART}
"""
WORK = JobKind("work", first_wait_s=1.0, max_wait_s=60.0, lease_s=600.0)
SILENT = replace(WORK, lease_s=-1.0)
FAIR = replace(WORK, fair=True)
OPERATOR = Actor("operator")
Put = Callable[..., Awaitable[None]]


@pytest.fixture(params=["fake", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Jobs, Put]]:
    if request.param == "fake":
        fake = FakeJobs(SystemClock())

        async def put_there(key: str, kind: str = "work", **fields: Any) -> None:
            fake.put(kind, key, **fields)

        yield fake, put_there
        return
    database: Database = await request.getfixturevalue("database_factory")()

    async def put(key: str, kind: str = "work", **fields: Any) -> None:
        params = {"kind": kind, "key": key, "tenant": fields.get("tenant", "")}
        payload = messages.compact(fields.get("payload", {}))
        await database.rows(PUT, {**params, "payload": payload})

    yield PostgresJobs(database), put
    await database.aclose()


@pytest.fixture
def database_factory(conninfo: str) -> Callable[[], Awaitable[Database]]:
    async def opening() -> Database:
        database = LastingDatabase(conninfo, connections=2)
        await database.start()
        return database

    return opening


@pytest.fixture
def jobs(store: tuple[Jobs, Put]) -> Jobs:
    return store[0]


@pytest.fixture
def put(store: tuple[Jobs, Put]) -> Put:
    return store[1]


async def take_job(jobs: Jobs, kind: JobKind = WORK) -> Job:
    (job,) = await jobs.take(kind, 1)
    return job


async def test_a_job_is_taken_once_and_gone_when_it_is_done(jobs: Jobs, put: Put) -> None:
    assert not await jobs.due_kinds(["work", "other"])
    await put("a", payload={"url": "http://x"}, tenant="ann")
    assert [*await jobs.due_kinds(["work", "other"])] == ["work"]
    job = await take_job(jobs)
    assert (job.key, job.tenant, job.payload, job.attempts) == ("a", "ann", {"url": "http://x"}, 1)
    assert 0.0 <= job.age_s < 60.0
    assert not await jobs.take(WORK, 5)
    await jobs.finish([job])
    assert not await jobs.take(SILENT, 5)
    assert (await jobs.backlog(["work"]))["work"] == JobFigures(0, 0.0, 0)


async def test_a_process_takes_only_jobs_of_the_kind_and_no_more_than_it_asks_for(
    jobs: Jobs, put: Put
) -> None:
    for key in ("a", "b", "c"):
        await put(key)
    await put("d", kind="other")
    assert len(await jobs.take(WORK, 2)) == 2
    assert [job.key for job in await jobs.take(WORK, 2)] == ["c"]


async def test_the_job_of_a_silent_process_is_taken_by_another_and_only_that_may_end_it(
    jobs: Jobs, put: Put
) -> None:
    await put("a")
    silent = await take_job(jobs, SILENT)
    job = await take_job(jobs)
    assert job.attempts == 2
    assert await jobs.renew(WORK, [silent]) == 0
    await jobs.finish([silent])
    await jobs.give_up([silent], "not mine")
    await jobs.retry([silent], 0.0)
    assert not await jobs.take(WORK, 1)
    assert await jobs.renew(WORK, [job]) == 1


async def test_a_job_that_failed_waits_for_its_next_attempt(jobs: Jobs, put: Put) -> None:
    await put("a")
    await jobs.retry([await take_job(jobs)], 600.0, "It is away.")
    assert not await jobs.take(WORK, 1)
    await put("b")
    await jobs.retry([await take_job(jobs)], 0.0, "It is away.")
    again = await take_job(jobs)
    assert (again.key, again.attempts) == ("b", 2)


async def test_a_job_that_only_waits_counts_no_attempt(jobs: Jobs, put: Put) -> None:
    await put("a")
    for _ in range(3):
        job = await take_job(jobs)
        assert job.attempts == 1
        await jobs.retry([job], 0.0, counts=False)


async def test_a_job_that_is_given_up_is_counted_until_it_is_forgotten(
    jobs: Jobs, put: Put
) -> None:
    await put("a")
    await jobs.give_up([await take_job(jobs)], "It did not work.")
    assert not await jobs.due_kinds(["work"])
    assert not await jobs.take(SILENT, 1)
    assert (await jobs.backlog(["work", "other"]))["work"].given_up == 1
    await jobs.forget(600.0)
    assert (await jobs.backlog(["work"]))["work"].given_up == 1
    await jobs.forget(-1.0)
    assert (await jobs.backlog(["work"]))["work"].given_up == 0


async def test_jobs_that_fail_are_listed_with_their_errors_until_they_succeed(
    jobs: Jobs, put: Put
) -> None:
    for key in ("waits", "fails", "fails again", "is given up"):
        await put(key, tenant="house" if key == "fails" else "")
    waits, fails, again, given_up = sorted(await jobs.take(WORK, 4), key=lambda job: job.age_s)[
        ::-1
    ]
    await jobs.retry([waits], 60.0, counts=False)
    await jobs.retry([fails], 60.0, "It is away.")
    await jobs.retry([again], 0.0, "It is away.")
    await jobs.give_up([given_up], "It did not work.")
    running = await take_job(jobs)
    first, second, third = await jobs.failing(10)
    assert (first.job, first.error) == ("work/is given up", "It did not work.")
    assert first.given_up_at is not None
    assert first.next_attempt_at is None
    assert (second.job, second.tenant, second.attempts) == ("work/fails", "house", 1)
    assert second.next_attempt_at is not None
    assert (third.job, third.attempts, third.next_attempt_at) == ("work/fails again", 2, None)
    await jobs.finish([running])
    assert [entry.job for entry in await jobs.failing(10)] == [first.job, second.job]
    assert [entry.job for entry in await jobs.failing(1)] == [first.job]


async def test_a_job_that_is_put_again_while_it_runs_is_run_again(jobs: Jobs, put: Put) -> None:
    await put("a")
    first = await take_job(jobs)
    await put("a", payload={"new": True})
    await jobs.finish([first])
    again = await take_job(jobs)
    assert (again.payload, again.attempts) == ({"new": True}, 1)


async def test_a_job_that_was_given_up_begins_again_when_it_is_put_again(
    jobs: Jobs, put: Put
) -> None:
    await put("a")
    await jobs.give_up([await take_job(jobs)], "It did not work.")
    await put("a")
    assert (await take_job(jobs)).attempts == 1


async def test_a_failing_job_is_restarted_at_once_with_its_attempts_counted_anew(
    jobs: Jobs, put: Put
) -> None:
    for key in ("is given up", "waits/in a folder", "runs again", "never failed"):
        await put(key)
    given_up, waits, runs = [await take_job(jobs) for _ in range(3)]
    await jobs.give_up([given_up], "It did not work.")
    await jobs.retry([runs], 0.0, "It is away.")
    (runs,) = [entry for entry in await jobs.take(WORK, 2) if entry.key == runs.key]
    await jobs.retry([waits], 600.0, "It is away.")
    for key in ("is given up", "waits/in a folder"):
        restarted = await jobs.restart(f"work/{key}", OPERATOR)
        assert restarted is not None
        assert (restarted.attempts, restarted.given_up_at) == (0, None)
    assert {job.key for job in await jobs.take(WORK, 9)} == {"is given up", "waits/in a folder"}
    assert await jobs.restart("work/runs again", OPERATOR) is not None
    assert not await jobs.due_kinds(["work"])
    assert await jobs.renew(WORK, [runs]) == 1
    for job in ("work/never failed", "work/unknown", "work", ""):
        assert await jobs.restart(job, OPERATOR) is None


async def test_jobs_of_tenants_with_none_under_way_are_taken_first(jobs: Jobs, put: Put) -> None:
    for key in ("a", "b", "c"):
        await put(key, tenant="house")
    await put("d", tenant="other")
    tenants = [(await take_job(jobs, FAIR)).tenant for _ in range(4)]
    assert tenants == ["house", "other", "house", "house"]


async def test_a_process_takes_no_job_of_a_tenant_that_it_names(jobs: Jobs, put: Put) -> None:
    await put("a", tenant="house")
    await put("b", tenant="other")
    assert [job.tenant for job in await jobs.take(FAIR, 1, ["house"])] == ["other"]
    assert not await jobs.take(FAIR, 1, ["house", "other"])


async def test_the_backlog_counts_what_is_due_by_kind(jobs: Jobs, put: Put) -> None:
    await put("a")
    await put("b")
    await put("c", kind="other")
    await take_job(jobs)
    backlog = await jobs.backlog(["work", "other", "none"])
    assert {kind: counts.due for kind, counts in backlog.items()} == {
        "work": 1,
        "other": 1,
        "none": 0,
    }
    assert backlog["none"].oldest_s == 0.0
    assert 0.0 <= backlog["work"].oldest_s < 60.0
