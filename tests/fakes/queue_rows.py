"""The rows of the queue in memory, and how requests end, are lost and are queued again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import NOTHING, made_by, made_by_session
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.executors.shadow import SHADOW_TENANT
from serve_app.domain.lease import (
    Ask,
    Death,
    LeaseKey,
    LeaseTerms,
    Liveness,
    Presence,
    ReplicaStage,
    Signal,
    lease_of,
)
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Clock
from serve_app.domain.request import (
    MAX_FAILURES,
    CancelVerdict,
    Cause,
    LogLine,
    Priority,
    Request,
    State,
)
from serve_app.domain.workflows.definition import POOL
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.transactions.end_attempt import UNCONFIRMED_REPLICAS
from tests.fakes.batches import FakeBatches
from tests.fakes.drafts import FakeDrafts
from tests.fakes.fair_lanes import FairLanes
from tests.fakes.fallbacks import FakeFallbacks
from tests.fakes.gallery import FakeGallery
from tests.fakes.ledger import FakeLedger
from tests.fakes.lifecycles import FakeLifecycles
from tests.fakes.operations import FakeOperations
from tests.fakes.outbox import FakeOutbox
from tests.fakes.queue_row import Row, forgetting
from tests.fakes.quotas import FakeCostBook, FakeQuotas
from tests.fakes.repeats import FakeRepeats
from tests.fakes.shadows import FakeShadows
from tests.fakes.stored_files import FakeStoredFiles
from tests.fakes.workflows import FakeWorkflows

T = TypeVar("T")
LOOK_S = 0.02


class QueueRows:
    """For one event loop. What depends on time is looked at whenever somebody calls."""

    def __init__(
        self, clock: Clock, terms: LeaseTerms, limits: QueueLimits, liveness: Liveness
    ) -> None:
        self._clock = clock
        self._terms = terms
        self._limits = limits
        self._liveness = liveness
        self._named: dict[str, frozenset[LeaseKey]] = {}  # by actor, in its last poll
        self._ended_terms: dict[str, str] = {}  # reasons by actor
        self._rows: dict[str, Row] = {}
        self._repeats = FakeRepeats(clock)
        self._presence: dict[str, Presence] = {}
        self._slots: dict[str, int] = {}
        self._slots_of: dict[str, int] = {}  # by replica
        self._lanes = FairLanes(limits)
        self._asking: list[Ask] = []
        self._signalled: dict[tuple[str, Signal], float] = {}
        self._last_busy: dict[str, float] = {}
        self._wake = asyncio.Event()
        self.operations = FakeOperations(
            *(clock, self._rows, self.cancel, self._end_by_hand, self._changed, self._line)
        )
        self.outbox = FakeOutbox(clock, self._rows, self.operations.note)
        self.ledger = FakeLedger(self._rows)
        self.costs = FakeCostBook()
        self._quotas = FakeQuotas(clock, limits, self._spent)
        self.lifecycles = FakeLifecycles()
        self.drafts = FakeDrafts(clock, self._rows, self.operations.note)
        self.batches = FakeBatches(clock, self._rows, self.operations.note)
        self.workflows = FakeWorkflows(
            *(clock, self._rows, self.operations, self._line, self.ledger),
            lambda: limits.disabled,
        )
        self.fallbacks = FakeFallbacks(
            *(clock, self._rows, self._line, self._changed),
            *(self._repeats.forget_reusable, self._lanes.open),
        )
        self.shadows = FakeShadows(
            *(clock, self._rows, self.ledger),
            lambda original, target: self._repeats.find_by_key(SHADOW_TENANT, target, original),
            self.operations.is_halted,
        )
        self.gallery = FakeGallery(clock, self._rows, self.page, self.operations.note)
        self.stored_files = FakeStoredFiles(clock, self._rows, lambda: self.batches.files.uploads)

    @property
    def usage(self) -> list[str]:
        """Ids of requests and frames, one line each."""
        return [line.id for line in self.ledger.lines]

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to undo."""

    async def _look(self) -> None:
        """End what time or death has ended, and forget what is due."""
        now = self._clock.monotonic()
        running = [row for row in self._rows.values() if row.request.state is State.RUNNING]
        holders = [*(row.actor_id for row in running), *(ask.actor_id for ask in self._asking)]
        dead = await self._liveness.dead(holders)
        of_previous_run = await self._liveness.of_previous_run(holders)
        self._ended_terms |= dict.fromkeys(of_previous_run, "Darkroom was stopped")
        self._ended_terms |= {actor: death.reason for actor, death in dead.items()}
        self._asking = [ask for ask in self._asking if ask.actor_id not in self._ended_terms]
        for row in running:
            if row.request.state is not State.RUNNING:
                continue
            if row.actor_id in of_previous_run:
                self._lost(row, Cause.CONNECTION_ERROR, stopped=True)
            elif (death := dead.get(row.actor_id)) is not None:
                self._died(row, death)
            elif row.lease_until < now:
                self._interrupted(row, Cause.TIMEOUT)
            elif self._overtime_s(row.request) > 0:
                self._out_of_time(row)
        for row in self._rows.values():
            row.request = forgetting(row, self._clock.now())
            if row.request.state is State.QUEUED and row.start_by <= self._clock.now():
                in_all = row.request.end_by is not None and row.request.end_by <= self._clock.now()
                if not in_all and self._has_started(row.request):
                    continue
                self._end(
                    row, State.EXPIRED, messages.not_in_time() if in_all else messages.expiry()
                )

    def _died(self, row: Row, death: Death) -> None:
        if not death.by_itself:
            self._interrupted(row, Cause.CONNECTION_ERROR)
            return
        named = self._named.get(row.actor_id, frozenset())
        row.confirmed = row.confirmed or lease_of(row.request) in named
        self._lost(row, Cause.CONNECTION_ERROR)

    def _overtime_s(self, request: Request) -> float:
        """How much longer it runs than is borne."""
        if request.end_by is None:
            return 0.0
        late = self._clock.now() - request.end_by
        return late.total_seconds() - self._limits.overtime_s

    def _out_of_time(self, row: Row) -> None:
        row.ended[lease_of(row.request)] = "out_of_time"
        self._settle(row)
        if row.request.cancel_requested:
            self._end(row, State.CANCELLED, messages.cancellation())
        else:
            self._end(row, State.EXPIRED, messages.not_in_time())

    def _lost(self, row: Row, cause: Cause, *, stopped: bool = False) -> None:
        row.ended[lease_of(row.request)] = "stopped" if stopped else "lost"
        self._settle(row)
        if row.confirmed and not stopped:
            row.request = replace(row.request, alone=True)
            often = row.request.failures + 1
            spent = often >= self._limits.max_failures
            outcome = messages.ended_its_replica(often) if spent else messages.no_retry_left()
            why = f"Replica {row.request.replica_id} died"
            self._failed_once(row, cause, outcome, why, died=True)
        else:
            self._never_confirmed(row)

    def _never_confirmed(self, row: Row) -> None:
        row.unconfirmed += 1
        most = self._limits.max_unconfirmed
        given_up = row.unconfirmed >= most and len(row.replicas) >= min(most, UNCONFIRMED_REPLICAS)
        if given_up and not row.request.cancel_requested:
            self._fail(row, messages.never_confirmed(row.unconfirmed))
        else:
            self._requeue(row, f"Replica {row.request.replica_id} never confirmed it")

    def _interrupted(self, row: Row, cause: Cause) -> None:
        """Not by the request: a failure only for one that sets its own retries."""
        row.ended[lease_of(row.request)] = "interrupted"
        self._settle(row)
        why = f"Replica {row.request.replica_id} could not be reached"
        if not row.confirmed:
            self._never_confirmed(row)
        elif row.request.retries_left is not None:
            self._failed_once(row, cause, messages.no_retry_left(), why)
        else:
            self._requeue(row, why)

    def _ready_elsewhere(self, row: Row) -> bool:
        """Its pool has a ready replica on a node on which none has died with it."""
        return bool(row.died_on) and any(
            presence.pool == row.request.pool
            and presence.stage is ReplicaStage.READY
            and presence.actor_id not in self._ended_terms
            and presence.node not in {"", *row.died_on}
            for presence in self._presence.values()
        )

    def _failed_once(
        self, row: Row, cause: Cause, outcome: Outcome, why: str, *, died: bool = False
    ) -> None:
        left = row.request.retries_left
        row.request = replace(row.request, failures=row.request.failures + 1)
        known = self._presence.get(row.request.replica_id or "")
        if died and known is not None and known.node:
            row.died_on.add(known.node)
        if left is None:
            most = self._limits.max_failures
            if died and len(row.died_on) == 1 and self._ready_elsewhere(row):
                most *= 2
            spent = row.request.failures >= most
        else:
            spent = not left.remaining(cause) or row.request.failures >= MAX_FAILURES
            after = left.after(cause) if left.remaining(cause) else left
            row.request = replace(row.request, retries_left=after)
        if spent and not row.request.cancel_requested:
            self._fail(row, outcome)
        else:
            self._requeue(row, why, self._retries(row))

    def _fail(self, row: Row, outcome: Outcome) -> None:
        """End the request, unless it falls back."""
        if not self.fallbacks.after_failure(row, outcome):
            self._end(row, State.FAILED, outcome)

    def _retries(self, row: Row) -> str:
        left = row.request.retries_left
        if left is None:
            return ""
        causes = ", ".join(f"{cause.replace('_', ' ')} {left.remaining(cause)}" for cause in Cause)
        return f" Retries left: {causes}."

    def _requeue(self, row: Row, why: str, more: str = "") -> None:
        if row.request.cancel_requested:
            self._end(row, State.CANCELLED, messages.cancellation())
            return
        row.request = replace(
            row.request, state=State.QUEUED, replica_id=None, progress=None, preview_step=0
        )
        self._line(row, f"{why.rstrip('.')}; queued again.{more}")
        self._changed()

    def _end(self, row: Row, state: State, outcome: Outcome) -> None:
        row.request = replace(
            row.request,
            state=state,
            outcome=outcome,
            finished_at=self._clock.now(),
            progress=None,
            snapshot=None,
            preview_step=0,
            follows=None,
            upload_policy=None,
        )
        self._counted(row)
        self._line(row, outcome.failure.message if outcome.failure else messages.SUCCEEDED)
        self.outbox.on_end(row)
        self._settle_followers(row.request)
        self._changed()

    def _spent(self, tenant: str) -> Decimal:
        """What a tenant's requests have cost, and what those that have not ended have reserved."""
        rows = [row for row in self._rows.values() if row.request.tenant == tenant]
        reserved = [row.reserved or Decimal(0) for row in rows if not row.request.state.final]
        return self.ledger.cost(tenant) + sum(reserved, Decimal(0))

    def _counted(self, row: Row) -> None:
        request = row.request
        outcome = request.outcome or Outcome()
        if request.pool == POOL:  # its steps are counted
            outcome = Outcome()
        computed = request.state is State.SUCCEEDED and request.reuses is None
        at = request.finished_at or self._clock.now()
        counter = made_by_session if request.priority is Priority.REALTIME else made_by
        made_here = counter(outcome) if computed else NOTHING
        self.ledger.note(request.id, request, at, outcome.usage, made_here)

    def _has_started(self, request: Request) -> bool:
        """What it waits for runs."""
        followed = request.follows and self._rows[request.follows].request
        return bool(followed) and followed.state is State.RUNNING

    def _settle_followers(self, leader: Request) -> None:
        """They have its outcome, or the first of them leads the others."""
        following = [row for row in self._rows.values() if row.request.follows == leader.id]
        if leader.state is State.SUCCEEDED:
            for row in following:
                outcome = replace(leader.outcome or Outcome(), usage=Usage())
                self._give(row, leader.id, outcome)
            return
        following.sort(key=lambda row: (row.ranked_at, row.place))
        for row in following[1:]:
            row.request = replace(row.request, follows=following[0].request.id)
        for heir in following[:1]:
            heir.request = replace(heir.request, follows=None)
            if heir.start_by <= self._clock.now():
                heir.start_by = heir.request.end_by or datetime.max.replace(tzinfo=UTC)
            self._line(heir, messages.GOES_ON)

    def _give(self, row: Row, leader: str, outcome: Outcome) -> None:
        now = self._clock.now()
        row.request = replace(
            row.request,
            state=State.SUCCEEDED,
            outcome=outcome,
            follows=None,
            reuses=leader,
            started_at=now,
            finished_at=now,
        )
        self._repeats.forget_reusable(row.request.id)
        self._counted(row)
        made = self._rows[leader].request
        row.request = replace(
            row.request, fell_back_to=made.fell_back_to, fell_back_for=made.fell_back_for
        )
        self._line(row, messages.reuse(leader))
        self.outbox.on_end(row)
        self._changed()

    async def cancel(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> CancelVerdict:
        await self._look()
        row = self._row(tenant, request_id)
        if row.request.state.final:
            return CancelVerdict.ALREADY_FINAL
        if actor is not None and not row.request.cancel_requested:
            self.operations.note(actor, "request.cancel", row.request.id, {"tenant": tenant})
        if row.request.state is State.QUEUED:
            row.request = replace(row.request, cancel_requested=True)
            self._end(row, State.CANCELLED, messages.cancellation())
            return CancelVerdict.CANCELLED
        if not row.request.cancel_requested:
            row.request = replace(row.request, cancel_requested=True)
            self._line(row, messages.CANCEL_REQUESTED)
            self._changed()
        return CancelVerdict.REQUESTED

    def _end_by_hand(self, row: Row, failure: Outcome | None) -> None:
        if row.request.state is State.RUNNING:
            row.ended[lease_of(row.request)] = "by_hand"
            self._settle(row)
        if failure is None:
            self._requeue(row, messages.REQUEUED)
        else:
            self._end(row, State.FAILED, failure)

    def _settle(self, row: Row, run_s: float = 0.0, *, succeeded: bool = False) -> None:
        took_s = run_s or self._clock.monotonic() - row.leased_at
        self._lanes.settle(row, took_s, succeeded=succeeded)

    def _requests(self) -> list[Request]:
        return [row.request for row in self._rows.values()]

    def _running(self) -> list[Request]:
        return [row.request for row in self._rows.values() if row.request.state is State.RUNNING]

    def _queue(self, pool: str) -> list[Row]:
        return [
            row
            for row in self._rows.values()
            if row.request.pool == pool
            and row.request.state is State.QUEUED
            and row.request.follows is None
        ]

    def _row(self, tenant: str, request_id: str) -> Row:
        row = self._rows.get(request_id)
        if row is None or row.request.tenant != tenant:
            raise RequestNotFound(f"There is no request {request_id}.")
        return row

    def _line(self, row: Row, message: str, level: str = "INFO") -> None:
        # A line names a state when it is the first to be written in it.
        named = row.logged is row.request.state or level == "WARNING"
        state = None if named else row.request.state
        row.logged = state or row.logged
        row.log.append(LogLine(len(row.log) + 1, self._clock.now(), level, message, state))
        row.request = replace(row.request, events=len(row.log))

    def _changed(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _until(self, lookup: Callable[[], T | None], timeout_s: float) -> T | None:
        """The first thing that ``lookup`` finds, or None after ``timeout_s``."""
        end = self._clock.monotonic() + timeout_s
        while True:
            await self._look()
            wake = self._wake
            value = lookup()
            left_s = end - self._clock.monotonic()
            if value is not None or left_s <= 0:
                return value
            # Not `wait_for`: it swallows a cancellation that comes together with the wakeup.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await wake.wait()
