"""Lease polling: keeps one lease poll open at the ingress. Slots: how many a poll offers, and which
attempt takes the next free one. Attempts: begun by leases, ended by an outcome that is sent.

An attempt holds a slot while it loads weights or is in the engine. It holds none while the files
that its input names are fetched, so a slow file server keeps nobody else from computing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from deployments.replica.attempt_state import AttemptState, Phase, PrintedLines, StopReason
from deployments.replica.config import IngressLink
from deployments.replica.timeline import TraceReports
from serve_app.domain.errors import Fenced
from serve_app.domain.lease import (
    Ask,
    Finish,
    Lease,
    LeaseKey,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import StoredSnapshot
from serve_app.telemetry.logs import set_request
from serve_app.telemetry.trace_context import of_attempt

log = logging.getLogger(__name__)

LEASED_WITHIN_S = 5.0
"""Time by which a call about an attempt may come before its lease."""
REMEMBERED = 1_000
"""Attempts that are known to have ended."""


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
    downloading = min(2 * slots, sum(each.state.is_downloading for each in attempts))
    fetches = Counter(each.lease.tenant for each in attempts if each.state.is_fetching)
    share = max_fetches(slots)
    without_slot = downloading + min(TENANTS_FETCHING * share, fetches.total())
    in_engine = sum(each.state.needs_engine for each in attempts) - without_slot
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
            entry = max(self._waiting, key=lambda each: int(each[0].lease.priority))
            self._waiting.remove(entry)
            attempt, turn = entry
            if not turn.done():  # else its attempt was stopped
                attempt.state.enter(Phase.LOADING)
                turn.set_result(None)

    def _free(self) -> bool:
        return sum(each.state.holds_slot for each in self._attempts.values()) < self._slots


# Attempts, from their leases to their outcomes.

SHUTTING_DOWN = "The replica is shutting down."


class LeasedAttempt(Protocol):
    """Execution of one lease."""

    lease: Lease
    state: AttemptState
    hand_back_reason: str | None

    @property
    def held(self) -> LeaseKey: ...

    @property
    def handed_back(self) -> bool: ...

    @property
    def printed(self) -> PrintedLines: ...

    async def run(self) -> Outcome: ...

    def stop(self, why: StopReason) -> None: ...

    def abandon(self) -> None: ...

    async def discard(self) -> None: ...


class OutcomeSender:
    """``finish`` and ``hand_back`` of the lease port, retried while the ingress is unreachable."""

    def __init__(self, link: IngressLink) -> None:
        self._link = link

    async def finish(self, attempt: LeasedAttempt, outcome: Outcome) -> Verdict | None:
        """Deliver an outcome. None if there is no reply within ``finish_give_up_s``."""
        await attempt.printed.settled()
        replica_id = self._link.identity.replica_id
        finish = Finish(attempt.held, replica_id, outcome, attempt.printed.take())
        return await self._retry(attempt, lambda: self._link.port.finish(finish))

    async def hand_back(
        self, attempt: LeasedAttempt, snapshot: StoredSnapshot | None
    ) -> Verdict | None:
        """Return a lease to the queue. None if there is no reply within ``finish_give_up_s``."""
        held, replica_id = attempt.held, self._link.identity.replica_id
        reason = attempt.hand_back_reason or SHUTTING_DOWN
        return await self._retry(
            attempt, lambda: self._link.port.hand_back(held, replica_id, reason, snapshot)
        )

    async def _retry(
        self, attempt: LeasedAttempt, call: Callable[[], Awaitable[Verdict]]
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


A = TypeVar("A", bound=LeasedAttempt)

_STOPS = {SignalKind.CANCEL: StopReason.CANCELLED, SignalKind.FENCED: StopReason.FENCED}


class LeasedAttempts(Generic[A]):
    """The attempts that run on a replica. Use on one event loop."""

    def __init__(
        self,
        make: Callable[[Lease], A],
        outcomes: OutcomeSender,
        traces: TraceReports,
        on_ended: Callable[[], None],
        latest_snapshot: Callable[[LeaseKey], StoredSnapshot | None],
    ) -> None:
        """``on_ended`` is called after each attempt, when its slot is free."""
        self.running: dict[LeaseKey, A] = {}
        self._make = make
        self._outcomes = outcomes
        self._traces = traces
        self._on_ended = on_ended
        self._latest_snapshot = latest_snapshot
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._leased = asyncio.Event()
        self._ended: deque[LeaseKey] = deque(maxlen=REMEMBERED)

    async def find(self, held: LeaseKey) -> A | None:
        """Return a running attempt. None: it has ended, or never began.

        An ingress knows of a lease before its replica does, so a call about it may come first, by
        up to ``LEASED_WITHIN_S``.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASED_WITHIN_S):
                while held not in self.running and held not in self._ended:
                    await self._leased.wait()
        return self.running.get(held)

    def take(self, work: Work) -> None:
        """Begin the leases of a reply, and obey its signals."""
        for lease in work.leases:
            if lease.held not in self.running:
                self._begin(lease)
        if work.leases:
            self._leased.set()
            self._leased = asyncio.Event()
        for signal in work.signals:
            self.stop(signal.held, _STOPS[signal.kind])

    def stop(self, held: LeaseKey, why: StopReason) -> None:
        if (attempt := self.running.get(held)) is not None:
            attempt.stop(why)

    def hand_back(self) -> None:
        """Stop all attempts, so that others run them. Those that begin later are stopped too."""
        self._closed = True
        for attempt in list(self.running.values()):
            attempt.stop(StopReason.HANDED_BACK)

    def abandon(self) -> None:
        """Hand back those that still run, without waiting for what they do."""
        for attempt in list(self.running.values()):
            attempt.abandon()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def ended(self, by: float) -> None:
        """Wait until all attempts have ended, but no later than ``by`` (event loop time)."""
        if self._tasks:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._tasks), timeout=left_s)

    def _begin(self, lease: Lease) -> None:
        attempt = self._make(lease)
        self.running[lease.held] = attempt
        if self._closed:
            attempt.stop(StopReason.HANDED_BACK)
        task = asyncio.create_task(self._run(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, attempt: A) -> None:
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
                log.info("Handing back attempt %d.", lease.attempt)
                snapshot = self._latest_snapshot(attempt.held)
                verdict = await self._outcomes.hand_back(attempt, snapshot)
            else:
                verdict = await self._outcomes.finish(attempt, outcome)
                _log_end(lease, outcome)
        finally:
            del self.running[attempt.held]
            self._ended.append(attempt.held)
            self._on_ended()
        if (timeline := attempt.state.timeline) is not None and verdict is Verdict.ACCEPTED:
            # Of any other attempt, the ingress records that it was lost.
            code = outcome.failure.code if outcome.failure and not attempt.handed_back else ""
            self._traces.add(timeline.ended(lease, code))
        if verdict is Verdict.FENCED:
            log.info("Attempt %d lost its lease; its work is dropped.", lease.attempt)
        # A stop may arrive after success, while the result is handed in: its files are needed then.
        if verdict is Verdict.FENCED or attempt.handed_back or outcome.failure is not None:
            await attempt.discard()


def _log_end(lease: Lease, outcome: Outcome) -> None:
    usage = outcome.usage
    how = "succeeded" if outcome.failure is None else outcome.failure.code
    log.info(
        "%s: attempt %d %s after %.3f s and %d steps.",
        lease.endpoint.id,
        lease.attempt,
        how,
        usage.run_s,
        usage.steps,
    )
