"""Apps on a replica: one process of each, whatever happens at once, and none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from deployments.executors.base import Event, ExecutorWork
from deployments.executors.hosts import AppHost
from deployments.executors.kind import AppPlan
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.progress import Progress
from serve_app.telemetry.logs import log_context, request_id
from tests.deployments.waiting import until

ENDPOINT = Endpoint("apps/studio", "python", Weights(""), "json")


class FakeExecutor:
    """Executor without a process. ``ends`` lets its end go on."""

    concurrency = 2

    def __init__(self, ends: asyncio.Event, home: Path) -> None:
        self.alive = False
        self.home = home
        self.about: str | None = None  # request of the log lines of its start
        self.closing = asyncio.Event()
        self.closed = False
        self._ends = ends

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        del on_progress
        self.home.mkdir(parents=True)
        self.alive, self.about = True, request_id.get()

    def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        raise NotImplementedError

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        raise NotImplementedError

    async def aclose(self, grace_s: float) -> None:
        del grace_s
        self.closing.set()
        await self._ends.wait()
        self.alive, self.closed = False, True


class Apps:
    """A host of one app, whose version is the value of its secret, and the executors it made."""

    def __init__(self, folder: Path, max_apps: int = 4) -> None:
        self.made: list[FakeExecutor] = []
        self.uses = 0
        self.ends = asyncio.Event()
        self.ends.set()
        self.host = AppHost(self._plan, max_apps, folder / "homes")

    def _plan(self, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
        del endpoint

        def make(home: Path) -> FakeExecutor:
            self.made.append(FakeExecutor(self.ends, home))
            return self.made[-1]

        return AppPlan("studio", make, secrets[0].value)

    async def use(self, version: str, leave: asyncio.Event) -> None:
        """Use the app until ``leave`` is set."""
        secrets = [Secret("KEY", "", version)]
        async with self.host.use(ENDPOINT, secrets, lambda _: None):
            self.uses += 1
            await leave.wait()


@pytest.fixture
def apps(tmp_path: Path) -> Apps:
    return Apps(tmp_path)


async def test_requests_that_come_while_an_older_version_ends_share_one_new_process(
    apps: Apps,
) -> None:
    leave = asyncio.Event()
    leave.set()
    await apps.use("old", leave)
    apps.ends.clear()
    leave = asyncio.Event()
    first = asyncio.create_task(apps.use("new", leave))
    await apps.made[0].closing.wait()
    second = asyncio.create_task(apps.use("new", leave))
    await asyncio.sleep(0)
    apps.ends.set()
    await until(lambda: apps.uses == 3)
    leave.set()
    await asyncio.gather(first, second)
    await apps.host.aclose(0)
    assert len(apps.made) == 2
    assert [app.closed for app in apps.made] == [True, True]


async def test_a_dead_process_is_ended_also_if_a_request_comes_before_its_last_one_has_left(
    apps: Apps,
) -> None:
    leave, stay = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(apps.use("1", leave))
    await until(lambda: apps.uses == 1)
    apps.made[0].alive = False  # such as a server that says that it is defunct
    second = asyncio.create_task(apps.use("1", stay))
    await until(lambda: apps.uses == 2)
    leave.set()
    await first
    assert [app.closed for app in apps.made] == [True, False]
    assert apps.host.ready_endpoints == (ENDPOINT.id,)
    stay.set()
    await second


async def test_a_process_that_makes_room_ends_also_if_the_request_for_that_is_stopped(
    tmp_path: Path,
) -> None:
    apps, leave = Apps(tmp_path, max_apps=1), asyncio.Event()
    leave.set()
    await apps.use("old", leave)
    apps.ends.clear()
    waiting = asyncio.create_task(apps.use("new", leave))
    await apps.made[0].closing.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    again = asyncio.create_task(apps.use("new", leave))
    await asyncio.sleep(0.01)
    assert len(apps.made) == 1  # it still takes the only place
    apps.ends.set()
    await again
    assert [app.closed for app in apps.made] == [True, False]


async def test_the_files_of_a_process_go_with_it(apps: Apps) -> None:
    leave = asyncio.Event()
    leave.set()
    await apps.use("old", leave)
    await apps.use("new", leave)
    assert [app.home.exists() for app in apps.made] == [False, True]
    await apps.host.end(apps.made[1])
    assert not apps.made[1].home.exists()


async def test_a_process_is_of_no_request_in_the_log(apps: Apps) -> None:
    leave = asyncio.Event()
    leave.set()
    with log_context("one"):
        await apps.use("1", leave)
    assert apps.made[0].about is None
