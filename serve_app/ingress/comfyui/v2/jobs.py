"""Jobs: submit workflows, list and cancel them, and read what they made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NotRequired, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import InvalidInput, RequestNotFound
from serve_app.domain.progress import BYTE_STAGES
from serve_app.domain.request import LogLine, Request, State
from serve_app.ingress.comfyui import prompt
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import TAG
from serve_app.ingress.comfyui.prompts import MAX_LISTED, read_prompt, submit_prompt
from serve_app.ingress.comfyui.v2.assets import (
    API,
    Asset,
    AssetUrls,
    outputs_of,
    resolve_references,
)
from serve_app.ingress.comfyui.v2.errors import EDITOR_FORMAT, ERRORS
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import name_request
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_path, in_query
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.replay import repeat_digest
from serve_app.queue.store.config import Retention
from serve_app.tenants.scopes import Caller

JobStatus = Literal["queued", "running", "succeeded", "canceling", "canceled", "failed", "expired"]
STATUS_OF: Mapping[State, JobStatus] = {
    State.QUEUED: "queued",
    State.RUNNING: "running",
    State.SUCCEEDED: "succeeded",
    State.CANCELLED: "canceled",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
}

FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)
"""In place of a deadline that there is none of, which the protocol requires."""

LABELS = "metadata"
"""Field of the extra data of a prompt that has the labels of its job."""

MAX_LABELS, MAX_LABEL = 50, 500  # characters of a name, and of a value


class NewJob(TypedDict):
    """Workflow in ComfyUI's API format. ``metadata``: labels, by which jobs are listed."""

    workflow: dict[str, Any]
    extra_data: NotRequired[dict[str, Any]]
    metadata: NotRequired[dict[str, str]]


class ComfyApiProgress(TypedDict):
    """``value``: share of the nodes that are done, and of the steps of the one that runs."""

    value: float
    nodes_done: int
    nodes_total: int
    current_node: NotRequired[str]
    current_node_class: NotRequired[str]
    step: NotRequired[int]
    steps: NotRequired[int]
    message: NotRequired[str]


class ComfyApiOutput(TypedDict):
    """Result of a node. It is an asset, too. ``hash``: always null."""

    node_id: str
    name: str
    type: Literal["image", "video", "audio", "text", "file"]
    content_type: str
    size_bytes: int
    id: str
    hash: None
    url: str
    url_expires_at: str
    job_id: str


class ComfyApiJobError(TypedDict):
    code: str
    message: str
    node_id: NotRequired[str]
    class_type: NotRequired[str]


class ComfyApiJobUrls(TypedDict):
    """Paths at this server."""

    self: str
    events: str
    cancel: str


class ComfyApiJob(TypedDict):
    id: str
    status: JobStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    expires_at: str
    queue_position: int | None
    progress: ComfyApiProgress | None
    outputs: list[ComfyApiOutput]
    error: ComfyApiJobError | None
    metrics: dict[str, int | None]
    metadata: dict[str, str]
    urls: ComfyApiJobUrls


class ComfyApiJobSummary(TypedDict):
    id: str
    status: JobStatus
    create_time: str
    update_time: str
    metadata: dict[str, str]


class ComfyApiJobPage(TypedDict):
    """``next_cursor``: there may be more."""

    jobs: list[ComfyApiJobSummary]
    next_cursor: NotRequired[str]


class ComfyApiWorkflow(TypedDict):
    workflow: dict[str, Any]
    format: Literal["api"]


@dataclass(frozen=True, slots=True)
class JobCall:
    """Call about the jobs of a tenant."""

    services: Services
    caller: Caller
    entry: CatalogEntry
    urls: AssetUrls

    @classmethod
    async def of(cls, request: HttpRequest) -> JobCall:
        caller = await caller_of(request)
        entry = endpoint_of(request, caller)
        return cls(services_of(request), caller, entry, AssetUrls.of(request, caller))

    async def find(self, request: HttpRequest) -> Request:
        """Request of the job that the path names. ``RequestNotFound``."""
        job_id: str = request.path_params["job_id"]
        found = await prompt.find(self.services.queue, self.caller.tenant, self.entry, job_id)
        if found is None:
            raise RequestNotFound("There is no such job.")
        name_request(request, found)
        return found

    async def body(self, request: Request) -> ComfyApiJob:
        """A request as a job, with all that is known of it."""
        queue, state = self.services.queue, request.state
        waiting = await queue.waiting(request) if state is State.QUEUED else None
        lines: Sequence[LogLine] = ()
        if state is State.RUNNING:
            lines = await queue.lines(request.tenant, request.id)
        made = await outputs_of(self.services, request) if state is State.SUCCEEDED else ()
        path = f"{API}/jobs/{request.id}"  # an id that a client chose may have any characters
        return {
            "id": prompt.prompt_id(request),
            "status": status(request),
            "created_at": request.created_at.isoformat(),
            "started_at": iso(request.started_at),
            "completed_at": iso(request.finished_at),
            "expires_at": self._expiry(request).isoformat(),
            "queue_position": None if waiting is None else waiting.position,
            "progress": progress(request, lines),
            "outputs": [self.output(asset) for asset in made],
            "error": failure(request),
            "metrics": {
                "queue_ms": _milliseconds(request.created_at, request.started_at),
                "execution_ms": _milliseconds(request.started_at, request.finished_at),
            },
            "metadata": labels(request),
            "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
        }

    def output(self, asset: Asset) -> ComfyApiOutput:
        kind = asset.media_type.partition("/")[0]
        return {
            "node_id": asset.node,
            "name": asset.name,
            "type": cast("Any", kind if kind in ("image", "video", "audio", "text") else "file"),
            "content_type": asset.media_type,
            "size_bytes": asset.size,
            "id": asset.id,
            "hash": None,
            "url": self.urls.url(asset),
            "url_expires_at": self.urls.expiry(),
            "job_id": asset.job_id or "",
        }

    def _expiry(self, request: Request) -> datetime:
        age_s = Retention.of(self.services.config).age_s(request.tenant)
        since = request.finished_at or request.created_at
        return FOR_EVER if age_s is None else since + timedelta(seconds=age_s)


async def create(request: HttpRequest) -> Response:
    """``POST /jobs``: queue a workflow."""
    call = await JobCall.of(request)
    services, caller = call.services, call.caller
    body = await read_json(request, services.config.limits.max_body_bytes)
    arguments = _read_job(body)
    options = parse_options(request, caller)
    # Of what was sent: the URLs of its files change.
    digest = await repeat_digest(call.entry.endpoint.id, body, options)
    arguments["prompt"], arguments["files"] = await resolve_references(
        request, caller, arguments["prompt"]
    )
    options = replace(options, repeat_digest=digest)
    stored = await submit_prompt(request, caller, call.entry, arguments, options)
    return json_reply(await call.body(stored), 201)


async def list_jobs(request: HttpRequest) -> Response:
    """``GET /jobs``: the tenant's jobs, the newest first. Labels choose among those of a page, so
    a page may have fewer jobs than there are."""
    call = await JobCall.of(request)
    wanted = {
        match[1]: value
        for name, value in request.query_params.multi_items()
        if (match := _LABEL.fullmatch(name))
    }
    limit = max(1, query.whole_number(request, "limit", default=MAX_LISTED, most=MAX_LISTED))
    page = await call.services.queue.page(
        call.caller.tenant,
        endpoints=(call.entry.endpoint.id,),
        before=query.request_id(request, "cursor"),
        limit=limit,
    )
    jobs = [summary(record) for record in page]
    body: ComfyApiJobPage = {"jobs": [job for job in jobs if wanted.items() <= job[LABELS].items()]}
    if len(page) == limit:
        body["next_cursor"] = page[-1].id
    return json_reply(body)


async def show(request: HttpRequest) -> Response:
    """``GET /jobs/{job_id}``: a job, with its outputs."""
    call = await JobCall.of(request)
    return json_reply(await call.body(await call.find(request)))


async def cancel(request: HttpRequest) -> Response:
    """``POST /jobs/{job_id}/cancel``: cancel a job, unless it has ended."""
    call = await JobCall.of(request)
    found = await call.find(request)
    queue = call.services.queue
    await queue.cancel(found.tenant, found.id, actor_of(request))
    return json_reply(await call.body(await queue.get(found.tenant, found.id)))


async def workflow(request: HttpRequest) -> Response:
    """``GET /jobs/{job_id}/workflow``: the workflow of a job."""
    call = await JobCall.of(request)
    graph = (await call.find(request)).input.get("prompt") or {}
    body: ComfyApiWorkflow = {"workflow": cast("dict[str, Any]", graph), "format": "api"}
    return json_reply(body)


def status(request: Request) -> JobStatus:
    if request.state is State.RUNNING and request.cancel_requested:
        return "canceling"
    return STATUS_OF[request.state]


def progress(request: Request, lines: Sequence[LogLine]) -> ComfyApiProgress | None:
    """Progress of a running or successful request. ``lines``: of its log."""
    graph = graph_of(request)
    total = len(graph)
    if request.state is State.SUCCEEDED:
        return {"value": 1.0, "nodes_done": total, "nodes_total": total}
    if request.state is not State.RUNNING:
        return None
    begun = list(dict.fromkeys(
        node for line in lines if (node := prompt.begun_node(line, graph)) is not None
    ))  # fmt: skip
    done, share = max(0, len(begun) - 1), 0.0
    body: ComfyApiProgress = {"value": 0.0, "nodes_done": done, "nodes_total": total}
    report = request.progress
    counted = report is not None and report.steps and report.stage not in BYTE_STAGES
    if report is not None and counted:
        share = min(1.0, report.step / report.steps)
        body["step"], body["steps"] = report.step, report.steps
    if begun:
        kind = prompt.class_of(graph, begun[-1])
        body["current_node"], body["current_node_class"] = begun[-1], kind
        body["message"] = f"{kind} {report.step}/{report.steps}" if report and counted else kind
    elif report is not None:
        body["message"] = f"{report.stage.value} {report.amount}".rstrip()
    body["value"] = round(min(1.0, (done + share) / max(total, 1)), 4)
    return body


_FAILED_NODE = re.compile(r"Node (\S+) \((.+?)\) failed")
"""Beginning of the message of a failure in a node."""


def failure(request: Request) -> ComfyApiJobError | None:
    if request.state not in (State.FAILED, State.EXPIRED):
        return None
    ended = request.outcome.failure if request.outcome else None
    if ended is None:
        return {"code": request.state.value, "message": "It ended without an outcome."}
    body: ComfyApiJobError = {"code": ended.code, "message": ended.message}
    if (node := _FAILED_NODE.match(ended.message)) is not None:
        body["node_id"], body["class_type"] = node[1], node[2]
    return body


def summary(request: Request) -> ComfyApiJobSummary:
    changed = request.finished_at or request.started_at or request.created_at
    return {
        "id": prompt.prompt_id(request),
        "status": status(request),
        "create_time": request.created_at.isoformat(),
        "update_time": changed.isoformat(),
        "metadata": labels(request),
    }


def labels(request: Request) -> dict[str, str]:
    extra = cast("Mapping[str, Any]", request.input.get("extra_data") or {})
    named = extra.get(LABELS)
    pairs = cast("Mapping[str, Any]", named).items() if isinstance(named, Mapping) else ()
    return {name: label for name, label in pairs if isinstance(label, str)}  # checked here only


_LABEL = re.compile(r"metadata\[(.+)\]", re.DOTALL)
"""Parameter of a query that chooses jobs by a label."""


def _read_job(body: Any) -> dict[str, Any]:
    """Input of the request for a body."""
    fields = cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}
    graph = fields.get("workflow")
    if not isinstance(graph, dict) or not graph:
        raise InvalidInput.of_field("workflow", "Send a workflow in the API format", "missing")
    if isinstance(graph.get("nodes"), list):
        message = "This is the format of ComfyUI's editor. Export the workflow in the API format"
        raise InvalidInput.of_field("workflow", message, EDITOR_FORMAT)
    extra = fields.get("extra_data")
    if extra is not None and not isinstance(extra, dict):
        raise InvalidInput.of_field("extra_data", "Input should be an object", "dict_type")
    named = fields.get(LABELS)
    with_labels = {**(extra or {}), LABELS: _check_labels(named)} if named else extra
    return read_prompt({"prompt": graph, "extra_data": with_labels})


def _check_labels(named: object) -> Mapping[str, str]:
    pairs = list(cast("dict[str, Any]", named).items()) if isinstance(named, dict) else [("", 0)]
    fitting = all(
        isinstance(value, str) and max(len(name), len(value)) <= MAX_LABEL for name, value in pairs
    )
    if not fitting or len(pairs) > MAX_LABELS:
        message = f"Input should be at most {MAX_LABELS} texts of {MAX_LABEL} characters by name"
        raise InvalidInput.of_field(LABELS, message, "dict_type")
    return dict(pairs)


def graph_of(request: Request) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", request.input.get("prompt") or {})


def _milliseconds(since: datetime | None, until: datetime | None) -> int | None:
    return None if since is None or until is None else int((until - since).total_seconds() * 1000)


JOB_ID = in_path("job_id", "Id of the job.")
CREATE = Operation(
    "comfyApiCreateJob",
    "Queue a workflow",
    {201: answer("The job.", ComfyApiJob)},
    errors=(402, 404, 410, 413, 422, 503, 507),
    body=NewJob,
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "comfyApiListJobs",
    "List the tenant's jobs",
    {200: answer("The newest first.", ComfyApiJobPage)},
    errors=(404, 422),
    parameters=(
        in_query("limit", f"Most jobs, at most {MAX_LISTED}.", int),
        in_query("cursor", "`next_cursor` of the page before."),
    ),
    description="`metadata[name]=value` leaves the jobs with this label.",
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    LIST,
    name="comfyApiGetJob",
    summary="Show a job",
    responses={200: answer("The job.", ComfyApiJob)},
    errors=(404,),
    parameters=(JOB_ID,),
    description=None,
)
CANCEL = replace(
    SHOW,
    name="comfyApiCancelJob",
    summary="Cancel a job",
    responses={200: answer("The job; `canceling` until its next step.", ComfyApiJob)},
)
WORKFLOW = replace(
    SHOW,
    name="comfyApiGetJobWorkflow",
    summary="Show the workflow of a job",
    responses={200: answer("The workflow.", ComfyApiWorkflow)},
)
