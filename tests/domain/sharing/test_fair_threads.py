"""Threads that tenants share, with work that blocks them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest

from serve_app.domain.sharing.fair_queue import FairThreads, work_of

PATIENCE_S = 60.0
THREADS = 4


class Blocked:
    """Work that ends when it is released."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.released = threading.Event()

    def __call__(self) -> str:
        self.began.release()
        assert self.released.wait(PATIENCE_S)
        return "released"

    def until_began(self, count: int) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=PATIENCE_S)


@pytest.fixture
def blocking_work() -> Iterator[Blocked]:
    blocker = Blocked()
    yield blocker
    blocker.released.set()


@pytest.fixture
def threads(blocking_work: Blocked) -> Iterator[FairThreads]:
    pool = FairThreads(THREADS, "test")
    yield pool
    blocking_work.released.set()
    pool.shutdown(cancel_futures=True)


def blocks(threads: FairThreads, tenant: str, blocked: Blocked, count: int) -> list[Future[str]]:
    with work_of(tenant):
        return [threads.submit(blocked) for _ in range(count)]


def test_another_tenants_work_runs_beside_forty_blocked_jobs(
    threads: FairThreads, blocking_work: Blocked
) -> None:
    waiting = blocks(threads, "mallory", blocking_work, 40)
    blocking_work.until_began(2)
    with work_of("bob"):
        assert threads.submit(str, 7).result(PATIENCE_S) == "7"
    assert threads.waiting == 38
    blocking_work.released.set()
    assert [future.result(PATIENCE_S) for future in waiting] == ["released"] * 40
    assert threads.waiting == 0


def test_a_tenant_that_finds_no_free_thread_has_its_turn(blocking_work: Blocked) -> None:
    threads = FairThreads(1, "test")
    order: list[str] = []
    futures: list[Future[None]] = []
    blocks(threads, "ann", blocking_work, 1)
    for tenant in ["ann"] * 20 + ["cy"] * 20 + ["bob"]:
        with work_of(tenant):
            futures.append(threads.submit(order.append, tenant))
    blocking_work.released.set()
    for future in futures:
        future.result(PATIENCE_S)
    assert order[:5] == ["ann", "cy", "bob", "ann", "cy"]
    assert len(order) == 41
    threads.shutdown()


async def test_a_waiting_job_that_is_cancelled_never_runs_and_gives_its_place_back(
    threads: FairThreads, blocking_work: Blocked
) -> None:
    blocks(threads, "ann", blocking_work, 2)
    blocking_work.until_began(2)
    ran: list[str] = []
    loop = asyncio.get_running_loop()
    with work_of("ann"):
        cancelled = loop.run_in_executor(threads, ran.append, "cancelled")
        after = loop.run_in_executor(threads, ran.append, "after")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await asyncio.sleep(0)  # asyncio tells the thread's future in the next turn of the loop
    assert threads.waiting == 1
    blocking_work.released.set()
    await after
    assert ran == ["after"]


def test_errors_reach_the_caller_and_free_the_thread(
    threads: FairThreads, blocking_work: Blocked
) -> None:
    blocks(threads, "ann", blocking_work, 2)
    with work_of("ann"):
        waiting = [threads.submit(int, "x") for _ in range(10)]
    blocking_work.released.set()
    for future in waiting:
        with pytest.raises(ValueError, match="invalid literal"):
            future.result(PATIENCE_S)
    with work_of("ann"):
        for _ in range(10):
            with pytest.raises(ValueError, match="invalid literal"):
                threads.submit(int, "x").result(PATIENCE_S)
        assert threads.submit(int, "7").result(PATIENCE_S) == 7


def test_a_shutdown_cancels_what_waits(threads: FairThreads, blocking_work: Blocked) -> None:
    running, *waiting = blocks(threads, "ann", blocking_work, 5)
    blocking_work.until_began(2)
    threads.shutdown(wait=False)
    for future in waiting[1:]:
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
    blocking_work.released.set()
    assert running.result(PATIENCE_S) == "released"
    with pytest.raises(RuntimeError):
        threads.submit(int)


def test_threads_are_never_more_than_the_pool_has(threads: FairThreads) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    futures: list[Future[None]] = []
    for number in range(2000):
        with work_of(f"tenant {number % 7}"):
            futures.append(threads.submit(work))
        if number % 5 == 0:
            futures.pop().cancel()
    for future in futures:
        future.result(PATIENCE_S)
    assert most <= THREADS
    assert threads.waiting == 0
    with work_of("last"):  # every share came back
        assert threads.submit(int).result(PATIENCE_S) == 0
