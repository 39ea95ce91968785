"""What a replica does, without Serve: asks, runs, reports, hands in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.asking import Asker
from deployments.attempt import Attempt
from deployments.backoff import Backoff
from deployments.failure import as_failure
from deployments.family import Family
from deployments.handing_in import HandIn
from deployments.keeping import Keeper
from deployments.phase import Stop
from deployments.replica_config import Identity, ReplicaConfig
from deployments.reporting import Reporter
from deployments.session import OpenSessions, Session
from deployments.tally import Tally
from deployments.watchdog import Watchdog
from deployments.workshop import Workshop
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import (
    Ask,
    Held,
    Lease,
    Presence,
    ReplicaStage,
    ReportReply,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.loading import Loading, in_words, to_plain
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock, LeasePort
from serve_app.domain.progress import Stage
from serve_app.domain.request import Priority
from serve_app.telemetry.logs import request_id

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.loan import Loan

log = logging.getLogger(__name__)

CLOSING = "The replica is shutting down."


class ReplicaCore:
    """``start`` makes the workshop and starts its engine, ``aclose`` ends them.

    Everything here runs on one event loop; the engine, loading and encoding have threads of their
    own, so leases are renewed whatever those do.
    """

    def __init__(
        self,
        port: LeasePort,
        families: Mapping[str, Family],
        make_workshop: Callable[[], Workshop],
        config: ReplicaConfig,
        identity: Identity,
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        """``make_workshop`` may be slow; it is called on a thread of its own."""
        self._port = port
        self._families = families
        self._make_workshop = make_workshop
        self._made: Workshop | None = None
        self._config = config
        self._identity = identity
        self._attempts: dict[Held, Attempt] = {}
        self.sessions = OpenSessions(self._attempts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._asker = Asker(port, self._make_ask, self._on_work, config, backoff)
        self._watchdog = Watchdog(self._attempts, config.stuck_after_s)
        self._keeper = Keeper(self._attempts, lambda: self._workshop, config)
        self._reporter = Reporter(
            port,
            identity,
            self._attempts,
            self._on_reply,
            self._loading,
            config,
            clock,
            Tally(self._counts),
            self._keeper,
        )
        self._hand_in = HandIn(port, identity, config, clock, backoff)

    async def start(self) -> None:
        """Returns when the replica is ready, that is when what it preloads is loaded."""
        ready = asyncio.Event()
        announced = asyncio.create_task(self._announce_start(ready))
        # Importing torch and diffusers takes seconds, and the loop has Serve's calls to answer.
        self._made = await asyncio.to_thread(self._make_workshop)
        self._made.engine.on_room(partial(_call_on, asyncio.get_running_loop(), self._asker))
        self._made.engine.start()
        for endpoint in self._config.preload:
            await self._preload(endpoint)
        ready.set()
        await announced  # An ask says that it is ready, and must not be overtaken.
        self._reporter.start()
        self._asker.start()
        log.info("Replica %s of pool %s is ready.", self._identity.replica_id, self._identity.pool)

    async def aclose(self) -> None:
        """Ask no more, hand back what is not made, finish what is; within ``close_within_s``."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        close_by = loop.time() + self._config.close_within_s
        self._asker.stop()
        await self._announce(ReplicaStage.DRAINING)
        await self._asker.aclose()
        if self._keeper.wants_now():
            await self._reporter.last()
            await self._keeper.taken(loop.time() + (close_by - loop.time()) / 2)
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.HANDED_BACK)
        await self._end_tasks(loop.time() + (close_by - loop.time()) / 2)
        for attempt in list(self._attempts.values()):
            attempt.abandon()  # A step takes too long: the lease is handed back without it.
        await self._end_tasks(close_by)
        for task in self._tasks:
            task.cancel()
        await self._reporter.aclose()
        await self._keeper.aclose()
        await self._close_workshop(max(close_by - loop.time(), 0.2))
        log.info("Replica %s is closed.", self._identity.replica_id)

    @property
    def _workshop(self) -> Workshop:
        if self._made is None:
            raise Misconfigured("The replica was not started.")
        return self._made

    def check(self) -> None:
        """``Misconfigured`` when a part that must live has ended, or hangs: the replica is to be
        replaced. Serve asks again and again."""
        if self._closed:
            return
        if hangs := self._watchdog.hangs(self._workshop):
            self._watchdog.give_up(self._workshop)
            raise Misconfigured(hangs)
        ended = [
            name
            for name, alive in (
                ("engine", self._workshop.engine.alive),
                ("asks", self._asker.alive),
                ("reports", self._reporter.alive),
            )
            if not alive
        ]
        if ended:
            raise Misconfigured(f"Ended by a defect: {', '.join(ended)}. The log says why.")

    def _counts(self) -> Mapping[str, Any]:
        return self._workshop.engine.counts()

    def _make_ask(self) -> Ask:
        loading = self._loading()
        return Ask(
            replica_id=self._identity.replica_id,
            actor_id=self._identity.actor_id,
            pool=self._identity.pool,
            slots=self._free_slots(),
            held=tuple(self._attempts),
            hot=self._workshop.hot,
            free_bytes=self._workshop.engine.free_bytes(),
            detail=in_words(loading),
            loading=to_plain(loading),
            coming=tuple(
                id_ for each in loading if each.stage is Stage.DOWNLOADING for id_ in each.endpoints
            ),
        )

    def _free_slots(self) -> int:
        """Attempts that only encode or upload leave their slot to others, up to as many again, and
        those whose weights are downloaded: what is loaded has slots meanwhile. None is free while
        one waits for memory, as another replica may have it, or where something hangs."""
        workshop, attempts = self._workshop, self._attempts.values()
        if workshop.engine.short_of_memory or self._watchdog.hangs(workshop):
            return 0
        slots = self._config.slots
        # An ingress of the version before goes on to lease what is downloaded.
        downloading = min(2 * slots, sum(attempt.downloads for attempt in attempts))
        in_engine = sum(attempt.needs_engine for attempt in attempts) - downloading
        return max(0, min(slots - in_engine, 2 * slots - (len(attempts) - downloading)))

    def _on_work(self, work: Work) -> None:
        for lease in work.leases:
            if lease.held not in self._attempts:
                self._begin(lease)
        if work.leases:
            self._reporter.leased()
        for signal in work.signals:
            self._stop(signal.held, _STOPS[signal.kind])

    def _on_reply(self, reply: ReportReply) -> None:
        for held in reply.cancelled:
            self._stop(held, Stop.CANCELLED)
        for held in reply.fenced:
            self._stop(held, Stop.FENCED)
        for held in reply.watched:
            if (attempt := self._attempts.get(held)) is not None:
                attempt.previewer.want()

    def _stop(self, held: Held, why: Stop) -> None:
        if (attempt := self._attempts.get(held)) is not None:
            attempt.stop(why)

    def _begin(self, lease: Lease) -> None:
        family = self._families.get(lease.endpoint.family)
        attempt = self._attempt(lease, family)
        self._attempts[lease.held] = attempt
        if self._closed:
            attempt.stop(Stop.HANDED_BACK)
        self._spawn(self._see_through(attempt))

    def _attempt(self, lease: Lease, family: Family | None) -> Attempt:
        workshop, on_engine_left = self._workshop, self._asker.slot_freed
        if lease.priority is not Priority.REALTIME:
            return Attempt(lease, family, workshop, on_engine_left)
        return Session(lease, family, workshop, on_engine_left, self._config.session_silence_s)

    async def _see_through(self, attempt: Attempt) -> None:
        request_id.set(attempt.lease.request_id)
        try:
            outcome = await attempt.run()
            if attempt.stopped is Stop.FENCED:
                verdict: Verdict | None = Verdict.FENCED
            elif attempt.stopped is Stop.HANDED_BACK:
                log.info("Handing back attempt %d.", attempt.lease.attempt)
                reason = attempt.storage_away or CLOSING
                snapshot = self._keeper.latest(attempt.held)
                verdict = await self._hand_in.hand_back(attempt, reason, snapshot)
            else:
                verdict = await self._hand_in.finish(attempt, outcome)
                _log_end(attempt, outcome)
        finally:
            del self._attempts[attempt.held]
            self._asker.slot_freed()
        if verdict is Verdict.FENCED:
            log.info("Attempt %d lost its lease; its work is dropped.", attempt.lease.attempt)
        # A stop may come after it succeeded, while that is handed in: then its files are wanted.
        handed_back = attempt.stopped is Stop.HANDED_BACK
        if verdict is Verdict.FENCED or handed_back or outcome.failure is not None:
            await attempt.discard()

    async def _preload(self, endpoint: Endpoint) -> None:
        """A failure is told in the log, and again to whoever asks for the endpoint."""
        family = self._families.get(endpoint.family)
        if family is None:
            log.error("%s cannot be loaded: no family %s here.", endpoint.id, endpoint.family)
            return
        loan: Loan | None = None
        try:
            loan = self._workshop.borrow(family, endpoint)
            await asyncio.wrap_future(loan.future)
        except Exception as error:
            log.error("%s cannot be loaded: %s", endpoint.id, as_failure(error).message)
        finally:
            if loan is not None:
                self._workshop.residency.give_back(loan)

    def _loading(self) -> tuple[Loading, ...]:
        return () if self._made is None else self._made.loading

    async def _announce_start(self, ready: asyncio.Event) -> None:
        """Say what is loaded, until all is."""
        while True:
            await self._announce(ReplicaStage.STARTING, self._loading())
            try:
                async with asyncio.timeout(self._config.start_interval_s):
                    await ready.wait()
                    return
            except TimeoutError:
                continue

    async def _announce(self, stage: ReplicaStage, loading: tuple[Loading, ...] = ()) -> None:
        who = self._identity
        presence = Presence(
            who.replica_id,
            who.actor_id,
            who.pool,
            stage,
            in_words(loading),
            to_plain(loading),
            self._config.slots,
        )
        try:
            async with asyncio.timeout(min(2.0, self._config.call_timeout_s)):
                await self._port.announce(presence)
        except Exception as error:
            # Asks say the same, and silence ends a presence.
            log.info("The ingress was not told that this replica is %s (%r).", stage.value, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self, by: float) -> None:
        """Wait until all attempts have ended, at the latest ``by`` on the loop's clock."""
        if self._tasks:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._tasks), timeout=left_s)

    async def _close_workshop(self, within_s: float) -> None:
        if self._made is None:
            return
        self._workshop.residency.close()
        await asyncio.to_thread(self._workshop.engine.close, within_s)
        if self._workshop.followers is not None:
            self._workshop.followers.close()
        for threads in (self._workshop.encoders, self._workshop.writers):
            threads.shutdown(wait=False, cancel_futures=True)
        await self._workshop.uploader.aclose()
        await self._workshop.fetcher.aclose()
        await self._workshop.snapshot_fetcher.aclose()
        await self._workshop.adapters.aclose()


def _call_on(loop: asyncio.AbstractEventLoop, asker: Asker) -> None:
    """On the engine's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody asks any more
        loop.call_soon_threadsafe(asker.slot_freed)


_STOPS = {SignalKind.CANCEL: Stop.CANCELLED, SignalKind.FENCED: Stop.FENCED}


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
