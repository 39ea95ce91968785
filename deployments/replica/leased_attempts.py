"""Attempts of a replica, from their leases to their outcomes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from deployments.replica.attempt import Attempt
from deployments.replica.attempt_state import StopReason
from deployments.replica.config import IngressLink
from deployments.replica.failures import as_failure
from deployments.replica.timeline import TraceReports
from serve_app.domain.errors import Fenced, PipelineFailed
from serve_app.domain.lease import Finish, Lease, LeaseKey, SignalKind, Verdict, Work
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import StoredSnapshot
from serve_app.telemetry.logs import set_request
from serve_app.telemetry.trace_context import of_attempt

log = logging.getLogger(__name__)

REMEMBERED = 1_000
"""Attempts that are known to have ended."""

LEASED_WITHIN_S = 5.0
"""Time by which a call about an attempt may come before its lease."""

SHUTTING_DOWN = "The replica is shutting down."


class OutcomeSender:
    """``finish`` and ``hand_back`` of the lease port, retried while the ingress is unreachable."""

    def __init__(self, link: IngressLink) -> None:
        self._link = link

    async def finish(self, attempt: Attempt, outcome: Outcome) -> Verdict | None:
        """Deliver an outcome. None if there is no reply within ``finish_give_up_s``.

        ``PipelineFailed``: it cannot be stored.
        """
        await attempt.printed.wait_settled()
        replica_id = self._link.identity.replica_id
        finish = Finish(attempt.lease_key, replica_id, outcome, attempt.printed.take())
        return await self._retry(attempt, lambda: self._link.port.finish(finish))

    async def hand_back(self, attempt: Attempt, snapshot: StoredSnapshot | None) -> Verdict | None:
        """Return a lease to the queue. None if there is no reply within ``finish_give_up_s``."""
        key, replica_id = attempt.lease_key, self._link.identity.replica_id
        reason = attempt.hand_back_reason or SHUTTING_DOWN
        return await self._retry(
            attempt, lambda: self._link.port.hand_back(key, replica_id, reason, snapshot)
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
            except PipelineFailed:
                raise
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


A = TypeVar("A", bound=Attempt)

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

    async def find(self, lease_key: LeaseKey) -> A | None:
        """Return a running attempt. None: it has ended, or never began.

        An ingress knows of a lease before its replica does, so a call about it may come first, by
        up to ``LEASED_WITHIN_S``.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASED_WITHIN_S):
                while lease_key not in self.running and lease_key not in self._ended:
                    await self._leased.wait()
        return self.running.get(lease_key)

    def take(self, work: Work) -> None:
        """Begin the leases of a reply, and obey its signals."""
        for lease in work.leases:
            if lease.key not in self.running:
                self._begin(lease)
        if work.leases:
            self._leased.set()
            self._leased = asyncio.Event()
        for signal in work.signals:
            self.stop(signal.lease_key, _STOPS[signal.kind])

    def stop(self, lease_key: LeaseKey, why: StopReason) -> None:
        if (attempt := self.running.get(lease_key)) is not None:
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

    async def wait_for_all(self, by: float) -> None:
        """Wait until all attempts have ended, but no later than ``by`` (event loop time)."""
        if self._tasks:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._tasks), timeout=left_s)

    def _begin(self, lease: Lease) -> None:
        attempt = self._make(lease)
        self.running[lease.key] = attempt
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
            trace=of_attempt(lease.trace, lease.key) if lease.trace else "",
        )
        try:
            outcome = await attempt.run()
            stopped = attempt.state.stopped
            attempt.state.enter_stage("finish")
            if stopped is StopReason.FENCED:
                verdict: Verdict | None = Verdict.FENCED
            elif stopped is StopReason.HANDED_BACK:
                log.info("Handing back attempt %d.", lease.attempt)
                snapshot = self._latest_snapshot(attempt.lease_key)
                verdict = await self._outcomes.hand_back(attempt, snapshot)
            else:
                verdict, outcome = await self._finish(attempt, outcome)
                _log_end(lease, outcome)
        finally:
            del self.running[attempt.lease_key]
            self._ended.append(attempt.lease_key)
            self._on_ended()
        if (timeline := attempt.state.timeline) is not None and verdict is Verdict.ACCEPTED:
            # Of any other attempt, the ingress records that it was lost.
            code = outcome.failure.code if outcome.failure and not attempt.handed_back else ""
            self._traces.add(timeline.end(lease, code))
        if verdict is Verdict.FENCED:
            log.info("Attempt %d lost its lease; its work is dropped.", lease.attempt)
        # A stop may arrive after success, while the result is handed in: its files are needed then.
        if verdict is Verdict.FENCED or attempt.handed_back or outcome.failure is not None:
            await attempt.discard()

    async def _finish(self, attempt: A, outcome: Outcome) -> tuple[Verdict | None, Outcome]:
        """Hand in an outcome, or the failure that it cannot be stored."""
        try:
            return await self._outcomes.finish(attempt, outcome), outcome
        except PipelineFailed as error:
            log.warning("The outcome was refused: %s", error.message)
            failed = Outcome(failure=as_failure(error), usage=outcome.usage)
            return await self._outcomes.finish(attempt, failed), failed


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
