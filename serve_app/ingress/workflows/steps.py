"""Requests of a workflow's steps: their inputs, options and results, and the workflow's outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import Cancelled, Expired, InvalidInput, PipelineFailed, Unavailable
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.request import NewRequest
from serve_app.domain.workflows.definition import Workflow
from serve_app.domain.workflows.plan import StepFailure, StepId
from serve_app.domain.workflows.references import FILE, FILE_URL, files_in, with_files
from serve_app.domain.workflows.runs import RunStatus, Step, StepState, WorkflowRun
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.rendering import rendered_value
from serve_app.tenants.scopes import SUBMIT, Caller

LEAST_LEFT_S = 1.0
DELETED = Outcome(
    failure=Failure(
        PipelineFailed.code, "Its request was deleted before it was read.", retryable=False
    )
)


def name_of(workflow: Workflow, step: StepId) -> str:
    """Name of a step, with the number of its element if it runs for a list."""
    node = workflow.nodes.get(step.node)
    listed = node is not None and node.for_each is not None
    return f"{step.node}/{step.item}" if listed else step.node


async def request_of(
    services: Services, run: WorkflowRun, workflow: Workflow, step: Step
) -> NewRequest:
    """Validated request of a step. Its id, its idempotency key and its input are the same each
    time. The right to call a workflow includes its steps, whatever the key is limited to."""
    left_s = None if run.left_s is None else max(LEAST_LEFT_S, run.left_s)
    options = SubmitOptions(
        priority=run.priority,
        end_within_s=left_s,
        deterministic=run.alone,
        idempotency_key=f"{run.lease_key.request_id}/{name_of(workflow, step.id)}",
        previews=run.previews,
        store_io=run.store_io,
        keep_files_s=run.keep_files_s,
        trace=run.trace,
        key_id=run.key_id,
        no_shadow=True,
        no_fallback=run.steps_stay,
    )
    caller = Caller(run.key_id, run.tenant, frozenset({SUBMIT}))
    try:
        new = await submission.validate(
            services, caller, step.app, step.input, options, request_id=step.request_id
        )
    except Unavailable as error:
        if type(error) is Unavailable:  # no pool hosts it: waiting does not help
            raise InvalidInput(error.message) from None
        raise
    if not run.file_access:
        return replace(new, file_access=None)
    rules = await services.files.access.rules_of(f"p/{run.file_access}/")
    return replace(new, file_access=rules or new.file_access)


# Results of steps.


def artifacts_of(steps: Iterable[Step]) -> Mapping[str, Artifact]:
    """Files that steps have made, by their keys."""
    return {
        artifact.key: artifact
        for step in steps
        if step.outcome is not None
        for artifact in step.outcome.artifacts
    }


def result_of(step: Step) -> Any | StepFailure | None:
    """Output of a step, with the facts of its files; why it failed; None: it has not ended."""
    outcome = step.outcome
    if outcome is None:
        return None
    if outcome.failure is not None:
        return _failure(step, outcome.failure)
    known = {file.key: file for file in outcome.artifacts}

    def describe(value: Mapping[str, Any], key: str) -> Any:
        artifact = known.get(key)
        if artifact is None or not isinstance(value.get(FILE), str):
            return dict(value)
        facts = {
            "content_type": artifact.media_type,
            "file_name": key.rpartition("/")[2],
            "file_size": artifact.size,
            "width": artifact.width,
            "height": artifact.height,
        }
        return {name: fact for name, fact in facts.items() if fact is not None} | {**value}

    return with_files(outcome.output or {}, describe)


def _failure(step: Step, failure: Failure) -> StepFailure:
    """Why a step failed. One that was cancelled or expired by itself has failed: the workflow is
    neither."""
    name, own = step.id.node, failure.code in (Cancelled.code, Expired.code)
    code = PipelineFailed.code if own else failure.code
    if step.refused:
        message = f"The step `{name}` ({step.app}) was refused: {failure.message}"
    else:
        request = f"request {step.request_id}"
        message = f"The step `{name}` ({step.app}, {request}) failed: {failure.message}"
    return StepFailure(name, message, code)


def rendered_input(
    services: Services,
    run: WorkflowRun,
    value: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
) -> Any:
    """Input of a step, with URLs in place of the files of other steps. What a client has sent
    never becomes one."""
    origin = run.origin or _own_origin(services)

    def render(file: Mapping[str, Any], key: str) -> Any:
        if key not in artifacts:
            return dict(file)
        return rendered_value(file, artifacts, services.files, origin, run.tenant)

    return with_files(value, render)


def _own_origin(services: Services) -> str:
    server = services.config.server
    return (server.public_url or f"http://{server.host}:{server.port}").rstrip("/")


# Outcome of the workflow.


def success_outcome(output: Mapping[str, Any], steps: Sequence[Step]) -> Outcome:
    """Outcome with the workflow's output, whose files are those of its steps."""
    artifacts = artifacts_of(steps)

    def own(value: Mapping[str, Any], key: str) -> Any:
        if key in artifacts:
            return dict(value)
        # A client has sent what looks like a file. Without the key it is what it is: an object.
        return {name: inner for name, inner in value.items() if name not in (FILE, FILE_URL)}

    shown = with_files(output, own)
    named = dict.fromkeys(files_in(shown))
    files = tuple(artifacts[key] for key in named if key in artifacts)
    return Outcome(output=shown, artifacts=files, usage=usage_of(steps))


def comparison_output(output: Mapping[str, Any], status: RunStatus | None) -> Mapping[str, Any]:
    """Output of a comparison, with the request, the seconds and the cost of each result."""
    steps = {row.id.node: row for row in (() if status is None else status.steps)}

    def facts(name: str) -> Mapping[str, Any]:
        step = steps.get(name)
        if step is None:  # it could not start
            return {"request_id": None, "run_s": None, "cost": None, "currency": None}
        cost = None if step.cost is None else f"{step.cost:f}"
        return {
            "request_id": step.request_id,
            "run_s": step.run_s,
            "cost": cost,
            "currency": step.currency or None,
        }

    results: Mapping[str, Mapping[str, Any]] = output["results"]
    return {"results": {name: {**result, **facts(name)} for name, result in results.items()}}


def failure_outcome(failure: StepFailure, steps: Sequence[Step]) -> Outcome:
    return Outcome(
        failure=Failure(failure.code, failure.message, retryable=False), usage=usage_of(steps)
    )


def usage_of(steps: Iterable[Step]) -> Usage:
    """Sums of what the steps used."""
    used = [step.outcome.usage for step in steps if step.outcome is not None]
    return Usage(run_s=sum(usage.run_s for usage in used), steps=sum(usage.steps for usage in used))


def open_steps(steps: Iterable[Step]) -> Sequence[Step]:
    return [step for step in steps if step.state is not StepState.ENDED]
