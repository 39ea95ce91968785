"""Replica with an engine: its weights, its snapshots, and what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from deployments.families.base import Family
from deployments.replica.attempt_state import Phase
from deployments.replica.config import IngressLink, ReplicaConfig
from deployments.replica.engine_attempt import EngineAttempt
from deployments.replica.keeper import WeightKeeper
from deployments.replica.poller import LeasePoller, SlotOffer, SlotQueue
from deployments.replica.realtime import OpenSessions, ReplicaSession
from deployments.replica.replica import Replica
from deployments.replica.resources import ReplicaResources
from deployments.replica.snapshotter import Snapshotter
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Ask, Lease, LeaseKey, Work
from serve_app.domain.progress import Loading, Stage, describe, to_plain
from serve_app.domain.request import Priority

log = logging.getLogger(__name__)

START_CHECK_S = 5.0
"""How often a replica that loads weights at its start looks whether that hangs."""
LOAD_FACTOR = 2.0
"""Factor for loads, which may be silent longer than the engine: reading a disk reports nothing."""


class EngineReplica(Replica[EngineAttempt]):
    """Replica whose attempts run in an engine. The engine, loading and encoding have their own
    threads, so leases are renewed whatever those threads do."""

    def __init__(
        self,
        link: IngressLink,
        families: Mapping[str, Family],
        make_resources: Callable[[], ReplicaResources],
        config: ReplicaConfig,
        *,
        end_process: Callable[[], None],
    ) -> None:
        """``make_resources`` may be slow. It is called on its own thread."""
        self._families = families
        self._lacking: dict[str, str] = {}  # endpoints of families that it does not have
        self._make_resources = make_resources
        self._started: ReplicaResources | None = None
        self._config = config
        # With the slots of a device that is not known yet.
        super().__init__(link, config.slots, config.close_within_s, end_process)
        self.sessions = OpenSessions(self._running)
        self._watchdog = Watchdog(self._attempts, config.stuck_after_s)
        self._keeper = WeightKeeper(
            families,
            lambda: self._resources,
            self._loads_for_request,
            prefetches=config.prefetch,
        )

    def _make_snapshots(self) -> Snapshotter:
        self._snapshotter = Snapshotter(
            self._attempts,
            lambda: self._resources,
            self._config.snapshots,
            self._link.calls.report_interval_s,
        )
        return self._snapshotter

    async def _load(self) -> None:
        """Start the engine, and load the weights that the replica should hold."""
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
        self._keeper.start()

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

    async def _let_end(self, close_by: float) -> None:
        """Store the snapshots of what runs."""
        loop = asyncio.get_running_loop()
        await self._keeper.aclose()
        if self._started is not None and self._snapshotter.wants_tickets_at_shutdown():
            await self._reporter.last()
            await self._snapshotter.wait_uploaded(loop.time() + (close_by - loop.time()) / 2)

    async def _close(self, within_s: float) -> None:
        await self._snapshotter.aclose()
        if self._started is not None:
            await self._started.aclose(within_s)

    @property
    def _resources(self) -> ReplicaResources:
        if self._started is None:
            raise Misconfigured("The replica was not started.")
        return self._started

    def check_health(self) -> None:
        if self._closed:
            return
        self._resources.residency.give_back_host_memory()
        if hangs := self._watchdog.hangs(self._resources):
            self._watchdog.fail_waiting(self._resources)
            raise Misconfigured(hangs)
        super().check_health()

    def _parts(self) -> Mapping[str, bool]:
        return {
            "engine": self._resources.engine.alive,
            **super()._parts(),
            "weight keeper": self._keeper.alive,
        }

    def _described(self, ask: Ask) -> Ask:
        loading = self._loading()
        resources, keeper = self._resources, self._keeper
        process_bytes, host_bytes = resources.engine.process_memory()
        return replace(
            ask,
            warm=resources.warm_endpoints,
            free_bytes=resources.engine.free_bytes(),
            device_bytes=resources.engine.device_bytes(),
            detail=describe(loading),
            loading=to_plain(loading),
            coming=(*_downloading(loading), *sorted(self._lacking)),
            lacking=tuple(sorted(self._lacking.items())),
            device=resources.device_name,
            on_disk=keeper.on_disk,
            kept_version=keeper.version,
            not_kept=keeper.not_kept,
            upcoming=keeper.upcoming,
            process_bytes=process_bytes,
            host_bytes=host_bytes,
        )

    def _offer(self) -> SlotOffer:
        """None also while a generation waits for memory, since another replica may have it, or
        while a part hangs."""
        resources = self._resources
        if resources.engine.short_of_memory or self._watchdog.hangs(resources):
            return SlotOffer(0)
        return super()._offer()

    def _loads_for_request(self) -> bool:
        """True while an attempt waits for its weights to be loaded."""
        states = (attempt.state for attempt in self._attempts.values())
        return any(state.phase is Phase.LOADING and not state.is_downloading for state in states)

    def _note(self, reply: Work | None) -> None:
        self._keeper.note_reply(reply)

    def _make_attempt(self, lease: Lease) -> EngineAttempt:
        family = self._families.get(lease.endpoint.family)
        if family is None:
            self._lacking[lease.endpoint.id] = lease.endpoint.family
        resources, on_engine_left = self._resources, self._slot_freed
        if lease.priority is not Priority.REALTIME:
            return EngineAttempt(lease, family, resources, on_engine_left, self._slots)
        silence_s = self._config.session_silence_s
        return ReplicaSession(lease, family, resources, on_engine_left, silence_s)

    def _counts(self) -> Mapping[str, Any]:
        resources = self._resources
        return {**resources.engine.counts(), **resources.storage_calls.counts()}

    def _hot(self) -> tuple[str, ...]:
        return self._resources.loaded_endpoints

    def _loading(self) -> tuple[Loading, ...]:
        return () if self._started is None else self._started.loading


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
    return (id_ for load in loading if load.stage is Stage.DOWNLOADING for id_ in load.endpoints)


def _call_on(loop: asyncio.AbstractEventLoop, poller: LeasePoller) -> None:
    """Wake the lease poller. Called on the engine's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and no poller is left
        loop.call_soon_threadsafe(poller.slot_freed)
