"""The loop that runs background jobs: what is done, retried, given up, or left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import DatabaseUnavailable, StorageUnavailable
from serve_app.domain.sharing.fair_queue import working_for
from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.jobs.worker import JobWorker
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.queue_metrics import QueueMeter
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import FakeJobs

WORK = JobKind("work", first_wait_s=10.0, max_wait_s=60.0, lease_s=600.0, max_attempts=3)


class Handler(JobHandler):
    kind = WORK

    def __init__(
        self, run: Callable[[Sequence[Job]], Awaitable[Sequence[Retry]]], **changes: float
    ) -> None:
        self.kind = replace(WORK, **changes)  # type: ignore[misc, arg-type]
        self._run = run
        self.given: list[str] = []

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        return await self._run(jobs)

    async def given_up(self, job: Job) -> None:
        self.given.append(job.key)


async def do_nothing(jobs: Sequence[Job]) -> Sequence[Retry]:
    return ()


async def fails(jobs: Sequence[Job]) -> Sequence[Retry]:
    raise StorageUnavailable("It is away.")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def jobs(clock: FakeClock) -> FakeJobs:
    return FakeJobs(clock)


async def test_jobs_that_are_done_are_gone(jobs: FakeJobs) -> None:
    for key in "abc":
        jobs.put("work", key)
    await JobWorker(jobs, [Handler(do_nothing)]).run_due()
    assert jobs.rows == {}


async def test_work_is_done_in_the_share_of_its_tenant(jobs: FakeJobs) -> None:
    tenants: list[str] = []

    async def note(_: Sequence[Job]) -> Sequence[Retry]:
        tenants.append(working_for())
        return ()

    jobs.put("work", "a", tenant="ann")
    await JobWorker(jobs, [Handler(note)]).run_due()
    assert tenants == ["ann"]


@pytest.mark.parametrize("error", [StorageUnavailable("It is away."), ValueError("away")])
async def test_a_job_that_fails_is_retried_later_each_time_and_then_given_up(
    jobs: FakeJobs, clock: FakeClock, error: Exception
) -> None:
    async def failing(_: Sequence[Job]) -> Sequence[Retry]:
        raise error

    handler = Handler(failing)
    worker = JobWorker(jobs, [handler])
    jobs.put("work", "a")
    row = jobs.rows["work", "a"]
    for least_s in (10.0, 20.0):
        await worker.run_due()
        assert least_s <= (row.due_at - clock.now()).total_seconds() <= 1.2 * least_s
        assert "away" in row.error
        assert handler.given == []
        clock.advance(60.0)
    await worker.run_due()
    assert row.given_up_at is not None
    assert handler.given == ["a"]
    clock.advance(3600.0)
    await worker.run_due()
    assert handler.given == ["a"]


async def test_a_job_whose_processes_end_without_a_result_is_given_up(
    jobs: FakeJobs, clock: FakeClock
) -> None:
    handler = Handler(do_nothing)
    jobs.put("work", "a")
    for _ in range(3):
        assert await jobs.take(WORK, 1)
        clock.advance(601.0)
    await JobWorker(jobs, [handler]).run_due()
    assert handler.given == ["a"]
    assert jobs.rows["work", "a"].given_up_at is not None


async def test_a_job_that_only_waits_is_never_given_up(jobs: FakeJobs, clock: FakeClock) -> None:
    async def waits(taken: Sequence[Job]) -> Sequence[Retry]:
        return [Retry(taken, 5.0, counts=False)]

    handler = Handler(waits)
    jobs.put("work", "a")
    for _ in range(10):
        await JobWorker(jobs, [handler]).run_due()
        assert (jobs.rows["work", "a"].due_at - clock.now()).total_seconds() == 5.0
        clock.advance(5.0)
    assert handler.given == []


async def test_of_jobs_done_together_only_those_that_failed_are_retried(jobs: FakeJobs) -> None:
    async def half(taken: Sequence[Job]) -> Sequence[Retry]:
        return [Retry(taken[1:], error="It is away.")]

    for key in "ab":
        jobs.put("work", key)
    await JobWorker(jobs, [Handler(half, batch=2)]).run_due()
    assert [*jobs.rows] == [("work", "b")]


async def test_a_job_that_was_removed_is_not_worked_on_any_longer(jobs: FakeJobs) -> None:
    cancelled = asyncio.Event()

    async def hangs(taken: Sequence[Job]) -> Sequence[Retry]:
        jobs.remove("work", taken[0].key)
        try:
            await asyncio.sleep(600.0)
        finally:
            cancelled.set()
        return ()

    jobs.put("work", "a")
    await JobWorker(jobs, [Handler(hangs, lease_s=0.03)]).run_due()
    assert cancelled.is_set()


async def test_a_long_job_keeps_its_lease() -> None:
    jobs = FakeJobs(SystemClock())

    async def long(_: Sequence[Job]) -> Sequence[Retry]:
        await asyncio.sleep(1.2)
        return ()

    jobs.put("work", "a")
    handler = Handler(long, lease_s=0.6)
    running = asyncio.create_task(JobWorker(jobs, [handler]).run_due())
    while not running.done():
        await asyncio.sleep(0.05)
        assert not jobs.rows or jobs.rows["work", "a"].attempts <= 1
        if jobs.rows["work", "a"].lease if jobs.rows else False:
            assert not await jobs.take(handler.kind, 1)
    assert jobs.rows == {}


async def test_jobs_under_way_at_the_end_of_a_process_are_due_for_others(jobs: FakeJobs) -> None:
    began = asyncio.Event()

    async def hangs(_: Sequence[Job]) -> Sequence[Retry]:
        began.set()
        await asyncio.sleep(600.0)
        return ()

    jobs.put("work", "a")
    worker = JobWorker(jobs, [Handler(hangs)])
    worker.start()
    await asyncio.wait_for(began.wait(), 10.0)
    await worker.aclose()
    (job,) = await jobs.take(WORK, 1)
    assert job.attempts == 1


async def test_of_a_fair_kind_a_process_runs_one_job_of_each_tenant(jobs: FakeJobs) -> None:
    at_once: list[set[str]] = []
    running: set[str] = set()

    async def note(taken: Sequence[Job]) -> Sequence[Retry]:
        running.add(taken[0].key)
        at_once.append({*running})
        await asyncio.sleep(0.01)
        running.remove(taken[0].key)
        return ()

    for key, tenant in ("a", "ann"), ("b", "ann"), ("c", "bob"):
        jobs.put("work", key, tenant=tenant)
    await JobWorker(jobs, [Handler(note, fair=True, parallel=4)]).run_due()
    assert {"a", "c"} in at_once
    assert not any({"a", "b"} <= group for group in at_once)


async def test_the_loop_survives_a_database_that_is_away(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, calls = jobs.due_kinds, 0

    async def away_at_first(kinds: Sequence[str]) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DatabaseUnavailable("PostgreSQL does not answer.")
        return await due(kinds)

    monkeypatch.setattr(jobs, "due_kinds", away_at_first)
    monkeypatch.setattr("serve_app.jobs.worker.LOOK_EVERY_S", 0.01)
    jobs.put("work", "a")
    worker = JobWorker(jobs, [Handler(do_nothing)])
    worker.start()
    async with asyncio.timeout(120):
        while jobs.rows:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await worker.aclose()


async def test_jobs_are_measured_by_kind(jobs: FakeJobs, clock: FakeClock) -> None:
    registry = CollectorRegistry()
    jobs.put("work", "a")
    jobs.put("work", "b")
    await jobs.give_up(await jobs.take(WORK, 1), "It did not work.")
    clock.advance(3600.0)
    worker = JobWorker(jobs, [Handler(fails)], QueueMeter(registry))
    await worker._measure()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"darkroom_{name}", {"kind": "work", **labels})

    figures = [value(f"jobs_{name}") for name in ("due", "running", "oldest_seconds", "given_up")]
    assert figures == [1, 0, 3600.0, 1]
    await worker.run_due()
    assert value("jobs_total", result="retried") == 1
