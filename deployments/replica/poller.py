"""Keeps an ask outstanding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from deployments.backoff import Backoff
from deployments.replica_config import ReplicaConfig
from serve_app.domain.lease import Ask, Work
from serve_app.domain.ports import LeasePort

log = logging.getLogger(__name__)


class Asker:
    """Asks for work, again and again: one ask is outstanding, also when all slots are taken.

    An ask that offers no slot is there for signals only. When a slot becomes free, it is cancelled
    and another takes its place. That is safe: no lease can be in its answer, and signals are
    repeated in the reply to every report. An ask that offers a slot is always waited for, since
    leases may be on their way; when more slots become free meanwhile, the next ask says so.

    A replica that is full for less than ``full_grace_s`` does not ask in that time: each ask would
    be cancelled as soon as it is sent.
    """

    def __init__(
        self,
        port: LeasePort,
        make_ask: Callable[[], Ask],
        on_work: Callable[[Work], None],
        config: ReplicaConfig,
        backoff: Backoff,
    ) -> None:
        self._port = port
        self._make_ask = make_ask
        self._on_work = on_work
        self._config = config
        self._backoff = backoff
        self._freed = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._outstanding: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        self._loop_task = asyncio.create_task(self._loop(), name="asks")

    @property
    def alive(self) -> bool:
        """Whether it asks, or was told not to."""
        return self._stopping or (self._loop_task is not None and not self._loop_task.done())

    def slot_freed(self) -> None:
        self._freed.set()

    def stop(self) -> None:
        """Ask no more. The answer to the ask that is outstanding is still taken in."""
        self._stopping = True
        self._freed.set()

    async def aclose(self) -> None:
        """Cancel what is outstanding. The ingress takes leases back that it could not deliver, and
        what was on its way is not confirmed and so goes back to the queue, as no failure."""
        self.stop()
        tasks = [task for task in (self._loop_task, self._outstanding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self) -> None:
        while not self._stopping:
            self._freed.clear()
            full = self._make_ask().slots == 0
            if full and await self._freed_within(self._config.full_grace_s):
                continue
            self._outstanding = asyncio.create_task(self._answered(signals_only=full))
            if full:
                await self._until_freed(self._outstanding)
            else:
                await self._outstanding

    async def _until_freed(self, signals: asyncio.Task[None]) -> None:
        freed = asyncio.create_task(self._freed.wait())
        try:
            await asyncio.wait((signals, freed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            freed.cancel()
        if signals.done():
            signals.result()  # A defect in taking the answer in is not to be passed over.
        else:
            signals.cancel()
            await asyncio.wait([signals])

    async def _freed_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._freed.wait()
        except TimeoutError:
            return False

    async def _answered(self, *, signals_only: bool) -> None:
        """Ask until there is an answer. That the ingress is away is no reason to end."""
        for delay_s in self._backoff.delays():
            ask = self._make_ask()
            if signals_only:
                ask = replace(ask, slots=0)  # It may be cancelled, so no lease may come with it.
            try:
                async with asyncio.timeout(self._config.ask_timeout_s):
                    work = await self._port.ask(ask)
            except Exception as error:
                log.warning("The ingress does not answer an ask (%r); trying again.", error)
                await asyncio.sleep(delay_s)
                if self._stopping:
                    return
            else:
                self._on_work(work)
                return
