"""Periodic work of a process, which goes on after errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from serve_app.domain.errors import DarkroomError
from serve_app.domain.rest import REST_S, Rest

if TYPE_CHECKING:  # the command line opens storages, which have such tasks, without Prometheus
    from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[bool | None]]
"""A periodic function. False: another process does it."""


class PeriodicTask:
    """Run functions one after the other, every ``every_s``, and survive any error they raise."""

    def __init__(
        self,
        every_s: float,
        work: Mapping[str, Work],
        metrics: QueueMeter | None = None,
        rest_s: float = REST_S,
        first_after_s: float = 0.0,
        sooner: asyncio.Event | None = None,
    ) -> None:
        """``work``: functions by their name in the log and the metrics. ``rest_s``: period at rest.
        ``sooner``: ends the wait when it is set."""
        self._every_s = every_s
        self._first_after_s = first_after_s
        self._rest_s = rest_s
        self._sooner = sooner
        self._rest = Rest()
        self._work = work
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._failing: set[str] = set()

    def start(self, rest: Rest | None = None) -> None:
        """``rest``: None if the period is always the same."""
        if self._task is None:
            self._rest = rest or self._rest
            self._task = asyncio.create_task(self._loop())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _loop(self) -> None:
        await asyncio.sleep(self._first_after_s)
        while True:
            if self._sooner is not None:
                self._sooner.clear()  # what is set while the work runs may come too late for it
            for name, work in self._work.items():
                await self._run(name, work)
            await self._rest.sleep(self._every_s, self._rest_s, self._sooner)

    async def _run(self, name: str, work: Work) -> None:
        began = time.perf_counter()
        try:
            done = await work()
        except DarkroomError as error:
            self._on_failure(name)
            if name not in self._failing:
                log.warning("The periodic task %s is delayed: %s", name, error.message)
            self._failing.add(name)
        except Exception:
            self._on_failure(name)
            log.exception("The periodic task %s failed; it runs again in %s s", name, self._every_s)
        else:
            self._failing.discard(name)
            if self._metrics is not None and done is not False:
                self._metrics.task_succeeded(name, time.perf_counter() - began)

    def _on_failure(self, name: str) -> None:
        self._rest.busy()  # it is tried again as often as before
        if self._metrics is not None:
            self._metrics.task_failed(name)
