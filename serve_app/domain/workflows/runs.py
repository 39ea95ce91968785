"""Registered workflows, requests to workflows that run, and the requests of their steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.request import Priority, State
from serve_app.domain.workflows.plan import StepId

RUNNER = "workflows"
"""Name of a workflow's replica: no process in particular."""


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """Workflow to register. ``definition``: as the endpoint's options have it."""

    tenant: str
    name: str
    definition: Mapping[str, Any]
    source: Mapping[str, Any]  # as it was sent
    public: bool = False  # all tenants may call it


@dataclass(frozen=True, slots=True)
class RegisteredWorkflow:
    """A registered workflow."""

    tenant: str
    name: str
    definition: Mapping[str, Any]
    source: Mapping[str, Any]
    public: bool
    created_at: datetime
    changed_at: datetime


class StepState(StrEnum):
    """State of a step's row."""

    SENDING = "sending"  # its request has an id, and may be stored
    SENT = "sent"  # its request is stored
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was started. ``outcome``: of its request, once that has ended and was read."""

    id: StepId
    app: str
    request_id: str
    state: StepState
    input: Mapping[str, Any]
    outcome: Outcome | None = None
    request_state: State | None = None  # None: there is no such request
    refused: bool = False  # its request was not stored, and never will be
    waits: str = ""  # while sending: why its request is not accepted yet


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A running request to a workflow, with what its steps inherit."""

    lease_key: LeaseKey
    tenant: str
    endpoint: str
    key_id: str
    input: Mapping[str, Any]
    definition: Mapping[str, Any] | None  # None: the workflow was deleted before it started
    priority: Priority
    cancel_requested: bool
    left_s: float | None  # until its deadline; None: it has none
    store_io: bool
    keep_files_s: float | None
    file_access: str  # id of the access rules of its files; empty: they are public
    previews: bool
    trace: str
    origin: str  # of the URLs in its webhook; empty: it has none
    alone: bool  # deterministic: its steps share no forward pass with other requests
    steps_stay: bool  # its steps have no fallback
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StepStatus:
    """A step as its owner sees it."""

    id: StepId
    app: str
    request_id: str | None  # None: it was refused, so there is none
    state: State | None  # None: its request is not stored yet, or was deleted
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_s: float | None = None
    cost: Decimal | None = None
    currency: str = ""
    waits: str = ""  # why its request is not accepted yet
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A request to a workflow, as its owner sees it."""

    nodes: Mapping[str, Mapping[str, Any]]  # all steps of the definition, as it is stored
    steps: Sequence[StepStatus]  # that were started


class WorkflowRuns(Protocol):
    """Calls of the process that runs workflows. Two may do so at once: everything that is done
    twice has its effect once."""

    async def start(self, limit: int) -> int:
        """Start queued requests to workflows, those that wait longest first. Returns how many."""
        ...

    async def due(
        self, most: int, after: WorkflowRun | None = None, full: Collection[str] = ()
    ) -> Sequence[WorkflowRun]:
        """Running requests to workflows that can go on, the oldest first, behind ``after``. They
        are read with their inputs, so ``most`` bounds memory. ``full``: tenants that the queue
        takes no requests of now, so that their steps cannot be sent."""
        ...

    async def steps(self, run: WorkflowRun) -> Sequence[Step]:
        """Steps of a request that were started."""
        ...

    async def take(
        self, run: WorkflowRun, steps: Sequence[tuple[StepId, str, str, Mapping[str, Any]]]
    ) -> Sequence[StepId]:
        """Record steps with their endpoints, the ids of their requests, and their inputs. Returns
        those that are new; none if the run has ended or is to be cancelled."""
        ...

    async def mark_sent(self, run: WorkflowRun, step: StepId, request_id: str) -> bool:
        """Record that the request of a step is stored. False: it was recorded before."""
        ...

    async def put_off(self, run: WorkflowRun, step: StepId, why: str) -> bool:
        """Record why the request of a step is not accepted yet. False: it is stored after all."""
        ...

    async def settle(self, run: WorkflowRun, step: StepId, outcome: Outcome) -> bool:
        """Record the outcome of a step. False: one was recorded before."""
        ...

    async def refuse(self, run: WorkflowRun, step: StepId, failure: Failure) -> bool:
        """Record that the request of a step was refused for good. False: it is stored after all, or
        an outcome was recorded before."""
        ...

    async def list_abandoned_steps(self, limit: int) -> Sequence[tuple[str, str, str]]:
        """Tenant and ids of runs that have ended, and of their steps' requests that have not."""
        ...

    async def close(self) -> None:
        """Forget what only running requests need, of those that have ended."""
        ...


class WorkflowDefinitions(Protocol):
    """Registered workflows."""

    async def put(self, new: NewWorkflow, most: int, actor: Actor) -> bool:
        """Register a workflow, in place of one with this name. False: the tenant has ``most``
        others."""
        ...

    async def find(self, tenant: str, name: str) -> RegisteredWorkflow | None: ...

    async def page(self, tenant: str) -> Sequence[RegisteredWorkflow]:
        """Workflows of a tenant by name, and then the public ones of others."""
        ...

    async def remove(self, tenant: str, name: str, actor: Actor) -> bool:
        """Remove a workflow. Requests that have started continue. False: there is none."""
        ...

    async def version(self) -> str:
        """Text that differs after each change of a workflow."""
        ...

    async def all(self) -> Sequence[RegisteredWorkflow]:
        """All workflows."""
        ...


class WorkflowBook(Protocol):
    """Registered workflows, and the steps of requests to them."""

    @property
    def definitions(self) -> WorkflowDefinitions: ...

    @property
    def runs(self) -> WorkflowRuns: ...

    async def status(self, tenant: str, request_id: str) -> RunStatus | None:
        """Steps of a request to a workflow. None: it has not started, or is none of the
        tenant's."""
        ...

    async def step_requests(self, tenant: str, request_id: str) -> Sequence[str]:
        """Ids of the requests of a run's steps."""
        ...
