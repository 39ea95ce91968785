"""Life of a replica, without Ray Serve: announce, poll, run, report, finish, hand back and end."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from deployments.replica.attempt import Attempt
from deployments.replica.attempt_state import StopReason
from deployments.replica.config import IngressLink
from deployments.replica.leased_attempts import LeasedAttempts, OutcomeSender
from deployments.replica.poller import LeasePoller, SlotOffer, SlotQueue, slot_offer
from deployments.replica.reporter import ReportedState, Reporter, Snapshots, announce
from deployments.replica.timeline import TraceReports
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Ask, Lease, LeaseKey, ReplicaStage, ReportReply, Work
from serve_app.domain.progress import Loading, StoredSnapshot

log = logging.getLogger(__name__)

LEAVE_S = 5.0
"""Time beside ``close_within_s`` after which a replica whose term has ended ends its process,
however far it is with closing."""

A = TypeVar("A", bound=Attempt)


class Replica(ABC, Generic[A]):
    """Main object of a replica. ``start`` creates what runs its attempts; ``aclose`` ends it.

    What runs them adds its part in the methods below the constructor. All methods run on one event
    loop.
    """

    def __init__(
        self, link: IngressLink, slots: int, close_within_s: float, end_process: Callable[[], None]
    ) -> None:
        """``end_process`` is called when the replica's term has ended, and it is closed."""
        self._link = link
        self._max_slots = slots
        self._close_within_s = close_within_s
        self._end_process = end_process
        self._leaving: asyncio.Task[None] | None = None  # since its term has ended
        self._traces = TraceReports(link)
        self._running: LeasedAttempts[A] = LeasedAttempts(
            self._make_attempt,
            OutcomeSender(link),
            self._traces,
            self._slot_freed,
            self._latest_snapshot,
        )
        self._attempts: Mapping[LeaseKey, A] = self._running.running
        self._slots = SlotQueue(slots, self._attempts)
        self._poller = LeasePoller(link, self._make_ask, self._on_work)
        self._snapshots = self._make_snapshots()
        self._reporter = Reporter(
            link,
            self._attempts,
            ReportedState(self._counts, self._loading, self._hot),
            self._snapshots,
            self._on_reply,
        )
        self._closed = False

    @abstractmethod
    def _make_attempt(self, lease: Lease) -> A:
        """Attempt of a new lease."""

    @abstractmethod
    async def _close(self, within_s: float) -> None:
        """End what runs attempts, of which none is left."""

    @abstractmethod
    def _counts(self) -> Mapping[str, Any]:
        """Counters for reports; see ``UsageDelta``."""

    def _make_snapshots(self) -> Snapshots:
        """Snapshots of its attempts. Here none: an app's state is its own."""
        return Snapshots()

    def _described(self, ask: Ask) -> Ask:
        """A lease poll, with what there is to say of that which runs attempts."""
        return ask

    def _note(self, reply: Work | None) -> None:
        """Note what a reply of the ingress to a poll or an announcement says of weights."""

    def _parts(self) -> Mapping[str, bool]:
        """Required parts by their names; False: it has ended."""
        return {"asks": self._poller.alive, "reports": self._reporter.alive}

    def _loading(self) -> tuple[Loading, ...]:
        return ()

    @abstractmethod
    def _hot(self) -> tuple[str, ...]:
        """Endpoints that it runs without loading anything."""

    async def _load(self) -> None:
        """Create what runs attempts, and load what must be there before the first one."""

    async def _let_end(self, close_by: float) -> None:
        """Give attempts the time to end or to be stored, at most until ``close_by`` (event loop
        time). Those that are left are handed back."""

    async def start(self) -> None:
        """Start the replica. Returns when it is ready."""
        ready = asyncio.Event()
        announced = asyncio.create_task(self._announce_start(ready))
        await self._load()
        ready.set()
        await announced  # A lease poll says "ready", so this announcement must not arrive after it.
        self._reporter.start()
        self._poller.start()
        identity = self._link.identity
        log.info(
            "Replica %s of pool %s is ready, with %d slots.",
            identity.replica_id,
            identity.pool,
            self._max_slots,
        )

    async def aclose(self) -> None:
        """Stop polling, hand back unfinished work, finish the rest, within ``close_within_s``."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        close_by = loop.time() + self._close_within_s
        self._poller.stop()
        await announce(self._link, ReplicaStage.DRAINING, self._max_slots)
        await self._poller.aclose()
        await self._let_end(close_by)
        self._running.hand_back()
        await self._running.wait_for_all(loop.time() + (close_by - loop.time()) / 2)
        self._running.abandon()  # a step takes too long: do not wait for it
        await self._running.wait_for_all(close_by)
        self._running.cancel()
        await self._reporter.aclose()
        await self._traces.aclose()
        await self._close(max(close_by - loop.time(), 0.2))
        log.info("Replica %s is closed.", self._link.identity.replica_id)

    def _leave(self, reason: str) -> None:
        """Hand back what the replica holds, and end its process: the ingress has ended its term,
        and Serve has put another replica in its place or will."""
        if self._leaving is not None:
            return
        log.error(
            "The term of replica %s has ended: %s. It gets no more work, and its process ends.",
            self._link.identity.replica_id,
            reason,
        )
        # Whatever hangs in this process, it ends.
        timer = threading.Timer(self._close_within_s + LEAVE_S, self._end_process)
        timer.daemon = True
        timer.start()
        self._leaving = asyncio.create_task(self._close_and_end(timer))

    async def _close_and_end(self, timer: threading.Timer) -> None:
        try:
            await self.aclose()
        except Exception:
            log.exception("The replica could not be closed.")
        timer.cancel()
        self._end_process()

    def check_health(self) -> None:
        """Raise ``Misconfigured`` if a required part has ended or hangs, so that Serve replaces the
        replica. Serve calls this periodically."""
        if not self._closed and (ended := self._ended_parts()):
            raise Misconfigured(
                f"Stopped by an internal error: {', '.join(ended)}. See the log for the reason."
            )

    def _ended_parts(self) -> list[str]:
        """Names of the required parts that have ended."""
        return [name for name, alive in self._parts().items() if not alive]

    def _make_ask(self) -> Ask:
        identity = self._link.identity
        offer = self._offer()
        return self._described(
            Ask(
                replica_id=identity.replica_id,
                actor_id=identity.actor_id,
                pool=identity.pool,
                slots=offer.slots,
                leases=tuple(self._attempts),
                hot=self._hot(),
                full_tenants=offer.full_tenants,
                wait_s=self._link.calls.full_tenant_wait_s if offer.full_tenants else None,
                node=identity.node,
            )
        )

    def _offer(self) -> SlotOffer:
        """Leases that this replica can take. None while a part has ended: until Serve replaces the
        replica, it would fail everything that is queued."""
        if self._ended_parts():
            return SlotOffer(0)
        return slot_offer(self._max_slots, self._attempts.values())

    def _slot_freed(self) -> None:
        self._slots.wake()
        self._poller.slot_freed()

    def _latest_snapshot(self, lease_key: LeaseKey) -> StoredSnapshot | None:
        return self._snapshots.latest(lease_key)

    def _on_work(self, work: Work) -> None:
        if work.exit:
            self._leave(work.exit)
            return
        self._note(work)
        self._running.take(work)
        if work.leases:
            self._reporter.wake()

    def _on_reply(self, reply: ReportReply) -> None:
        for key in reply.cancelled:
            self._running.stop(key, StopReason.CANCELLED)
        for key in reply.fenced:
            self._running.stop(key, StopReason.FENCED)
        for key in reply.watched:
            if (attempt := self._attempts.get(key)) is not None:
                attempt.previewer.want()

    async def _announce_start(self, ready: asyncio.Event) -> None:
        """Announce what is being loaded, until loading is complete."""
        while True:
            slots = self._max_slots
            reply = await announce(self._link, ReplicaStage.STARTING, slots, self._loading())
            if reply is not None and reply.exit:
                self._leave(reply.exit)
                return
            self._note(reply)
            try:
                async with asyncio.timeout(self._link.calls.start_interval_s):
                    await ready.wait()
                    return
            except TimeoutError:
                continue
