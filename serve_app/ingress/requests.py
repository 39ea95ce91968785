"""``/v1/requests``: a tenant's requests, in Darkroom's words; of all tenants for operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.request import Forgetting, Request, State
from serve_app.ingress import event_stream, ids, query
from serve_app.ingress.caller import caller_about, caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.standing import iso, waiting_body

MAX_PAGE = 500
MAX_WAIT_S = 60
MAX_LISTED_PROMPT = 200
ALL_TENANTS = "*"

FORGOTTEN: Mapping[Forgetting | None, Sequence[str] | None] = {
    None: None,
    Forgetting.INPUT: [],
    Forgetting.OUTCOME: ["input"],
    Forgetting.DONE: ["input", "outcome"],
}
"""What is gone of one whose input and outcome are not to be kept; None: they are."""


async def listed(request: HttpRequest) -> Response:
    """The tenant's requests, newest first: ``?limit=50&before=<id>&state=queued&state=running``,
    ``endpoint_id=``, ``since=`` and ``until=``; with the scope ``admin`` those of the ``tenant=``
    that is named, and of all for ``*``."""
    exchange_of(request).route = "v1.requests"
    _, tenant = await caller_about(request, "Requests")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    states = tuple(_state(each) for each in request.query_params.getlist("state"))
    before = request.query_params.get("before")
    if before is not None and not ids.valid(before):
        raise query.invalid("before", "should be the id of a request", before)
    page = await core_of(request).queue.page(
        None if tenant == ALL_TENANTS else tenant,
        states=states,
        endpoint=query.text(request, "endpoint_id"),
        since=query.time(request, "since"),
        until=query.time(request, "until"),
        before=before,
        limit=limit + 1,
    )
    shown = page[:limit]
    return json_reply(
        {
            "requests": [_summary(each) for each in shown],
            "next_before": shown[-1].id if len(page) > limit else None,
        }
    )


async def shown(request: HttpRequest) -> Response:
    """One request, with its input, its log and, while it waits, its place and the reason.

    With ``?wait=30`` it is told at its next change, or after so many seconds as it is then; with
    ``&since=``, the ``version`` that the caller saw last, at once when it has changed since.
    """
    exchange_of(request).route = "v1.request"
    _, tenant = await caller_about(request, "Requests")
    queue = core_of(request).queue
    wait_s = query.whole(request, "wait", default=0, most=MAX_WAIT_S)
    found = await queue.get(tenant, request.path_params["request_id"])
    if wait_s and request.query_params.get("since") in (None, _version(found)):
        found = await queue.changed(found.tenant, found.id, wait_s, since=found)
    lines = await queue.lines(found.tenant, found.id)
    body = _summary(found) | {
        "version": _version(found),
        "input": dict(found.input),
        "waiting": None,
        "progress": None,
        "ends_at": None,
    }
    if found.state is State.QUEUED:
        waiting = await queue.waiting(found)
        body["waiting"] = {"position": waiting.position, **waiting_body(waiting)}
    elif found.progress is not None:
        more = {"left_s": found.progress.left_s, "preview_step": found.preview_step}
        body["progress"] = asdict(found.progress) | more
    if found.state is State.RUNNING:
        body["ends_at"] = iso(await queue.ends_at(found))
    body["log"] = [
        {"at": iso(line.at), "level": line.level, "message": line.message} for line in lines
    ]
    return json_reply(body)


async def cancelled(request: HttpRequest) -> Response:
    """What the cancel did: ``cancelled``, ``requested`` or ``already_final``."""
    exchange_of(request).route = "v1.request.cancel"
    caller = await caller_of(request)
    queue = core_of(request).queue
    verdict = await queue.cancel(caller.tenant, request.path_params["request_id"])
    return json_reply({"verdict": verdict.value})


ROUTES = [
    Route("/v1/requests", listed, methods=["GET"]),
    Route("/v1/requests/{request_id}", shown, methods=["GET"]),
    Route("/v1/requests/{request_id}/events", event_stream.events, methods=["GET"]),
    Route("/v1/requests/{request_id}/cancel", cancelled, methods=["PUT"]),
]


def _summary(request: Request) -> dict[str, Any]:
    failure = request.outcome.failure if request.outcome else None
    return {
        "request_id": request.id,
        "tenant": request.tenant,
        "endpoint_id": request.endpoint,
        "prompt": _prompt(request.input),
        "state": request.state.value,
        "priority": request.priority.name.lower(),
        "attempt": request.attempt,
        "failures": request.failures,
        "created_at": iso(request.created_at),
        "started_at": iso(request.started_at),
        "finished_at": iso(request.finished_at),
        "replica_id": request.replica_id,
        "reuses": request.reuses,
        "follows": request.follows,
        "retries_left": asdict(request.retries_left) if request.retries_left else None,
        "forgotten": FORGOTTEN[request.forgetting],
        "run_s": request.outcome.usage.run_s if request.outcome else None,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
    }


def _version(request: Request) -> str:
    """Another after each change of state, progress or log. Clients only compare it."""
    progress = request.progress
    if progress is None:
        return str(request.events)
    return f"{request.events}-{progress.stage.value}-{progress.step}-{request.preview_step}"


def _prompt(input: Mapping[str, Any]) -> str | None:
    """Its beginning, by which a person knows the request again in a list."""
    prompt = input.get("prompt")
    return prompt[:MAX_LISTED_PROMPT] if isinstance(prompt, str) else None


def _state(given: str) -> State:
    try:
        return State(given)
    except ValueError:
        raise query.invalid("state", f"should be one of {', '.join(State)}", given) from None
