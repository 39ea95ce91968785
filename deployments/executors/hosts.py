"""The apps whose processes run on a replica: started when a request needs them, and kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from deployments.executors.base import AppExecutor
from deployments.executors.kind import AppPlan
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import AppNotStarted, DarkroomError, ReplicaDied, SecretMissing
from serve_app.domain.executors.secrets import Secret, named_by
from serve_app.domain.progress import Progress

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0

STARTS = 5
"""Processes of an app that a request sees end before it begins, until it gives up."""


MakePlan = Callable[[Endpoint, Sequence[Secret]], AppPlan]
"""Function from an endpoint, and the secrets that it names, to its app."""


class AppRetry(ReplicaDied):
    """Raised where the process of an app was ended because of another of its requests. It does not
    leave the replica: the attempt is handed back."""


class ProcessPlaces:
    """Places for the requests of one process, taken in the order in which they are asked for."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._free = asyncio.Semaphore(number)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def take(self, *, alone: bool) -> AsyncGenerator[None]:
        """Take a place. ``alone``: all of them, so that no other request runs meanwhile."""
        async with AsyncExitStack() as taken:
            async with self._turn:
                for _ in range(self._number if alone else 1):
                    await taken.enter_async_context(self._free)
            yield


@dataclass
class HostedApp:
    """An app on this replica."""

    executor: AppExecutor
    home: Path  # may not be there
    started: asyncio.Task[None]
    places: ProcessPlaces
    endpoints: set[str] = field(default_factory=set[str])
    users: int = 0
    last_used: int = 0
    disobeyed: bool = False  # it was ended because a stopped request went on

    @property
    def ready(self) -> bool:
        task = self.started
        done = task.done() and not task.cancelled() and task.exception() is None
        return done and self.executor.alive

    async def remove_home(self) -> None:
        """Delete the files of its process, which has ended. Those of results lie elsewhere."""
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)


class AppHost:
    """Apps of one replica, at most ``max_apps`` processes. Use on one event loop.

    Above that, the app that has not been used for the longest time ends, or else the next one waits
    until one is not in use.
    """

    def __init__(self, make: MakePlan, max_apps: int, homes: Path) -> None:
        """``homes``: folder with one folder for each process, which is removed after its end."""
        self._make = make
        self._max_apps = max_apps
        self._homes = homes
        self._apps: dict[tuple[str, str], HostedApp] = {}
        self._changed = asyncio.Condition()
        self._uses = 0
        self._beginning: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()  # processes, which still take their place

    @property
    def ready_endpoints(self) -> tuple[str, ...]:
        """Endpoints whose apps run."""
        return tuple(id_ for app in self._apps.values() if app.ready for id_ in app.endpoints)

    @asynccontextmanager
    async def use(
        self,
        endpoint: Endpoint,
        secrets: Sequence[Secret],
        on_progress: Callable[[Progress], None],
        *,
        alone: bool = False,
    ) -> AsyncGenerator[AppExecutor]:
        """The executor of an endpoint's app, started, with a place for one more request. ``alone``:
        no other request runs in its process meanwhile.

        ``AppRetry``: its process was ended by ``end`` meanwhile."""
        plan = self._make(endpoint, secrets)
        for _ in range(STARTS):
            async with (
                self._started(plan, endpoint, on_progress) as app,
                app.places.take(alone=alone),
            ):
                # A process that another request has ended while this one waited for a place, or
                # during its start, is no failure of this one.
                if app.executor.alive:
                    yield app.executor
                    return
        raise AppNotStarted(f"{plan.name} ended {STARTS} times before a request could begin.")

    @asynccontextmanager
    async def _started(
        self, plan: AppPlan, endpoint: Endpoint, on_progress: Callable[[Progress], None]
    ) -> AsyncGenerator[HostedApp]:
        """An app with one more user, started."""
        key = (plan.name, plan.version)
        app = await self._app(plan, on_progress)
        app.endpoints.add(endpoint.id)
        app.users += 1
        try:
            # Shielded: another request may wait for the same start.
            await asyncio.shield(app.started)
            yield app
        except ReplicaDied as error:
            if not app.disobeyed:
                raise
            raise AppRetry(
                "The app's process was ended, because another request in it went on after it was "
                "stopped."
            ) from error
        finally:
            app.users -= 1
            self._uses += 1
            app.last_used = self._uses
            if not app.executor.alive and app.started.done() and self._apps.get(key) is app:
                await self._end_app(key, 0)
            async with self._changed:
                self._changed.notify_all()

    def begin(self, plan: AppPlan) -> None:
        """Start an app before a request needs it. If it cannot start, the log says why, and the
        next request tries again."""
        self._beginning.append(asyncio.create_task(self._begin(plan)))

    async def _begin(self, plan: AppPlan) -> None:
        app = await self._app(plan, lambda _: None)
        try:
            await asyncio.shield(app.started)
        except DarkroomError as error:
            log.warning("%s does not start: %s", plan.name, error.message)

    async def end(self, executor: AppExecutor) -> None:
        """End a process that does not obey. Its other requests are repeated without a failure:
        otherwise those that others cancel would make them fail."""
        ended = [key for key, app in self._apps.items() if app.executor is executor]
        apps = [self._apps.pop(key) for key in ended]
        for app in apps:
            app.disobeyed = True
        await executor.aclose(0)
        for app in apps:
            await app.remove_home()

    async def aclose(self, grace_s: float) -> None:
        for task in self._beginning:
            task.cancel()
        apps, self._apps = list(self._apps.values()), {}
        for app in apps:
            app.started.cancel()
        await asyncio.gather(*(hosted.executor.aclose(grace_s) for hosted in apps), *self._ending)

    async def _app(self, plan: AppPlan, on_progress: Callable[[Progress], None]) -> HostedApp:
        key = (plan.name, plan.version)
        while True:
            app = self._apps.get(key)
            if app is not None and (not app.started.done() or app.ready):
                return app
            # After each wait all is looked at again: another request may have started the app.
            if app is not None:  # it is dead, and the last of its requests may not have left yet
                await self._end_app(key, 0)
            elif (other := self._other_version(plan)) is not None:
                await self._end_app(other, STOP_GRACE_S)
            elif len(self._apps) + len(self._ending) < self._max_apps:
                break
            elif idle := [app_key for app_key in self._apps if not self._apps[app_key].users]:
                oldest = min(idle, key=lambda app_key: self._apps[app_key].last_used)
                log.info("%s ends, to make room for %s.", oldest[0], plan.name)
                await self._end_app(oldest, STOP_GRACE_S)
            else:
                async with self._changed:
                    await self._changed.wait()
        home = self._homes / token_hex(8)
        executor = plan.make(home)
        # In no request's context: what the process prints may be about any of its requests.
        started = asyncio.create_task(executor.start(on_progress), context=Context())
        hosted = HostedApp(executor, home, started, ProcessPlaces(executor.concurrency))
        self._apps[key] = hosted
        return hosted

    def _other_version(self, plan: AppPlan) -> tuple[str, str] | None:
        """An idle process of the app with other secrets, which were replaced."""
        for key, app in self._apps.items():
            if key[0] == plan.name and key[1] != plan.version and not app.users:
                return key
        return None

    async def _end_app(self, key: tuple[str, str], grace_s: float) -> None:
        """End a process, also if the request that waits for that is stopped meanwhile."""
        task = asyncio.create_task(self._close(self._apps.pop(key), grace_s))
        self._ending.add(task)
        await asyncio.shield(task)

    async def _close(self, app: HostedApp, grace_s: float) -> None:
        app.started.cancel()
        try:
            await app.executor.aclose(grace_s)
            await app.remove_home()
        finally:
            self._ending -= {asyncio.current_task()}
            async with self._changed:
                self._changed.notify_all()


def variables(endpoint: Endpoint, secrets: Sequence[Secret]) -> dict[str, str]:
    """Variables of the process of an endpoint's app, by the names of its secrets.

    ``SecretMissing`` names one that is not set.
    """
    values = {secret.name: secret.value for secret in secrets}
    for name in named_by(endpoint.options):
        if name not in values:
            raise SecretMissing(
                f"{endpoint.id} needs the secret {name}, which is not set. An operator sets it "
                f"with `darkroom secrets set {name} --installation`."
            )
    return values


def secrets_version(given: Mapping[str, str]) -> str:
    """Digest of secrets: a process that has others is another one. Empty without secrets."""
    if not given:
        return ""
    return hashlib.sha256(json.dumps(sorted(given.items())).encode()).hexdigest()
