"""What owners see of a request to a workflow: its steps, sums, and the events of a stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError, RequestNotFound
from serve_app.domain.request import Request, State, WaitReason
from serve_app.domain.workflows.definition import POOL
from serve_app.domain.workflows.runs import RunStatus, StepStatus
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.failures import answer_for, failure_body
from serve_app.ingress.submission.rendering import NO_OUTCOME, final_outcome, rendered_output

StepWord = Literal[
    "waiting", "skipped", "queued", "running", "succeeded", "failed", "cancelled", "expired"
]


class WorkflowStep(TypedDict):
    """A step of a workflow, which is a request of its own."""

    node_id: str
    item: Annotated[
        int | None, Field(description="Number of its element, if the step runs for a list.")
    ]
    app_id: str
    request_id: Annotated[
        str | None, Field(description="Null: it has not started, or was refused.")
    ]
    state: Annotated[
        StepWord,
        Field(
            description="`waiting`: for other steps, or to be submitted. `skipped`: it did not "
            "run, or its request is deleted."
        ),
    ]
    queue_position: Annotated[int | None, Field(description="While it is queued; 0 is next.")]
    reason: Annotated[
        WaitReason | Literal["not_accepted"] | None,
        Field(
            description="Why it waits, as in the status of its request. `not_accepted`: the "
            "queue does not take that yet. Null: it does not wait, or for other steps."
        ),
    ]
    detail: Annotated[str, Field(description="More about the reason.")]
    started_at: Time | None
    finished_at: Time | None
    run_s: Annotated[float | None, Field(description="Seconds on a replica, once it has ended.")]
    cost: Annotated[str | None, Field(description="Amount of money, once it has ended.")]
    currency: str | None
    error: str | None


class Money(TypedDict):
    amount: str
    currency: str


class WorkflowStatus(TypedDict):
    """Steps of a workflow, and what they took."""

    steps: list[WorkflowStep]
    run_s: Annotated[float, Field(description="Sum of the steps' seconds.")]
    cost: Annotated[list[Money], Field(description="Sums of the steps' costs, by currency.")]


async def workflow_status(services: Services, request: Request) -> WorkflowStatus | None:
    """Steps of a request to a workflow. None: it is to another endpoint, or has not started."""
    if request.pool != POOL:
        return None
    status = await services.queue.workflows.status(request.tenant, request.id)
    if status is None:
        return None
    costs: defaultdict[str, Decimal] = defaultdict(Decimal)
    for step in status.steps:
        if step.cost is not None:
            costs[step.currency] += step.cost
    return {
        "steps": await _steps(services, request, status),
        "run_s": sum(step_status.run_s or 0.0 for step_status in status.steps),
        "cost": [
            {"amount": f"{costs[currency]:f}", "currency": currency} for currency in sorted(costs)
        ],
    }


async def _steps(services: Services, request: Request, run_status: RunStatus) -> list[WorkflowStep]:
    steps: list[WorkflowStep] = []
    for name, node in run_status.nodes.items():
        started = [step for step in run_status.steps if step.id.node == name]
        listed = node.get("for_each") is not None
        steps += [await _step(services, request, step, listed=listed) for step in started]
        if not started:
            steps.append(_waiting(name, str(node["app"]), ended=request.state.final))
    return steps


async def _step(
    services: Services, workflow: Request, step: StepStatus, *, listed: bool
) -> WorkflowStep:
    # In a workflow that has ended, it was not sent before that, or its request was deleted.
    missing = "skipped" if workflow.state.final else "waiting"
    word = missing if step.state is None else step.state.value
    position, reason, detail = None, None, ""
    if step.state is State.QUEUED and step.request_id is not None:
        try:
            queued = await services.queue.get(workflow.tenant, step.request_id)
        except RequestNotFound:
            word = missing
        else:
            waiting = await services.queue.waiting(queued)
            position, reason, detail = waiting.position, waiting.reason, waiting.detail
    elif word == "waiting" and step.waits:
        reason, detail = "not_accepted", step.waits
    return {
        "node_id": step.id.node,
        "item": step.id.item if listed else None,
        "app_id": step.app,
        "request_id": step.request_id,
        "state": cast("StepWord", word),
        "queue_position": position,
        "reason": cast("WaitReason | Literal['not_accepted'] | None", reason),
        "detail": detail,
        "started_at": iso(step.started_at),
        "finished_at": iso(step.finished_at),
        "run_s": step.run_s,
        "cost": None if step.cost is None else f"{step.cost:f}",
        "currency": step.currency or None,
        "error": step.error,
    }


def _waiting(name: str, app: str, *, ended: bool) -> WorkflowStep:
    return {
        "node_id": name,
        "item": None,
        "app_id": app,
        "request_id": None,
        "state": "skipped" if ended else "waiting",
        "queue_position": None,
        "reason": None,
        "detail": "",
        "started_at": None,
        "finished_at": None,
        "run_s": None,
        "cost": None,
        "currency": None,
        "error": None,
    }


# Events, as fal's workflows stream them.


class WorkflowEvents:
    """Events of a request to a workflow that were not sent yet. Call ``news`` after each change."""

    def __init__(self, services: Services, origin: str) -> None:
        self._services = services
        self._origin = origin
        self._submitted: set[str] = set()
        self._completed: set[str] = set()

    async def news(self, request: Request) -> list[dict[str, Any]]:
        """Events of steps: each ``submit``, and each ``completion`` with its output."""
        status = await self._services.queue.workflows.status(request.tenant, request.id)
        events: list[dict[str, Any]] = []
        for step in status.steps if status is not None else ():
            listed = status is not None and status.nodes[step.id.node].get("for_each") is not None
            node = {"node_id": step.id.node} | ({"item": step.id.item} if listed else {})
            if step.request_id is None:  # it was refused
                continue
            if step.state is not None and step.request_id not in self._submitted:
                self._submitted.add(step.request_id)
                events.append(
                    {"type": "submit", **node, "app_id": step.app, "request_id": step.request_id}
                )
            if step.state is State.SUCCEEDED and step.request_id not in self._completed:
                self._completed.add(step.request_id)
                output = await self._output(request, step.app, step.request_id)
                events.append({"type": "completion", **node, **output})
        return events

    async def _output(self, request: Request, app: str, request_id: str) -> Mapping[str, Any]:
        services = self._services
        try:
            ended = await services.queue.current(request.tenant, request_id)
            output = await rendered_output(ended, services.files, self._origin, inline=False)
        except DarkroomError:  # it was deleted
            output = None
        return {"app_id": app, "request_id": request_id, "output": output}

    async def failure(self, request: Request) -> dict[str, Any]:
        """Event of the end of a request that did not succeed."""
        failure = final_outcome(request).failure or NO_OUTCOME
        status = await self._services.queue.workflows.status(request.tenant, request.id)
        failed = [step for step in status.steps if step.error] if status is not None else []
        node = failed[0].id.node if failed else None
        error = {"status": answer_for(failure).status, "body": failure_body(failure)}
        return {"type": "error", "node_id": node, "message": failure.message, "error": error}

    async def output(self, request: Request) -> dict[str, Any]:
        """Event of the end of a request that succeeded."""
        output = await rendered_output(request, self._services.files, self._origin)
        return {"type": "output", "output": output}
