"""Replica logic without Ray Serve: poll, run, report, finish, and detect what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from deployments.families.base import Family
from deployments.replica.attempt_state import Phase, StopReason
from deployments.replica.config import IngressLink, ReplicaConfig
from deployments.replica.engine_attempt import EngineAttempt
from deployments.replica.keeper import WeightKeeper
from deployments.replica.leased_attempts import LeasedAttempts, OutcomeSender
from deployments.replica.poller import LeasePoller, SlotOffer, SlotQueue, slot_offer
from deployments.replica.realtime import OpenSessions, ReplicaSession
from deployments.replica.reporter import ReportedState, Reporter, announce
from deployments.replica.resources import ReplicaResources
from deployments.replica.snapshotter import Snapshotter
from deployments.replica.timeline import TraceReports
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Ask, Lease, LeaseKey, ReplicaStage, ReportReply, Work
from serve_app.domain.progress import Loading, Stage, StoredSnapshot, describe, to_plain
from serve_app.domain.request import Priority

log = logging.getLogger(__name__)

START_CHECK_S = 5.0
"""How often a replica that loads weights at its start looks whether that hangs."""
LEAVE_S = 5.0
"""Time beside ``close_within_s`` after which a replica whose term has ended ends its process,
however far it is with closing."""
LOAD_FACTOR = 2.0
"""Factor for loads, which may be silent longer than the engine: reading a disk reports nothing."""


class Replica:
    """Main object of a replica. ``start`` creates the resources and starts the engine; ``aclose``
    ends them.

    All methods run on one event loop. The engine, loading and encoding have their own threads, so
    leases are renewed whatever those threads do.
    """

    def __init__(
        self,
        link: IngressLink,
        families: Mapping[str, Family],
        make_resources: Callable[[], ReplicaResources],
        config: ReplicaConfig,
        *,
        end_process: Callable[[], None],
    ) -> None:
        """``make_resources`` may be slow. It is called on its own thread. ``end_process`` is called
        when the replica's term has ended, and it is closed."""
        self._link = link
        self._end_process = end_process
        self._leaving: asyncio.Task[None] | None = None  # since its term has ended
        self._families = families
        self._not_hosted: set[str] = set()  # endpoints of families that came after its start
        self._make_resources = make_resources
        self._started: ReplicaResources | None = None
        self._config = config
        self._traces = TraceReports(link)
        self._running: LeasedAttempts[EngineAttempt] = LeasedAttempts(
            self._make_attempt,
            OutcomeSender(link),
            self._traces,
            self._slot_freed,
            self._latest_snapshot,
        )
        self._attempts = self._running.running
        self.sessions = OpenSessions(self._running)
        self._max_slots = config.slots  # until the device is known
        self._slots = SlotQueue(self._max_slots, self._attempts)
        self._closed = False
        self._poller = LeasePoller(link, self._make_ask, self._on_work)
        self._watchdog = Watchdog(self._attempts, config.stuck_after_s)
        self._snapshotter = Snapshotter(
            self._attempts,
            lambda: self._resources,
            config.snapshots,
            link.calls.report_interval_s,
        )
        self._reporter = Reporter(
            link,
            self._attempts,
            ReportedState(self._counts, self._loading),
            self._snapshotter,
            self._on_reply,
        )
        self._keeper = WeightKeeper(
            families,
            lambda: self._resources,
            self._loads_for_request,
            prefetches=config.prefetch,
        )

    async def start(self) -> None:
        """Start the replica. Returns when it is ready, which is when it holds the weights that
        it should hold for warm targets."""
        ready = asyncio.Event()
        announced = asyncio.create_task(self._announce_start(ready))
        # Importing torch and diffusers takes seconds, and the loop must answer Serve's calls.
        resources = self._started = await asyncio.to_thread(self._make_resources)
        if resources.slots:
            self._max_slots = resources.slots
            self._slots = SlotQueue(self._max_slots, self._attempts)
        resources.engine.on_memory_available(
            partial(_call_on, asyncio.get_running_loop(), self._poller)
        )
        resources.engine.start()
        await self._load_at_start(resources)
        ready.set()
        await announced  # A lease poll says "ready", so this announcement must not arrive after it.
        self._reporter.start()
        self._keeper.start()
        self._poller.start()
        identity = self._link.identity
        log.info(
            "Replica %s of pool %s is ready, with %d slots.",
            identity.replica_id,
            identity.pool,
            self._max_slots,
        )

    async def _load_at_start(self, resources: ReplicaResources) -> None:
        """Load what the replica should hold, unless that hangs: Serve asks for the health of a
        replica that has started only, and then replaces this one."""
        loading = asyncio.create_task(
            self._keeper.load_at_start(self._link.calls.decision_within_s)
        )
        try:
            while not (await asyncio.wait({loading}, timeout=START_CHECK_S))[0]:
                if hangs := self._watchdog.hangs(resources):
                    log.warning("The replica starts without its weights. %s", hangs)
                    return
            await loading
        finally:
            loading.cancel()

    async def aclose(self) -> None:
        """Stop polling, hand back unfinished work, finish the rest, within ``close_within_s``."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        close_by = loop.time() + self._config.close_within_s
        self._poller.stop()
        await self._keeper.aclose()
        await announce(self._link, ReplicaStage.DRAINING, self._max_slots)
        await self._poller.aclose()
        if self._started is not None and self._snapshotter.wants_tickets_at_shutdown():
            await self._reporter.last()
            await self._snapshotter.wait_uploaded(loop.time() + (close_by - loop.time()) / 2)
        self._running.hand_back()
        await self._running.ended(loop.time() + (close_by - loop.time()) / 2)
        self._running.abandon()  # a step takes too long: do not wait for it
        await self._running.ended(close_by)
        self._running.cancel()
        await self._reporter.aclose()
        await self._snapshotter.aclose()
        await self._traces.aclose()
        if self._started is not None:
            await self._started.aclose(max(close_by - loop.time(), 0.2))
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
        timer = threading.Timer(self._config.close_within_s + LEAVE_S, self._end_process)
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

    @property
    def _resources(self) -> ReplicaResources:
        if self._started is None:
            raise Misconfigured("The replica was not started.")
        return self._started

    def check_health(self) -> None:
        """Raise ``Misconfigured`` if a required part has ended or hangs, so that Serve replaces the
        replica. Serve calls this periodically."""
        if self._closed:
            return
        self._resources.residency.give_back_host_memory()
        if hangs := self._watchdog.hangs(self._resources):
            self._watchdog.fail_waiting(self._resources)
            raise Misconfigured(hangs)
        if ended := self._ended_parts():
            raise Misconfigured(
                f"Stopped by an internal error: {', '.join(ended)}. See the log for the reason."
            )

    def _ended_parts(self) -> Sequence[str]:
        """Names of the required parts that have ended."""
        parts = (
            ("engine", self._resources.engine.alive),
            ("asks", self._poller.alive),
            ("reports", self._reporter.alive),
            ("weight keeper", self._keeper.alive),
        )
        return [name for name, alive in parts if not alive]

    def _make_ask(self) -> Ask:
        loading = self._loading()
        identity = self._link.identity
        offer = self._offer()
        process_bytes, host_bytes = self._resources.engine.process_memory()
        return Ask(
            replica_id=identity.replica_id,
            actor_id=identity.actor_id,
            pool=identity.pool,
            slots=offer.slots,
            held=tuple(self._attempts),
            hot=self._resources.loaded_endpoints,
            warm=self._resources.warm_endpoints,
            free_bytes=self._resources.engine.free_bytes(),
            device_bytes=self._resources.engine.device_bytes(),
            detail=describe(loading),
            loading=to_plain(loading),
            coming=(*_downloading(loading), *sorted(self._not_hosted)),
            full_tenants=offer.full_tenants,
            wait_s=self._link.calls.full_tenant_wait_s if offer.full_tenants else None,
            node=identity.node,
            device=self._resources.device_name,
            on_disk=self._keeper.on_disk,
            kept=self._keeper.version,
            not_kept=self._keeper.not_kept,
            upcoming=self._keeper.upcoming,
            process_bytes=process_bytes,
            host_bytes=host_bytes,
        )

    def _offer(self) -> SlotOffer:
        """Leases that this replica can take. None while a generation waits for memory, since
        another replica may have it, or while a part hangs or has ended: until Serve replaces the
        replica, it would fail everything that is queued."""
        resources = self._resources
        if resources.engine.short_of_memory or self._watchdog.hangs(resources):
            return SlotOffer(0)
        if self._ended_parts():
            return SlotOffer(0)
        return slot_offer(self._max_slots, self._attempts.values())

    def _slot_freed(self) -> None:
        self._slots.wake()
        self._poller.slot_freed()

    def _loads_for_request(self) -> bool:
        """True while an attempt waits for its weights to be loaded."""
        states = (each.state for each in self._attempts.values())
        return any(each.phase is Phase.LOADING and not each.is_downloading for each in states)

    def _on_work(self, work: Work) -> None:
        if work.exit:
            self._leave(work.exit)
            return
        if work.keep is not None or work.upcoming is not None:
            self._keeper.told(work)
        self._running.take(work)
        if work.leases:
            self._reporter.leased()

    def _on_reply(self, reply: ReportReply) -> None:
        for held in reply.cancelled:
            self._running.stop(held, StopReason.CANCELLED)
        for held in reply.fenced:
            self._running.stop(held, StopReason.FENCED)
        for held in reply.watched:
            if (attempt := self._attempts.get(held)) is not None:
                attempt.previewer.want()

    def _make_attempt(self, lease: Lease) -> EngineAttempt:
        family = self._families.get(lease.endpoint.family)
        if family is None:
            self._not_hosted.add(lease.endpoint.id)
        resources, on_engine_left = self._resources, self._slot_freed
        if lease.priority is not Priority.REALTIME:
            return EngineAttempt(lease, family, resources, on_engine_left, self._slots)
        silence_s = self._config.session_silence_s
        return ReplicaSession(lease, family, resources, on_engine_left, silence_s)

    def _latest_snapshot(self, held: LeaseKey) -> StoredSnapshot | None:
        return self._snapshotter.latest(held)

    def _counts(self) -> Mapping[str, Any]:
        resources = self._resources
        return {**resources.engine.counts(), **resources.storage_calls.counts()}

    def _loading(self) -> tuple[Loading, ...]:
        return () if self._started is None else self._started.loading

    async def _announce_start(self, ready: asyncio.Event) -> None:
        """Announce what is being loaded, until loading is complete."""
        while True:
            slots = self._max_slots
            said = await announce(self._link, ReplicaStage.STARTING, slots, self._loading())
            if said is not None and said.exit:
                self._leave(said.exit)
                return
            self._keeper.told(said)
            try:
                async with asyncio.timeout(self._link.calls.start_interval_s):
                    await ready.wait()
                    return
            except TimeoutError:
                continue


class Watchdog:
    """Detects hanging threads. They cannot be ended, so the replica is replaced. Attempts that wait
    for such a thread fail first, one by one, and are retried elsewhere. If they were handed back by
    the closing replica instead, that would not count as a failure, and they would hang the next."""

    def __init__(self, attempts: Mapping[LeaseKey, EngineAttempt], stuck_after_s: float) -> None:
        self._attempts = attempts
        self._stuck_after_s = stuck_after_s

    def hangs(self, resources: ReplicaResources) -> str:
        """Description of what hangs. Empty if nothing does."""
        return self._engine_hangs(resources) or self._load_hangs(resources)[1]

    def fail_waiting(self, resources: ReplicaResources) -> None:
        """Fail the attempts that wait for what hangs."""
        if why := self._engine_hangs(resources):
            for attempt in self._attempts.values():
                if attempt.state.phase is Phase.IN_ENGINE:
                    attempt.fail_hung(why)
        name, why = self._load_hangs(resources)
        for attempt in self._attempts.values() if why else ():
            waits_for = resources.weights_by_endpoint.get(attempt.lease.endpoint.id)
            if attempt.state.phase is Phase.LOADING and waits_for == name:
                attempt.fail_hung(why)

    def _engine_hangs(self, resources: ReplicaResources) -> str:
        stuck_s = resources.engine.stuck_s
        if stuck_s <= self._stuck_after_s:
            return ""
        return (
            f"One turn of the engine has taken {stuck_s:.0f} s so far, ten times longer than any "
            "before: it hangs, and the replica is replaced."
        )

    def _load_hangs(self, resources: ReplicaResources) -> tuple[str, str]:
        name, silent_s = resources.residency.longest_silence()
        if silent_s <= LOAD_FACTOR * self._stuck_after_s:
            return name, ""
        return name, (
            f"The load of {name} has not reported for {silent_s:.0f} s: it hangs, and the "
            "replica is replaced."
        )


def _downloading(loading: Iterable[Loading]) -> Iterator[str]:
    """Endpoints whose weights are being downloaded."""
    return (id_ for each in loading if each.stage is Stage.DOWNLOADING for id_ in each.endpoints)


def _call_on(loop: asyncio.AbstractEventLoop, poller: LeasePoller) -> None:
    """Wake the lease poller. Called on the engine's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and no poller is left
        loop.call_soon_threadsafe(poller.slot_freed)
