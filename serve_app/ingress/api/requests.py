"""``/v1/requests``: requests of a tenant, or for operators of all tenants, in Darkroom's format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.work import drafting_of
from serve_app.domain.progress import Stage
from serve_app.domain.request import CancelVerdict, Redacted, Request, RequestFilter, State
from serve_app.domain.sharing.admission import end_admission
from serve_app.ingress.api import events
from serve_app.ingress.api.gallery.items import (
    KIND,
    OutputFile,
    chosen_endpoints,
    chosen_states,
    output_files,
)
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import ALL_TENANTS, actor_of, authenticate, authenticate_for_tenant
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import (
    EVENTS,
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_header,
    in_path,
    in_query,
)
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import BY_CALL
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.status import (
    FallbackStatus,
    RetriesLeft,
    WaitingStatus,
    fallback_body,
    retries_body,
    waiting_body,
)
from serve_app.tenants.scopes import CANCEL as CANCEL_SCOPE
from serve_app.tenants.scopes import FILES, OPERATOR, READ

MAX_PAGE = 500
MAX_WAIT_S = 60
MAX_LISTED_PROMPT = 200
MAX_SEARCH_CHARACTERS = 200

Part = Literal["input", "outcome"]

FORGOTTEN: Mapping[Redacted | None, list[Part] | None] = {
    None: None,
    Redacted.INPUT: [],
    Redacted.OUTCOME: ["input"],
    Redacted.DONE: ["input", "outcome"],
}
"""Parts of a request that were deleted, because its input and outcome must not be kept; None if
they are kept."""


class RequestFailure(TypedDict):
    code: str
    message: str


class RequestSummary(TypedDict):
    """Request in a list."""

    request_id: str
    tenant: str
    endpoint_id: str
    prompt: Annotated[str | None, Field(description="The first 200 characters.")]
    drafts: Annotated[bool, Field(description="True: it makes drafts, not finished outputs.")]
    state: State
    priority: str
    attempt: int
    failures: int
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    replica_id: str | None
    reuses: Annotated[
        str | None, Field(description="Id of the request whose outcome this one has.")
    ]
    follows: Annotated[
        str | None, Field(description="Id of the request whose outcome this one waits for.")
    ]
    retries_left: RetriesLeft | None
    fallback: Annotated[
        FallbackStatus | None, Field(description="Where it runs, if not at its own endpoint.")
    ]
    forgotten: Annotated[list[Part] | None, Field(description="Parts that were deleted.")]
    run_s: float | None
    error: RequestFailure | None
    files: Annotated[list[OutputFile], Field(description="Of its output, in order.")]
    favourite: bool


class QueuePlace(WaitingStatus):
    """Position of a queued request, and why it waits."""

    position: Annotated[int, Field(description="Requests before this one; 0 is next.")]


class RequestProgress(TypedDict):
    """Progress of a running request."""

    stage: Stage
    step: int
    steps: Annotated[int, Field(description="0: not known.")]
    rate: Annotated[float, Field(description="Steps per second; 0: not known.")]
    left_s: float | None
    preview_step: Annotated[int, Field(description="Step of the newest preview; 0: none.")]


class RequestLogLine(TypedDict):
    at: Time
    level: str
    message: str


class RequestDetails(RequestSummary):
    """Request with its input and its log."""

    version: Annotated[str, Field(description="Changes with each change of the request.")]
    input: dict[str, Any]
    waiting: Annotated[QueuePlace | None, Field(description="While it is queued.")]
    progress: RequestProgress | None
    ends_at: Annotated[Time | None, Field(description="Expected end, while it runs.")]
    log: list[RequestLogLine]


class RequestPage(TypedDict):
    requests: list[RequestSummary]
    next_before: str | None


class CancelResult(TypedDict):
    verdict: CancelVerdict


class DeletedFiles(TypedDict):
    """Numbers of files: deleted, and to be deleted as soon as storage is available."""

    deleted_files: int
    later_files: int


async def list_requests(request: HttpRequest) -> Response:
    """List the tenant's requests, newest first.

    Parameters: ``?limit=50&before=<id>&state=queued&state=running``, ``endpoint_id=``, ``kind=``,
    ``q=``, ``favourite=true``, ``since=``, ``until=``. With the scope ``operator``, ``tenant=``
    selects another tenant, and ``*`` all.
    """
    context_of(request).route = "v1.requests"
    caller, tenant = await authenticate_for_tenant(request, "Requests")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = query.request_id(request, "before")
    words = _words(request)
    favourites = query.yes_no(request, "favourite", default=False)
    for name, value in (("q", words), ("favourite", favourites)):
        if value and tenant == ALL_TENANTS:
            raise query.invalid(name, "needs the name of one tenant", ALL_TENANTS)
    criteria = RequestFilter(
        None if tenant == ALL_TENANTS else tenant,
        words,
        favourites,
        chosen_states(request),
        chosen_endpoints(request, caller),
        query.time(request, "since"),
        query.time(request, "until"),
        before,
    )
    gallery = services_of(request).queue.gallery
    page = await gallery.search(criteria, limit)
    ids = [record.id for record in page.requests]
    marked = await gallery.favourites_among(tenant, ids) if ids and criteria.tenant else frozenset()
    body: RequestPage = {
        "requests": [_summary(request, record, marked) for record in page.requests],
        "next_before": page.next_before,
    }
    return json_reply(body)


async def summaries(
    http: HttpRequest, tenant: str, ids: Sequence[str]
) -> Mapping[str, RequestSummary]:
    """Requests as they are listed, by their ids. What does not exist is missing."""
    gallery = services_of(http).queue.gallery
    marked = await gallery.favourites_among(tenant, ids)
    found = await gallery.several(tenant, ids)
    return {request.id: _summary(http, request, marked) for request in found}


def _words(request: HttpRequest) -> str | None:
    words = query.text(request, "q")
    if words is not None and len(words) > MAX_SEARCH_CHARACTERS:
        what = f"should have at most {MAX_SEARCH_CHARACTERS} characters"
        raise query.invalid("q", what, words[:MAX_SEARCH_CHARACTERS])
    return words if words and words.strip() else None


async def show(request: HttpRequest) -> Response:
    """Show one request with its input and log, and while it waits its position and the reason.

    With ``?wait=30`` the response waits for the next change, for at most so many seconds. With
    ``&since=``, the last ``version`` that the caller saw, it does not wait if the request has
    changed since then.
    """
    context_of(request).route = "v1.request"
    _, tenant = await authenticate_for_tenant(request, "Requests")
    queue = services_of(request).queue
    wait_s = query.whole_number(request, "wait", default=0, most=MAX_WAIT_S)
    record = await queue.get(tenant, request.path_params["request_id"])
    if wait_s and request.query_params.get("since") in (None, _version(record)):
        end_admission()
        record = await queue.wait_for_change(record.tenant, record.id, wait_s, since=record)
    lines = await queue.lines(record.tenant, record.id)
    favourites = await queue.gallery.favourites_among(record.tenant, [record.id])
    body: RequestDetails = {
        **_summary(request, record, favourites),
        "version": _version(record),
        "input": dict(record.input),
        "waiting": None,
        "progress": _progress(record) if record.state is not State.QUEUED else None,
        "ends_at": None,
        "log": [
            {"at": line.at.isoformat(), "level": line.level, "message": line.message}
            for line in lines
        ],
    }
    if record.state is State.QUEUED:
        waiting = await queue.waiting(record)
        body["waiting"] = {"position": waiting.position, **waiting_body(waiting)}
    if record.state is State.RUNNING:
        body["ends_at"] = iso(await queue.ends_at(record))
    return json_reply(body)


async def cancel_request(request: HttpRequest) -> Response:
    """Cancel a request. The verdict is ``cancelled``, ``requested`` or ``already_final``.

    ``?tenant=``: an operator cancels a request of this tenant.
    """
    context_of(request).route = "v1.request.cancel"
    named = query.text(request, "tenant")
    caller = await authenticate(request, CANCEL_SCOPE if named is None else OPERATOR)
    queue = services_of(request).queue
    cancel = queue.cancel if named is None else queue.operations.cancel
    request_id = request.path_params["request_id"]
    verdict = await cancel(named or caller.tenant, request_id, actor_of(request))
    body: CancelResult = {"verdict": verdict}
    return json_reply(body)


REQUEST_ID = in_path("request_id", "Id of a request of the key's tenant.")

LIST = Operation(
    "listRequests",
    "List the tenant's requests, newest first",
    {200: answer("A page.", RequestPage)},
    errors=(403, 422),
    parameters=(
        in_query("state", "Only requests in these states.", list[State]),
        in_query(
            "endpoint_id",
            "Only requests of these endpoints; repeated or separated by commas.",
            list[str],
        ),
        KIND,
        in_query(
            "q",
            "Only requests with all these words in their prompt. Words of three characters or more "
            "also find longer ones. A page may then be short: go on until `next_before` is null.",
        ),
        in_query("favourite", "`true`: only favourites.", bool),
        in_query("since", "Submitted at this time or later.", Time),
        in_query("until", "Submitted before this time.", Time),
        in_query("tenant", "Another tenant, or `*` for all. Needs the scope `operator`."),
        in_query("before", "`next_before` of the previous page."),
        in_query("limit", "1 to 500; default 50.", int),
    ),
)
SHOW = Operation(
    "getRequest",
    "Show a request with its input, its log, and its position or its progress",
    {200: answer("The request.", RequestDetails)},
    errors=(403, 404, 422),
    parameters=(
        REQUEST_ID,
        in_query("tenant", "The request's tenant. Needs the scope `operator`."),
        in_query("wait", "Seconds to wait for a change, 0 to 60.", int),
        in_query(
            "since", "The last `version` that was seen. Does not wait if it is another one now."
        ),
    ),
)
STREAM = Operation(
    "streamRequestEvents",
    "Stream the events of a request until its final state",
    {200: answer("Server-sent events.", str, EVENTS), 204: Answer("All events were sent before.")},
    errors=(404, 422),
    parameters=(
        REQUEST_ID,
        in_header("Last-Event-ID", "Id of the last event that was received.", int),
    ),
)
CANCEL = Operation(
    "cancelRequest",
    "Cancel a queued or running request",
    {200: answer("The result.", CancelResult)},
    errors=(403, 404, 422),
    parameters=(
        REQUEST_ID,
        in_query("tenant", "The request's tenant, if it may be another. Needs `operator`."),
    ),
)


def _summary(http: HttpRequest, request: Request, favourites: Collection[str]) -> RequestSummary:
    access = services_of(http).files.access
    url = partial(access.url, origin_of(http), tenant=request.tenant)
    failure = request.outcome.failure if request.outcome else None
    return {
        "request_id": request.id,
        "tenant": request.tenant,
        "endpoint_id": request.endpoint,
        "prompt": _prompt(request.input),
        "drafts": drafting_of(request.input) is not None,
        "state": request.state,
        "priority": request.priority.name.lower(),
        "attempt": request.attempt,
        "failures": request.failures,
        "created_at": request.created_at.isoformat(),
        "started_at": iso(request.started_at),
        "finished_at": iso(request.finished_at),
        "replica_id": request.replica_id,
        "reuses": request.reuses,
        "follows": request.follows,
        "retries_left": retries_body(request.retries_left) if request.retries_left else None,
        "fallback": fallback_body(request),
        "forgotten": FORGOTTEN[request.forgetting],
        "run_s": request.outcome.usage.run_s if request.outcome else None,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "files": output_files(request.outcome, url),
        "favourite": request.id in favourites,
    }


def _progress(request: Request) -> RequestProgress | None:
    progress = request.progress
    if progress is None:
        return None
    return {
        "stage": progress.stage,
        "step": progress.step,
        "steps": progress.steps,
        "rate": progress.rate,
        "left_s": progress.left_s,
        "preview_step": request.preview_step,
    }


def _version(request: Request) -> str:
    """Text that changes with each change of state, progress or log. Clients only compare it."""
    progress = request.progress
    if progress is None:
        return str(request.events)
    return f"{request.events}-{progress.stage.value}-{progress.step}-{request.preview_step}"


def _prompt(input: Mapping[str, Any]) -> str | None:
    """Beginning of the prompt, so that a person recognizes the request in a list."""
    prompt = input.get("prompt")
    return prompt[:MAX_LISTED_PROMPT] if isinstance(prompt, str) else None


calls = JsonCalls()


@calls.call(
    "/v1/requests/{request_id}",
    "deleteRequest",
    "Delete an ended request with its input, its outcome, its log and its files",
    CANCEL_SCOPE,
    errors=(400, 404),
    parameters=(REQUEST_ID,),
    method="DELETE",
)
async def delete_request(call: Call) -> DeletedFiles:
    request_id: str = call.request.path_params["request_id"]
    files = await submission.delete(call.services, call.caller.tenant, request_id, call.actor)
    later = sum(why is not None for why in files.values())
    return {"deleted_files": len(files) - later, "later_files": later}


@calls.call(
    "/v1/uploads/{key:path}",
    "deleteUpload",
    "Delete a file that the tenant uploaded and no running batch reads",
    FILES,
    errors=(400, 404),
    parameters=(in_path("key", "The key in the file's URL; it contains slashes."),),
    tag="uploads",
    method="DELETE",
)
async def delete_upload(call: Call) -> DeletedFiles:
    key: str = call.request.path_params["key"]
    now = await call.services.files.uploads.delete(call.caller, key, call.actor)
    return {"deleted_files": int(now), "later_files": int(not now)}


ROUTES = [
    DocumentedRoute("/v1/requests", list_requests, {"GET": LIST}, READ),
    DocumentedRoute("/v1/requests/{request_id}", show, {"GET": SHOW}, READ),
    DocumentedRoute("/v1/requests/{request_id}/events", events.events, {"GET": STREAM}, READ),
    DocumentedRoute("/v1/requests/{request_id}/cancel", cancel_request, {"PUT": CANCEL}, BY_CALL),
    *calls.routes,
]
