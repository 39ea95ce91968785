"""Lease polling: keeps one lease poll open at the ingress. Slots: how many a poll offers, and which
attempt takes the next free one.

An attempt holds a slot while it loads weights or is in the engine. It holds none while the files
that its input names are fetched, so a slow file server keeps nobody else from computing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from deployments.replica.attempt_state import AttemptState, Phase
from deployments.replica.config import IngressLink
from serve_app.domain.lease import Ask, Lease, LeaseKey, Work

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


MIN_FETCHES = 2  # of a tenant, on a replica with one slot
TENANTS_FETCHING = 4
"""Tenants that can have their share of fetches at once. Further fetches take slots, which bounds
the memory for fetched files."""


class SlotUser(Protocol):
    """What decides about slots: part of an ``Attempt``."""

    lease: Lease
    state: AttemptState


@dataclass(frozen=True, slots=True)
class SlotOffer:
    """Offer of a lease poll. ``full_tenants`` have their share of fetches on this replica."""

    slots: int
    full_tenants: tuple[str, ...] = ()


def max_fetches(slots: int) -> int:
    """Largest number of requests of one tenant whose files a replica fetches at once."""
    return max(slots, MIN_FETCHES)


def slot_offer(slots: int, attempts: Collection[SlotUser]) -> SlotOffer:
    """Offer of a replica with ``slots``. Pure.

    Attempts that only encode or upload free their slot, up to the number of slots again. So do
    attempts whose weights are downloaded, because loaded models can use the slot, and attempts
    whose files are fetched, up to ``max_fetches`` of each of ``TENANTS_FETCHING`` tenants.
    """
    # An ingress of the previous version leases work for models that are being downloaded.
    downloading = min(2 * slots, sum(attempt.state.is_downloading for attempt in attempts))
    fetches = Counter(attempt.lease.tenant for attempt in attempts if attempt.state.is_fetching)
    share = max_fetches(slots)
    without_slot = downloading + min(TENANTS_FETCHING * share, fetches.total())
    in_engine = sum(attempt.state.needs_engine for attempt in attempts) - without_slot
    free = max(0, min(slots - in_engine, 2 * slots - (len(attempts) - without_slot)))
    # All leases of one poll may be of the same tenant.
    left_of_share = share - max((n for n in fetches.values() if n < share), default=0)
    full = tuple(sorted(tenant for tenant, n in fetches.items() if n >= share))
    return SlotOffer(min(free, left_of_share), full)


class SlotQueue:
    """Attempts that wait for a slot: their files were fetched while others took all slots. Use on
    one event loop."""

    def __init__(self, slots: int, attempts: Mapping[LeaseKey, SlotUser]) -> None:
        self._slots = slots
        self._attempts = attempts
        self._waiting: list[tuple[SlotUser, asyncio.Future[None]]] = []

    async def take(self, attempt: SlotUser) -> None:
        """Wait for a slot and take it. Does not yield to the event loop if one is free."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = attempt, turn
        self._waiting.append(entry)
        self.wake()
        if turn.done():
            return
        try:
            await turn
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def wake(self) -> None:
        """Give free slots to waiting attempts: by priority, then in the order of their arrival."""
        while self._waiting and self._free():
            entry = max(self._waiting, key=lambda candidate: int(candidate[0].lease.priority))
            self._waiting.remove(entry)
            attempt, turn = entry
            if not turn.done():  # else its attempt was stopped
                attempt.state.enter(Phase.LOADING)
                turn.set_result(None)

    def _free(self) -> bool:
        return sum(attempt.state.holds_slot for attempt in self._attempts.values()) < self._slots
