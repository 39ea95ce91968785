"""Attempts of a replica: begun by leases, stopped by signals, ended by an outcome that is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from deployments.replica.attempt_state import AttemptState, StopReason
from deployments.replica.reporter import OutcomeSender
from deployments.replica.timeline import TraceReports
from serve_app.domain.lease import Lease, LeaseKey, Lines, SignalKind, Verdict, Work
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import StoredSnapshot
from serve_app.telemetry.logs import set_request
from serve_app.telemetry.trace_context import of_attempt

log = logging.getLogger(__name__)


class LeasedAttempt(Protocol):
    """Execution of one lease."""

    lease: Lease
    state: AttemptState
    hand_back_reason: str | None

    @property
    def held(self) -> LeaseKey: ...

    @property
    def handed_back(self) -> bool: ...

    def take_lines(self) -> Lines: ...

    async def run(self) -> Outcome: ...

    def stop(self, why: StopReason) -> None: ...

    def abandon(self) -> None: ...

    async def discard(self) -> None: ...


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

    def take(self, work: Work) -> None:
        """Begin the leases of a reply, and obey its signals."""
        for lease in work.leases:
            if lease.held not in self.running:
                self._begin(lease)
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
