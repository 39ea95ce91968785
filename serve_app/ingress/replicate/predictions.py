"""Predictions: making, finding, listing, cancelling and following them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import FieldProblem, InvalidInput, RequestNotFound, Unavailable
from serve_app.domain.request import Request
from serve_app.ingress import ids, query, submission
from serve_app.ingress.acceptance import accepted
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.origin import origin_of
from serve_app.ingress.repeats import about
from serve_app.ingress.replicate import model_ids
from serve_app.ingress.replicate.output import files_of
from serve_app.ingress.replicate.prediction import PREFIX, STARTING, prediction
from serve_app.ingress.replicate.webhook import asked_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.translated import under
from serve_app.telemetry import logs

PAGE = 100
"""Predictions of a page, as Replicate has it."""

MOST_WAIT_S = 60
CANCEL_S = 2.0
"""So long the answer to a cancel waits for a running request to stop, which it does at its next
step."""

KEEP_ALIVE_S = 15.0
_WAIT = re.compile(r"wait(?:=(\d{1,4}))?")
EVENT_STREAM = {"cache-control": "no-store", "x-accel-buffering": "no"}


def base_of(request: HttpRequest) -> str:
    return f"{origin_of(request)}{PREFIX}"


async def created(request: HttpRequest) -> Response:
    """``POST /predictions``: the body names a version."""
    core = core_of(request)
    body = await _body(request, core)
    version = body.get("version")
    if not isinstance(version, str):
        raise InvalidInput.of_field("version", "Field required", "missing")
    return await _created(request, core, model_ids.of_version(core, version), body)


async def created_of_model(request: HttpRequest) -> Response:
    """``POST /models/{owner}/{name}/predictions``."""
    core = core_of(request)
    entry = model_ids.listed(core, _model(request))
    return await _created(request, core, entry, await _body(request, core))


async def shown(request: HttpRequest) -> Response:
    core, found = await _find(request)
    return await _told(request, core, found)


async def listed(request: HttpRequest) -> Response:
    """The tenant's requests, newest first, without their logs and without files inside them."""
    caller = await caller_of(request)
    core = core_of(request)
    cursor = request.query_params.get("cursor")
    if cursor is not None and not ids.valid(cursor):
        raise query.invalid("cursor", "should be the one of the page before", cursor)
    page = await core.queue.page(caller.tenant, before=cursor, limit=PAGE + 1)
    base = base_of(request)
    results = [await prediction(core, each, base, inline=False) for each in page[:PAGE]]
    more = f"{base}/v1/predictions?cursor={page[PAGE - 1].id}" if len(page) > PAGE else None
    return json_reply({"previous": None, "next": more, "results": results})


async def cancelled(request: HttpRequest) -> Response:
    core, found = await _find(request)
    await core.queue.cancel(found.tenant, found.id)
    return await _told(request, core, await core.queue.wait(found.tenant, found.id, CANCEL_S))


async def streamed(request: HttpRequest) -> Response:
    """Server-sent events: lines of the log as they come, each file of the output, the end."""
    core, found = await _find(request)
    events = _events(core, found, base_of(request))
    return StreamingResponse(events, headers=EVENT_STREAM, media_type="text/event-stream")


async def _created(
    request: HttpRequest, core: Core, entry: CatalogEntry, body: Mapping[str, Any]
) -> Response:
    """201 with the prediction. With ``Prefer: wait`` when it has ended, or after so many seconds,
    and then 202."""
    caller = await caller_of(request)
    wait_s = _wait_s(request)
    base = base_of(request)  # may be refused, and then nothing is to be stored
    asked = await asked_of(body, core, origin_of(request))
    webhook = asked.webhook(core.webhooks.herald) if asked else None
    try:
        new = await accepted(
            request, core, caller, entry.endpoint.id, body.get("input", {}), webhook=webhook
        )
    except InvalidInput as error:
        raise under("input", error) from None
    stored = await asyncio.shield(submission.submit(core, new))
    if asked and stored.id == new.id:
        asked.follow(core, stored)
    if wait_s and not stored.state.final:
        stored = await core.queue.wait(stored.tenant, stored.id, wait_s)
    lines = await core.queue.lines(stored.tenant, stored.id)
    told = await prediction(core, stored, base, lines)
    late = bool(wait_s) and not stored.state.final
    if late:
        # Its client takes any other word for the end of a prediction that it waited for.
        told["status"] = STARTING
    return about(request, json_reply(told, 202 if late else 201), new, stored)


async def _body(request: HttpRequest, core: Core) -> Mapping[str, Any]:
    await caller_of(request)  # before anything is said about the body
    body = await read_json(request, core.config.max_body_bytes)
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object with `input`.")
    given = cast("Mapping[str, Any]", body)
    if not isinstance(given.get("input", {}), dict):
        raise InvalidInput.of_field("input", "Input should be an object", "dict_type")
    return given


def _wait_s(request: HttpRequest) -> int:
    """Of the header ``Prefer``: 0 when it does not ask to wait."""
    for preference in request.headers.get("prefer", "").split(","):
        found = _WAIT.fullmatch(preference.strip().lower())
        if found is None:
            continue  # what is not known is to be ignored, says RFC 7240
        seconds = int(found[1] or MOST_WAIT_S)
        if not 1 <= seconds <= MOST_WAIT_S:
            what = f"`wait` should be from 1 to {MOST_WAIT_S}"
            problem = FieldProblem(("header", "Prefer"), what, "value_error", None, seconds)
            raise InvalidInput(f"The header Prefer: {what}.", (problem,))
        return seconds
    return 0


def _model(request: HttpRequest) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


async def _find(request: HttpRequest) -> tuple[Core, Request]:
    """``RequestNotFound`` in the same words for foreign, unknown and impossible ids."""
    caller = await caller_of(request)
    core = core_of(request)
    request_id: str = request.path_params["request_id"]
    unknown = RequestNotFound(f"There is no prediction {request_id[:64]}.")
    if not ids.valid(request_id):
        raise unknown
    try:
        found = await core.queue.get(caller.tenant, request_id)
    except RequestNotFound:
        raise unknown from None
    exchange_of(request).request_id = found.id
    logs.request_id.set(found.id)  # the edge puts it back
    return core, found


async def _told(request: HttpRequest, core: Core, found: Request) -> Response:
    lines = await core.queue.lines(found.tenant, found.id)
    return json_reply(await prediction(core, found, base_of(request), lines))


async def _events(core: Core, request: Request, base: str) -> AsyncGenerator[str]:
    """Broken off when the database goes away or the request is deleted."""
    after = 0
    try:
        while True:
            for line in await core.queue.lines(request.tenant, request.id, after):
                after = line.sequence
                yield _event("logs", f"log-{after}", line.message)
            if request.state.final:
                break
            before = request
            request = await core.queue.changed(
                request.tenant, request.id, KEEP_ALIVE_S, since=request
            )
            if request == before:
                yield ": nothing new\n\n"
        told = await prediction(core, request, base)
    except (RequestNotFound, Unavailable):
        return
    for number, url in enumerate(files_of(told["output"])):
        yield _event("output", f"output-{number}", url)
    if told["status"] == "failed":
        yield _event("error", "error", json.dumps({"detail": told["error"]}))
    else:
        reason = {"reason": "canceled"} if told["status"] == "canceled" else {}
        yield _event("done", "done", json.dumps(reason))


def _event(name: str, event_id: str, data: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: {event_id}\n{lines}\n"
