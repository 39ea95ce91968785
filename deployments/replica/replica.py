"""Replica logic without Ray Serve: poll, run, report, finish, and detect what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial

from deployments.families.base import Family
from deployments.replica.attempt import Attempt
from deployments.replica.attempt_state import Phase, StopReason
from deployments.replica.config import IngressLink, ReplicaConfig
from deployments.replica.keeper import WeightKeeper
from deployments.replica.poller import LeasePoller, SlotOffer, SlotQueue, slot_offer
from deployments.replica.realtime import OpenSessions, ReplicaSession
from deployments.replica.reporter import Reporter, announce
from deployments.replica.resources import ReplicaResources
from deployments.replica.snapshotter import Snapshotter
from deployments.replica.timeline import TraceReports
from serve_app.domain.errors import Fenced, Misconfigured
from serve_app.domain.lease import (
    Ask,
    Finish,
    Lease,
    LeaseKey,
    ReplicaStage,
    ReportReply,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Loading, Stage, StoredSnapshot, describe, to_plain
from serve_app.domain.request import Priority
from serve_app.telemetry.logs import set_request
from serve_app.telemetry.trace_context import of_attempt

log = logging.getLogger(__name__)

SHUTTING_DOWN = "The replica is shutting down."

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
    ) -> None:
        """``make_resources`` may be slow. It is called on its own thread."""
        self._link = link
        self._families = families
        self._not_hosted: set[str] = set()  # endpoints of families that came after its start
        self._make_resources = make_resources
        self._started: ReplicaResources | None = None
        self._config = config
        self._attempts: dict[LeaseKey, Attempt] = {}
        self.sessions = OpenSessions(self._attempts)
        self._max_slots = config.slots  # until the device is known
        self._slots = SlotQueue(self._max_slots, self._attempts)
        self._tasks: set[asyncio.Task[None]] = set()
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
            link, self._attempts, lambda: self._resources, self._snapshotter, self._on_reply
        )
        self._outcomes = OutcomeSender(link)
        self._keeper = WeightKeeper(
            families,
            lambda: self._resources,
            self._loads_for_request,
            prefetches=config.prefetch,
        )
        self._traces = TraceReports(link)

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
        await self._keeper.load_at_start(self._link.calls.decision_within_s)
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
        if self._snapshotter.wants_tickets_at_shutdown():
            await self._reporter.last()
            await self._snapshotter.wait_uploaded(loop.time() + (close_by - loop.time()) / 2)
        for attempt in list(self._attempts.values()):
            attempt.stop(StopReason.HANDED_BACK)
        await self._end_tasks(loop.time() + (close_by - loop.time()) / 2)
        for attempt in list(self._attempts.values()):
            attempt.abandon()  # a step takes too long: do not wait for it
        await self._end_tasks(close_by)
        for task in self._tasks:
            task.cancel()
        await self._reporter.aclose()
        await self._snapshotter.aclose()
        await self._traces.aclose()
        if self._started is not None:
            await self._started.aclose(max(close_by - loop.time(), 0.2))
        log.info("Replica %s is closed.", self._link.identity.replica_id)

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
        ended = [
            name
            for name, alive in (
                ("engine", self._resources.engine.alive),
                ("asks", self._poller.alive),
                ("reports", self._reporter.alive),
                ("weight keeper", self._keeper.alive),
            )
            if not alive
        ]
        if ended:
            raise Misconfigured(
                f"Stopped by an internal error: {', '.join(ended)}. See the log for the reason."
            )

    def _make_ask(self) -> Ask:
        loading = self._loading()
        identity = self._link.identity
        offer = self._offer()
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
        )

    def _offer(self) -> SlotOffer:
        """Leases that this replica can take. None while a generation waits for memory, since
        another replica may have it, or while a part hangs."""
        resources = self._resources
        if resources.engine.short_of_memory or self._watchdog.hangs(resources):
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
        if work.keep is not None or work.upcoming is not None:
            self._keeper.told(work)
        for lease in work.leases:
            if lease.held not in self._attempts:
                self._begin(lease)
        if work.leases:
            self._reporter.leased()
        for signal in work.signals:
            self._stop(signal.held, _STOPS[signal.kind])

    def _on_reply(self, reply: ReportReply) -> None:
        for held in reply.cancelled:
            self._stop(held, StopReason.CANCELLED)
        for held in reply.fenced:
            self._stop(held, StopReason.FENCED)
        for held in reply.watched:
            if (attempt := self._attempts.get(held)) is not None:
                attempt.previewer.want()

    def _stop(self, held: LeaseKey, why: StopReason) -> None:
        if (attempt := self._attempts.get(held)) is not None:
            attempt.stop(why)

    def _begin(self, lease: Lease) -> None:
        attempt = self._make_attempt(lease)
        self._attempts[lease.held] = attempt
        if self._closed:
            attempt.stop(StopReason.HANDED_BACK)
        task = asyncio.create_task(self._run(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_attempt(self, lease: Lease) -> Attempt:
        family = self._families.get(lease.endpoint.family)
        if family is None:
            self._not_hosted.add(lease.endpoint.id)
        resources, on_engine_left = self._resources, self._slot_freed
        if lease.priority is not Priority.REALTIME:
            return Attempt(lease, family, resources, on_engine_left, self._slots)
        silence_s = self._config.session_silence_s
        return ReplicaSession(lease, family, resources, on_engine_left, silence_s)

    async def _run(self, attempt: Attempt) -> None:
        """Run an attempt and hand in its outcome."""
        lease = attempt.lease
        set_request(
            lease.request_id,
            tenant=lease.tenant,
            endpoint=lease.endpoint.id,
            trace=of_attempt(lease.trace, lease.held) if lease.trace else "",
        )
        try:
            outcome = await attempt.run()
            stopped = attempt.state.stopped
            attempt.state.enter_stage("finish")
            if stopped is StopReason.FENCED:
                verdict: Verdict | None = Verdict.FENCED
            elif stopped is StopReason.HANDED_BACK:
                log.info("Handing back attempt %d.", attempt.lease.attempt)
                snapshot = self._snapshotter.latest(attempt.held)
                verdict = await self._outcomes.hand_back(attempt, snapshot)
            else:
                verdict = await self._outcomes.finish(attempt, outcome)
                _log_end(attempt, outcome)
        finally:
            del self._attempts[attempt.held]
            self._slot_freed()
        if (timeline := attempt.state.timeline) is not None and verdict is Verdict.ACCEPTED:
            # Of any other attempt, the ingress records that it was lost.
            code = outcome.failure.code if outcome.failure and not attempt.handed_back else ""
            self._traces.add(timeline.ended(lease, code))
        if verdict is Verdict.FENCED:
            log.info("Attempt %d lost its lease; its work is dropped.", attempt.lease.attempt)
        # A stop may arrive after success, while the result is handed in: its files are needed then.
        if verdict is Verdict.FENCED or attempt.handed_back or outcome.failure is not None:
            await attempt.discard()

    def _loading(self) -> tuple[Loading, ...]:
        return () if self._started is None else self._started.loading

    async def _announce_start(self, ready: asyncio.Event) -> None:
        """Announce what is being loaded, until loading is complete."""
        while True:
            slots = self._max_slots
            said = await announce(self._link, ReplicaStage.STARTING, slots, self._loading())
            self._keeper.told(said)
            try:
                async with asyncio.timeout(self._link.calls.start_interval_s):
                    await ready.wait()
                    return
            except TimeoutError:
                continue

    async def _end_tasks(self, by: float) -> None:
        """Wait until all attempts have ended, but no later than ``by`` (event loop time)."""
        if self._tasks:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._tasks), timeout=left_s)


class Watchdog:
    """Detects hanging threads. They cannot be ended, so the replica is replaced. Attempts that wait
    for such a thread fail first, one by one, and are retried elsewhere. If they were handed back by
    the closing replica instead, that would not count as a failure, and they would hang the next."""

    def __init__(self, attempts: Mapping[LeaseKey, Attempt], stuck_after_s: float) -> None:
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


class OutcomeSender:
    """``finish`` and ``hand_back`` of the lease port, retried while the ingress is unreachable."""

    def __init__(self, link: IngressLink) -> None:
        self._link = link

    async def finish(self, attempt: Attempt, outcome: Outcome) -> Verdict | None:
        """Deliver an outcome. None if there is no reply within ``finish_give_up_s``."""
        finish = Finish(attempt.held, self._link.identity.replica_id, outcome)
        return await self._retry(attempt, lambda: self._link.port.finish(finish))

    async def hand_back(self, attempt: Attempt, snapshot: StoredSnapshot | None) -> Verdict | None:
        """Return a lease to the queue. None if there is no reply within ``finish_give_up_s``."""
        held, replica_id = attempt.held, self._link.identity.replica_id
        reason = attempt.hand_back_reason or SHUTTING_DOWN
        return await self._retry(
            attempt, lambda: self._link.port.hand_back(held, replica_id, reason, snapshot)
        )

    async def _retry(
        self, attempt: Attempt, call: Callable[[], Awaitable[Verdict]]
    ) -> Verdict | None:
        clock, calls = self._link.clock, self._link.calls
        give_up_at = clock.monotonic() + calls.finish_give_up_s
        unanswered = False
        for delay_s in self._link.backoff.delays():
            # A fence may mean that our call was processed and its reply got lost. Only another
            # reply can distinguish the two, and say if the files must be kept.
            if attempt.state.stopped is StopReason.FENCED and not unanswered:
                return Verdict.FENCED
            try:
                async with asyncio.timeout(calls.call_timeout_s):
                    return await call()
            except Fenced:
                return Verdict.FENCED
            except Exception as error:
                unanswered = True
                log.warning("The ingress did not accept the outcome (%r); retrying.", error)
            if clock.monotonic() > give_up_at:
                break
            await asyncio.sleep(delay_s)
        log.error(
            "The ingress could not be reached: the outcome is dropped, and the request is retried."
        )
        return None


def _downloading(loading: Iterable[Loading]) -> Iterator[str]:
    """Endpoints whose weights are being downloaded."""
    return (id_ for each in loading if each.stage is Stage.DOWNLOADING for id_ in each.endpoints)


def _call_on(loop: asyncio.AbstractEventLoop, poller: LeasePoller) -> None:
    """Wake the lease poller. Called on the engine's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and no poller is left
        loop.call_soon_threadsafe(poller.slot_freed)


_STOPS = {SignalKind.CANCEL: StopReason.CANCELLED, SignalKind.FENCED: StopReason.FENCED}


def _log_end(attempt: Attempt, outcome: Outcome) -> None:
    lease, usage = attempt.lease, outcome.usage
    how = "succeeded" if outcome.failure is None else outcome.failure.code
    log.info(
        "%s: attempt %d %s after %.3f s and %d steps.",
        lease.endpoint.id,
        lease.attempt,
        how,
        usage.run_s,
        usage.steps,
    )
