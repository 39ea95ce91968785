"""Lease polling: keeps one lease poll open at the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from deployments.replica.config import IngressLink
from serve_app.domain.lease import Ask, Work

log = logging.getLogger(__name__)


class LeasePoller:
    """Loop that polls for work. One poll is always open, even when all slots are taken.

    A poll that offers no slot only receives signals. When a slot becomes free, that poll is
    cancelled and another replaces it. This is safe: its reply cannot contain a lease, and signals
    are repeated in the reply to every report. A poll that offers a slot is always awaited, because
    leases may be on their way; if more slots become free in between, the next poll offers them.

    A replica that is full for less than ``full_grace_s`` does not poll in that time: the poll would
    be cancelled right after it is sent.
    """

    def __init__(
        self, link: IngressLink, make_ask: Callable[[], Ask], on_work: Callable[[Work], None]
    ) -> None:
        self._link = link
        self._make_ask = make_ask
        self._on_work = on_work
        self._freed = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._open_poll: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        self._loop_task = asyncio.create_task(self._loop(), name="lease polls")

    @property
    def alive(self) -> bool:
        """True while the loop runs, or after ``stop``."""
        return self._stopping or (self._loop_task is not None and not self._loop_task.done())

    def slot_freed(self) -> None:
        self._freed.set()

    def stop(self) -> None:
        """Stop polling. The reply to the open poll is still processed."""
        self._stopping = True
        self._freed.set()

    async def aclose(self) -> None:
        """Cancel the open poll. The ingress takes back leases that it could not deliver. A lease
        that was on its way is not confirmed, so it returns to the queue without counting as a
        failure."""
        self.stop()
        tasks = [task for task in (self._loop_task, self._open_poll) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self) -> None:
        while not self._stopping:
            self._freed.clear()
            full = self._make_ask().slots == 0
            if full and await self._freed_within(self._link.calls.full_grace_s):
                continue
            self._open_poll = asyncio.create_task(self._poll(signals_only=full))
            if full:
                await self._wait_freed(self._open_poll)
            else:
                await self._open_poll

    async def _wait_freed(self, poll: asyncio.Task[None]) -> None:
        freed = asyncio.create_task(self._freed.wait())
        try:
            await asyncio.wait((poll, freed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            freed.cancel()
        if poll.done():
            poll.result()  # raise an error of the reply handler rather than hide it
        else:
            poll.cancel()
            await asyncio.wait([poll])

    async def _freed_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._freed.wait()
        except TimeoutError:
            return False

    async def _poll(self, *, signals_only: bool) -> None:
        """Poll until there is a reply. An unreachable ingress does not end the loop."""
        for delay_s in self._link.backoff.delays():
            ask = self._make_ask()
            if signals_only:
                ask = replace(ask, slots=0)  # it may be cancelled, so it must not receive a lease
            try:
                async with asyncio.timeout(self._link.calls.ask_timeout_s):
                    work = await self._link.port.ask(ask)
            except Exception as error:
                log.warning("The ingress did not answer a lease poll (%r); retrying.", error)
                await asyncio.sleep(delay_s)
                if self._stopping:
                    return
            else:
                self._on_work(work)
                return
