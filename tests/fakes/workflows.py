"""Workflows in memory. Passes the same contract tests as PostgreSQL's."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.lease import lease_of
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.request import Request, State
from serve_app.domain.workflows.definition import POOL, endpoint_id
from serve_app.domain.workflows.plan import StepId
from serve_app.domain.workflows.runs import (
    RUNNER,
    NewWorkflow,
    RegisteredWorkflow,
    RunStatus,
    Step,
    StepState,
    StepStatus,
    WorkflowRun,
)
from serve_app.queue.store.rows import known_id
from tests.fakes.ledger import FakeLedger
from tests.fakes.operations import FakeOperations
from tests.fakes.queue_row import Row

FOREVER = float("inf")


@dataclass
class _Run:
    tenant: str
    definition: Mapping[str, Any] | None
    started_at: datetime
    steps: dict[StepId, Step] = field(default_factory=dict[StepId, Step])
    ended: bool = False


class FakeDefinitions:
    """Implements ``WorkflowDefinitions``."""

    def __init__(self, clock: Clock, note: Callable[..., None]) -> None:
        self._clock = clock
        self._note = note
        self._workflows: dict[tuple[str, str], RegisteredWorkflow] = {}
        self._changes = 0

    async def put(self, new: NewWorkflow, most: int, actor: Actor) -> bool:
        known = self._workflows.get((new.tenant, new.name))
        others = [key for key in self._workflows if key[0] == new.tenant and key[1] != new.name]
        if len(others) >= most:
            return False
        now = self._clock.now()
        self._workflows[new.tenant, new.name] = RegisteredWorkflow(
            new.tenant,
            new.name,
            copy.deepcopy(new.definition),
            copy.deepcopy(new.source),
            new.public,
            known.created_at if known else now,
            now,
        )
        self._changed(actor, "workflow.put", new.tenant, new.name, public=new.public)
        return True

    async def find(self, tenant: str, name: str) -> RegisteredWorkflow | None:
        return self._workflows.get((tenant, name))

    async def page(self, tenant: str) -> Sequence[RegisteredWorkflow]:
        seen = [
            workflow
            for workflow in self._workflows.values()
            if workflow.public or workflow.tenant == tenant
        ]
        return sorted(
            seen, key=lambda workflow: (workflow.tenant != tenant, workflow.tenant, workflow.name)
        )

    async def remove(self, tenant: str, name: str, actor: Actor) -> bool:
        if self._workflows.pop((tenant, name), None) is None:
            return False
        self._changed(actor, "workflow.remove", tenant, name)
        return True

    async def version(self) -> str:
        return str(self._changes)

    async def all(self) -> Sequence[RegisteredWorkflow]:
        return [self._workflows[key] for key in sorted(self._workflows)]

    def of_endpoint(self, endpoint: str, tenant: str) -> Mapping[str, Any] | None:
        _, owner, name = endpoint.split("/")
        workflow = self._workflows.get((owner, name))
        if workflow is None or not (workflow.public or owner == tenant):
            return None
        return workflow.definition

    def _changed(self, actor: Actor, action: str, tenant: str, name: str, **detail: Any) -> None:
        self._changes += 1
        self._note(actor, action, endpoint_id(tenant, name), {"tenant": tenant, **detail})


class FakeRuns:
    """Implements ``WorkflowRuns``."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        operations: FakeOperations,
        line: Callable[..., None],
        definitions: FakeDefinitions,
        disabled: Callable[[], Collection[str]],
    ) -> None:
        self._clock = clock
        self._rows = rows
        self._operations = operations
        self._line = line
        self._definitions = definitions
        self._disabled = disabled
        self.by_id: dict[str, _Run] = {}
        self.refusals: dict[tuple[str, StepId], str] = {}  # of steps of runs

    async def start(self, limit: int) -> int:
        queued = [row for row in self._rows.values() if self._startable(row.request)]
        chosen = sorted(queued, key=lambda row: (row.ranked_at, row.place))[:limit]
        for row in chosen:
            request = row.request
            row.actor_id, row.confirmed, row.lease_until = "", True, FOREVER
            row.leased_at = self._clock.monotonic()
            row.request = replace(
                request,
                state=State.RUNNING,
                attempt=request.attempt + 1,
                lease_nonce=request.lease_nonce + 1,
                replica_id=RUNNER,
                started_at=self._clock.now(),
            )
            again = row.request.attempt > 1
            self._line(row, "The workflow goes on." if again else "The workflow started.")
            definition = self._definitions.of_endpoint(request.endpoint, request.tenant)
            run = self.by_id.setdefault(
                request.id, _Run(request.tenant, definition, self._clock.now())
            )
            run.ended = False
        return len(chosen)

    async def due(
        self, most: int, after: WorkflowRun | None = None, full: Collection[str] = ()
    ) -> Sequence[WorkflowRun]:
        running = [
            row
            for id_, run in self.by_id.items()
            if not run.ended
            and (row := self._running(id_)) is not None
            and self._is_due(run, row, full)
        ]
        runs = sorted(map(self._run, running), key=_place)
        return [run for run in runs if after is None or _place(run) > _place(after)][:most]

    async def steps(self, run: WorkflowRun) -> Sequence[Step]:
        stored = self.by_id[run.lease_key.request_id].steps.values()
        steps = [replace(step, request_state=self._state(step.request_id)) for step in stored]
        return sorted(steps, key=lambda step: (step.id.node, step.id.item))

    async def take(
        self, run: WorkflowRun, steps: Sequence[tuple[StepId, str, str, Mapping[str, Any]]]
    ) -> Sequence[StepId]:
        row = self._running(run.lease_key.request_id)
        if row is None or lease_of(row.request) != run.lease_key or row.request.cancel_requested:
            return []
        known, taken = self.by_id[run.lease_key.request_id].steps, list[StepId]()
        for id_, app, request_id, fields in steps:
            if id_ not in known:
                known[id_] = Step(id_, app, request_id, StepState.SENDING, copy.deepcopy(fields))
                taken.append(id_)
        return taken

    async def mark_sent(self, run: WorkflowRun, step: StepId, request_id: str) -> bool:
        known = self.by_id[run.lease_key.request_id].steps
        if known[step].state is not StepState.SENDING:
            return False
        known[step] = replace(
            known[step], state=StepState.SENT, request_id=request_id, input={}, waits=""
        )
        return True

    async def put_off(self, run: WorkflowRun, step: StepId, why: str) -> bool:
        known = self.by_id[run.lease_key.request_id].steps
        if known[step].state is not StepState.SENDING:
            return False
        known[step] = replace(known[step], waits=why)
        return True

    async def settle(self, run: WorkflowRun, step: StepId, outcome: Outcome) -> bool:
        known = self.by_id[run.lease_key.request_id].steps
        if known[step].state is StepState.ENDED:
            return False
        known[step] = replace(
            known[step], state=StepState.ENDED, outcome=outcome, input={}, waits=""
        )
        return True

    async def refuse(self, run: WorkflowRun, step: StepId, failure: Failure) -> bool:
        known = self.by_id[run.lease_key.request_id].steps
        if known[step].state is not StepState.SENDING or self._state(known[step].request_id):
            return False
        known[step] = replace(
            known[step],
            state=StepState.ENDED,
            outcome=Outcome(failure=failure),
            input={},
            refused=True,
            waits="",
        )
        self.refusals[run.lease_key.request_id, step] = failure.message
        return True

    async def list_abandoned_steps(self, limit: int) -> Sequence[tuple[str, str, str]]:
        runs = [
            (run.tenant, id_, step.request_id)
            for id_, run in self.by_id.items()
            if not run.ended and self._is_over(id_)
            for step in run.steps.values()
            if step.state is not StepState.ENDED and self._unended(step.request_id)
        ]
        return runs[:limit]

    async def close(self) -> None:
        for id_, run in [*self.by_id.items()]:
            if run.ended or not self._is_over(id_):
                continue
            if id_ not in self._rows:
                self.forget(id_)
            elif all(self._ended(step.request_id) for step in _unended(run)):
                run.ended = True
                run.steps = {
                    key: replace(step, state=StepState.ENDED, input={}, outcome=None, waits="")
                    for key, step in run.steps.items()
                }

    def forget(self, request_id: str) -> None:
        """Forget a deleted request, unless steps of it run."""
        run = self.by_id.get(request_id)
        if run is not None and not any(self._unended(step.request_id) for step in _unended(run)):
            del self.by_id[request_id]

    def parent_of(self, request_id: str) -> str | None:
        """Id of the request to a workflow whose step a request is."""
        for id_, run in self.by_id.items():
            if any(step.request_id == request_id for step in run.steps.values()):
                return id_
        return None

    def _startable(self, request: Request) -> bool:
        return (
            request.pool == POOL
            and request.state is State.QUEUED
            and not self._operations.is_paused(request.endpoint)
            and request.tenant not in self._disabled()
        )

    def _running(self, id_: str) -> Row | None:
        row = self._rows.get(id_)
        return row if row is not None and row.request.state is State.RUNNING else None

    def _is_due(self, run: _Run, row: Row, full: Collection[str]) -> bool:
        unended = _unended(run)
        left_s = _left_s(row.request, self._clock.now())
        if row.request.cancel_requested or not unended or (left_s is not None and left_s <= 0):
            return True
        return any(
            run.tenant not in full
            if step.state is StepState.SENDING
            else (state := self._state(step.request_id)) is None or state.final
            for step in unended
        )

    def _run(self, row: Row) -> WorkflowRun:
        request = row.request
        return WorkflowRun(
            lease_of(request),
            request.tenant,
            request.endpoint,
            row.key_id,
            copy.deepcopy(row.input),
            self.by_id[request.id].definition,
            request.priority,
            request.cancel_requested,
            _left_s(request, self._clock.now()),
            request.forgetting is None,
            None,  # lifetimes of files are in a book of their own
            request.file_access,
            request.previews,
            request.trace,
            row.webhook.origin if row.webhook else "",
            request.alone,
            row.steps_stay,
            self.by_id[request.id].started_at,
        )

    def _state(self, request_id: str) -> State | None:
        row = self._rows.get(str(uuid.UUID(request_id)))
        return None if row is None else row.request.state

    def _unended(self, request_id: str) -> bool:
        state = self._state(request_id)
        return state is not None and not state.final

    def _ended(self, request_id: str) -> bool:
        state = self._state(request_id)
        return state is not None and state.final

    def _is_over(self, id_: str) -> bool:
        row = self._rows.get(id_)
        return row is None or row.request.state.final


class FakeWorkflows:
    """Implements ``WorkflowBook``."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        operations: FakeOperations,
        line: Callable[..., None],
        ledger: FakeLedger,
        disabled: Callable[[], Collection[str]],
    ) -> None:
        self._rows = rows
        self._ledger = ledger
        self.definitions = FakeDefinitions(clock, operations.note)
        self.runs = FakeRuns(clock, rows, operations, line, self.definitions, disabled)

    async def status(self, tenant: str, request_id: str) -> RunStatus | None:
        run = self.runs.by_id.get(str(uuid.UUID(known_id(request_id))))
        if run is None or run.tenant != tenant or request_id not in self._rows:
            return None
        steps = sorted(run.steps.values(), key=lambda step: (step.id.node, step.id.item))
        nodes = (run.definition or {"nodes": {}})["nodes"]
        return RunStatus(nodes, [self._step(request_id, step) for step in steps])

    async def step_requests(self, tenant: str, request_id: str) -> Sequence[str]:
        status = await self.status(tenant, request_id)
        steps = [] if status is None else status.steps
        return [step.request_id for step in steps if step.request_id is not None]

    def _step(self, run_id: str, step: Step) -> StepStatus:
        if step.refused:
            error = self.runs.refusals[run_id, step.id]
            return StepStatus(step.id, step.app, None, State.FAILED, error=error)
        row = self._rows.get(step.request_id)
        line = next((entry for entry in self._ledger.lines if entry.id == step.request_id), None)
        shown = StepStatus(step.id, step.app, step.request_id, None, waits=step.waits)
        if line is not None:
            price = line.price
            shown = replace(
                shown,
                run_s=line.usage.run_s,
                cost=line.made.cost(price) if price else None,
                currency=price.currency if price else "",
            )
        if row is None:
            return shown
        request = row.request
        failure = request.outcome.failure if request.outcome else None
        return replace(
            shown,
            state=request.state,
            started_at=request.started_at,
            finished_at=request.finished_at,
            error=failure.message if failure else None,
        )


def _unended(run: _Run) -> Sequence[Step]:
    return [step for step in run.steps.values() if step.state is not StepState.ENDED]


def _place(run: WorkflowRun) -> tuple[datetime, str]:
    return run.started_at, run.lease_key.request_id


def _left_s(request: Request, now: datetime) -> float | None:
    return None if request.end_by is None else (request.end_by - now).total_seconds()
