"""Execution of one lease, as it is for every executor: deadline, stop, outcome and clearing up."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from deployments.ingress_client.repeating import IngressRetry
from deployments.replica.attempt_state import AttemptState, Phase, StopReason
from deployments.replica.failures import PrintedLines, as_failure
from deployments.replica.poller import SlotQueue
from deployments.replica.timeline import WAITING
from deployments.transfer.uploader import StorageRetry
from serve_app.domain.errors import (
    TOO_LATE,
    Cancelled,
    DarkroomError,
    Expired,
    InvalidInput,
    ReplicaDied,
)
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Preview

log = logging.getLogger(__name__)

CANCELLED = "The request was cancelled."


class PreviewSource(Protocol):
    """Previews of an attempt."""

    def want(self) -> None: ...

    def take(self) -> Preview | None: ...


class Attempt(ABC):
    """Execution of one lease. Use on one event loop; others read ``state``.

    An executor says how an outcome is made, what it has cost so far, and what is given back and
    deleted afterwards. All else is here.
    """

    ended_by_itself: ClassVar[str]
    """Message of the failure of a request that was cancelled although nobody stopped it."""

    hands_back: ClassVar[tuple[type[DarkroomError], ...]] = (StorageRetry, IngressRetry)
    """Errors that are no failure of the request: another replica may do better. Here: the result
    cannot be stored anywhere, or nothing can start without what the ingress has."""

    def __init__(
        self,
        lease: Lease,
        clock: Clock,
        on_engine_left: Callable[[], None],
        previewer: PreviewSource,
        phase: Phase = Phase.WAITING,
        max_lines: int = 0,
    ) -> None:
        """``on_engine_left`` is called when the attempt does not need its slot, or not yet.
        ``max_lines``: printed lines that wait for a report."""
        self.lease = lease
        self.state = AttemptState(clock, on_engine_left, phase)
        if lease.trace:
            self.state.trace()
        self.previewer = previewer
        self.printed = PrintedLines(max_lines)
        self.hand_back_reason: str | None = None  # why the lease is handed back
        self._why_hung = ""
        self._waited_s = 0.0  # for a slot
        self._clock = clock
        self._task: asyncio.Task[Any] | None = None

    @abstractmethod
    async def _execute(self) -> Outcome:
        """Make and store what the lease asks for. It is cancelled to stop the attempt."""

    @abstractmethod
    def _usage(self) -> Usage:
        """Usage until now."""

    @abstractmethod
    async def _release(self) -> None:
        """Give back what the attempt has used. Its outcome is decided."""

    @abstractmethod
    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""

    @property
    def lease_key(self) -> LeaseKey:
        return self.lease.key

    @property
    def handed_back(self) -> bool:
        return self.state.stopped is StopReason.HANDED_BACK

    @property
    def must_stay(self) -> bool:
        """True while another replica could not make the result again."""
        return False

    async def run(self) -> Outcome:
        """Run the lease and return its outcome. Raises only ``CancelledError``, and only when the
        task is cancelled by a caller other than ``stop``."""
        state, self._task = self.state, asyncio.current_task()
        timer = self._stop_at_deadline()
        try:
            return await self._execute()
        except asyncio.CancelledError:
            if state.stopped is None or self._task is None:
                raise
            self._task.uncancel()
            return self._failed(Cancelled(CANCELLED))
        except self.hands_back as error:
            state.stopped = state.stopped or StopReason.HANDED_BACK
            self.hand_back_reason = error.message
            log.warning("The attempt cannot go on here: %s", error.message)
            return Outcome(failure=as_failure(error), usage=self._usage())
        except Exception as error:
            return self._failed(error)
        finally:
            if timer is not None:
                timer.cancel()
            # First: the outcome is decided, and a stop from here on must not take it away.
            state.enter(Phase.ENDED)
            await self._release()

    def stop(self, why: StopReason) -> None:
        """End the attempt soon. ``HANDED_BACK`` is ignored when it is nearly done, or must stay;
        what has its outcome is not ended any more."""
        state = self.state
        if why is StopReason.HANDED_BACK and (not state.needs_engine or self.must_stay):
            return
        if state.stopped not in (StopReason.FENCED, StopReason.HUNG) or why is StopReason.FENCED:
            state.stopped = why
        if state.generation is not None:
            state.generation.cancel()
        else:
            self._cancel()

    def fail_hung(self, why: str) -> None:
        """End the attempt as failed and retryable: it hangs, and its replica will be replaced.
        ``why`` is the message for the owner of the request."""
        if self.state.stopped is None and self._task is not None:
            self.state.stopped, self._why_hung = StopReason.HUNG, why
            self._cancel()

    def abandon(self) -> None:
        """Hand the lease back without waiting for a step, an encoding or an upload to end, unless
        the attempt must stay."""
        if self.must_stay or self.state.phase is Phase.ENDED:
            return
        self.state.stopped = self.state.stopped or StopReason.HANDED_BACK
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and self.state.phase is not Phase.ENDED:
            self._task.cancel()

    async def _take_slot(self, slots: SlotQueue) -> None:
        """Wait for a slot, which is free for others meanwhile."""
        began = self._clock.monotonic()
        self.state.enter(Phase.WAITING)
        self.state.enter_stage(WAITING)
        try:
            await slots.take(self)
        finally:
            self._waited_s = self._clock.monotonic() - began
            self.state.enter_stage(None)

    def _stop_at_deadline(self) -> asyncio.TimerHandle | None:
        remaining_s = self._remaining_s()
        if remaining_s is None:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(max(remaining_s, 0.0), self.stop, StopReason.DEADLINE)

    def _remaining_s(self) -> float | None:
        """Seconds left until the request's deadline. None if it has no deadline."""
        if self.lease.deadline_s is None:
            return None
        return self.state.leased_at + self.lease.deadline_s - self._clock.monotonic()

    def _failed(self, error: Exception) -> Outcome:
        if isinstance(error, Cancelled):
            match self.state.stopped:
                case None:  # the user did not cancel it, so another attempt can succeed
                    error = ReplicaDied(self.ended_by_itself)
                case StopReason.HUNG:
                    error = ReplicaDied(self._why_hung)
                case StopReason.DEADLINE:
                    error = Expired(TOO_LATE)
                case _:
                    pass
        if isinstance(error, InvalidInput):  # where it was raised says nothing
            log.info("The input was refused: %s", error.message)
        elif not isinstance(error, (Cancelled, Expired)):
            log.warning("The attempt failed.", exc_info=error)
        return Outcome(failure=as_failure(error), usage=self._usage())


def may_preview(lease: Lease) -> bool:
    """False if the operator's policy has to see a file before anybody else does."""
    return all(rule["action"] == "flag" for rule in lease.output_rules)
