"""Prompts as jobs, the form in which newer clients and ComfyUI's page read queue and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NotRequired, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput, RequestNotFound
from serve_app.domain.request import Request, State
from serve_app.ingress.comfyui import prompt
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG
from serve_app.ingress.comfyui.prompts import MAX_LISTED, json_object
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_path, in_query
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import Caller

MAX_OFFSET = 1000
STATES: Mapping[str, Sequence[State]] = {
    "pending": (State.QUEUED,),
    "in_progress": (State.RUNNING,),
    "completed": (State.SUCCEEDED,),
    "failed": (State.FAILED, State.EXPIRED),
    "cancelled": (State.CANCELLED,),
}
STATUS_OF = {state: status for status, states in STATES.items() for state in states}

ComfyUiJobStatus = Literal["pending", "in_progress", "completed", "failed", "cancelled"]


class ComfyUiJob(TypedDict):
    """A prompt. Times are milliseconds of Unix."""

    id: str
    status: ComfyUiJobStatus
    priority: int
    create_time: int
    outputs_count: int
    previewable_outputs_count: int
    execution_start_time: NotRequired[int]
    execution_end_time: NotRequired[int]
    execution_error: NotRequired[dict[str, Any]]
    preview_output: NotRequired[dict[str, Any]]
    workflow_id: NotRequired[str]


class WholeComfyUiJob(ComfyUiJob):
    """A prompt with all that is known of it."""

    outputs: dict[str, Any]
    update_time: int
    execution_status: dict[str, Any]
    workflow: dict[str, Any]


class ComfyUiJobPages(TypedDict):
    """``total`` counts what is known of without a look at everything."""

    offset: int
    limit: int
    total: int
    has_more: bool


class ComfyUiJobPage(TypedDict):
    jobs: list[ComfyUiJob]
    pagination: ComfyUiJobPages


class ComfyUiJobIds(TypedDict):
    job_ids: list[str]


class CancelledComfyUiJobs(TypedDict):
    cancelled: list[str]


async def list_jobs(request: HttpRequest) -> Response:
    """``GET /jobs``: prompts of the tenant, the newest first."""
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    statuses = query.several(request, "status") or [*STATES]
    if unknown := [name for name in statuses if name not in STATES]:
        message = f"Input should be some of {', '.join(STATES)}, not {unknown[0][:50]}"
        raise InvalidInput.of_field("status", message)
    limit = max(1, query.whole_number(request, "limit", default=MAX_LISTED, most=MAX_LISTED))
    offset = query.whole_number(request, "offset", default=0, most=MAX_OFFSET)
    executions = await services_of(request).queue.page(
        caller.tenant,
        states=[state for name in statuses for state in STATES[name]],
        endpoints=(entry.endpoint.id,),
        limit=offset + limit + 1,
    )
    page = [job(execution) for execution in executions[offset : offset + limit]]
    if query.text(request, "sort_order") == "asc":
        page.reverse()
    body: ComfyUiJobPage = {
        "jobs": page,
        "pagination": {
            "offset": offset,
            "limit": limit,
            "total": len(executions),
            "has_more": len(executions) > offset + limit,
        },
    }
    return json_reply(body)


async def show(request: HttpRequest) -> Response:
    """``GET /jobs/{job_id}``: a prompt with its outputs and its workflow."""
    return json_reply(whole_job(await _find_request(request)))


async def cancel(request: HttpRequest) -> Response:
    """``POST /jobs/{job_id}/cancel``: cancel a prompt that waits or runs."""
    caller = await caller_of(request)
    ended = await _cancel(request, caller, [request.path_params["job_id"]])
    return json_reply({"cancelled": ended})


async def several_cancelled(request: HttpRequest) -> Response:
    """``POST /jobs/cancel``: cancel prompts that wait or run."""
    caller = await caller_of(request)
    job_ids = (await json_object(request)).get("job_ids")
    if not isinstance(job_ids, list):
        raise InvalidInput.of_field("job_ids", "Input should be a list of ids", "list_type")
    ids = [str(job_id) for job_id in cast("list[Any]", job_ids)[:MAX_LISTED]]
    return json_reply({"cancelled": await _cancel(request, caller, ids)})


async def _cancel(request: HttpRequest, caller: Caller, ids: Sequence[str]) -> list[str]:
    """Cancel prompts. Returns the ids of those that had not ended."""
    entry, queue = endpoint_of(request, caller), services_of(request).queue
    ended: list[str] = []
    for job_id in ids:
        execution = await prompt.find(queue, caller.tenant, entry, job_id)
        if execution is not None and not execution.state.final:
            await queue.cancel(caller.tenant, execution.id, actor_of(request))
            ended.append(job_id)
    return ended


async def _find_request(request: HttpRequest) -> Request:
    caller = await caller_of(request)
    entry, job_id = endpoint_of(request, caller), request.path_params["job_id"]
    execution = await prompt.find(services_of(request).queue, caller.tenant, entry, job_id)
    if execution is None:
        raise RequestNotFound("There is no such job.")
    return execution


def job(request: Request) -> ComfyUiJob:
    """A request as a job."""
    outputs = prompt.outputs(request)
    files = [
        {**file, "nodeId": node, "mediaType": kind}
        for node, output in outputs.items()
        for kind, listed in output.items()
        for file in listed
        if isinstance(file, dict)
    ]
    entry: ComfyUiJob = {
        "id": prompt.prompt_id(request),
        "status": cast("ComfyUiJobStatus", STATUS_OF[request.state]),
        "priority": prompt.number(request),
        "create_time": prompt.number(request),
        "outputs_count": len(files),
        "previewable_outputs_count": len(files),
    }
    if request.started_at is not None:
        entry["execution_start_time"] = int(request.started_at.timestamp() * 1000)
    if request.finished_at is not None:
        entry["execution_end_time"] = int(request.finished_at.timestamp() * 1000)
    if request.state.final:
        kind, data = prompt.ending(request)
        if kind == "execution_error":
            entry["execution_error"] = data
    if files:
        entry["preview_output"] = files[0]
    extra = cast("Mapping[str, Any]", request.input.get("extra_data") or {})
    info = cast("Any", extra.get("extra_pnginfo"))
    flow = cast("Mapping[str, Any]", info).get("workflow") if isinstance(info, dict) else None
    if isinstance(flow, dict) and isinstance(id_ := cast("Any", flow).get("id"), str):
        entry["workflow_id"] = id_
    return entry


def whole_job(request: Request) -> WholeComfyUiJob:
    """A request as a job, with all that is known of it."""
    _, _, graph, extra, *_ = prompt.queue_entry(request)
    changed = request.finished_at or request.started_at or request.created_at
    status = prompt.history(request)["status"] if request.state.final else {}
    return {
        **job(request),
        "outputs": prompt.outputs(request),
        "update_time": int(changed.timestamp() * 1000),
        "execution_status": dict(status),
        "workflow": {"prompt": graph, "extra_data": extra},
    }


LIST = Operation(
    "comfyuiListJobs",
    "List the tenant's prompts as jobs",
    {200: answer("The newest first.", ComfyUiJobPage)},
    errors=(400, 404),
    parameters=(
        in_query("status", f"Some of {', '.join(STATES)}; by default all."),
        in_query("limit", f"Most jobs, at most {MAX_LISTED}.", int),
        in_query("offset", f"Newer jobs to leave out, at most {MAX_OFFSET}.", int),
        in_query("sort_order", "`asc`: the oldest of the page first."),
    ),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    LIST,
    name="comfyuiGetJob",
    summary="Show a prompt as a job",
    responses={200: answer("The job.", WholeComfyUiJob)},
    errors=(404,),
    parameters=(in_path("job_id", "Id of the prompt."),),
)
CANCEL = replace(
    SHOW,
    name="comfyuiCancelJob",
    summary="Cancel a prompt that waits or runs",
    responses={200: answer("Its id, if it had not ended.", CancelledComfyUiJobs)},
)
CANCEL_SEVERAL = replace(
    LIST,
    name="comfyuiCancelJobs",
    summary="Cancel prompts that wait or run",
    responses={200: answer("Ids of those that had not ended.", CancelledComfyUiJobs)},
    errors=(400, 404, 413),
    body=ComfyUiJobIds,
    parameters=(),
)
