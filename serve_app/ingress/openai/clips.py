"""``videos``: clips, over the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import (
    ArtifactNotFound,
    InvalidInput,
    NotFinished,
    RequestNotFound,
    Unsupported,
)
from serve_app.domain.model_aliases import DEFAULT_CLIP_MODEL
from serve_app.domain.request import Request
from serve_app.ingress import deletion, ids, query, submission
from serve_app.ingress.acceptance import accepted
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.endpoint_fields import EndpointFields
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.output import outcome_of
from serve_app.ingress.form import is_form, read_form
from serve_app.ingress.model_names import capable, named
from serve_app.ingress.openai.clip_answer import clip, clip_endpoints, is_clip, makes_clips
from serve_app.ingress.openai.clip_wish import NAMES, ClipParameters, input_of
from serve_app.ingress.openai.given_pictures import given_picture
from serve_app.ingress.openai.picture_answer import is_picture
from serve_app.ingress.origin import file_url, origin_of
from serve_app.ingress.repeats import about
from serve_app.ingress.reply import json_reply
from serve_app.ingress.translated import renamed
from serve_app.telemetry import logs

MOST_LISTED = 100
REFERENCE = "input_reference"


async def created(request: HttpRequest) -> Response:
    """The request is stored; its clip comes later."""
    caller = await caller_of(request)
    core = core_of(request)
    body, reference = await _body(request, core)
    given = ClipParameters.read(body)
    entry = _entry(core, given, referred=reference is not None)
    wanted = input_of(given, EndpointFields(entry))
    if reference is not None:
        wanted["image_url"] = reference
    origin_of(request)  # may be refused, and then nothing is to be stored
    try:
        new = await accepted(request, core, caller, entry.endpoint.id, wanted)
    except InvalidInput as error:
        raise renamed(error, NAMES) from None
    stored = await asyncio.shield(submission.submit(core, new))
    return about(request, json_reply(clip(stored, NAMES)), new, stored)


async def shown(request: HttpRequest) -> Response:
    _, found = await _find(request)
    return json_reply(clip(found, NAMES))


async def listed(request: HttpRequest) -> Response:
    """The tenant's requests to endpoints that make clips, newest first."""
    caller = await caller_of(request)
    core = core_of(request)
    limit = query.page_size(request, default=20, most=MOST_LISTED)
    after = request.query_params.get("after")
    if after is not None and not ids.valid(after):
        raise query.invalid("after", "should be the id of a video", after)
    if request.query_params.get("order", "desc") != "desc":
        order = request.query_params["order"]
        raise query.invalid("order", "should be `desc`: the newest come first here", order)
    found: list[Request] = []
    for endpoint_id in clip_endpoints(core.catalog):
        found += await core.queue.page(
            caller.tenant, endpoint=endpoint_id, before=after, limit=limit + 1
        )
    found.sort(key=lambda each: each.id, reverse=True)  # ids begin with the time
    page = [clip(each, NAMES) for each in found[:limit]]
    return json_reply(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > limit,
        }
    )


async def deleted(request: HttpRequest) -> Response:
    """With its files, as every deletion here. Before its end it is refused."""
    _, found = await _find(request)
    await deletion.delete(request)
    return json_reply({"id": found.id, "object": "video.deleted", "deleted": True})


async def content(request: HttpRequest) -> Response:
    """Where the file is: clients follow. ``NotFinished`` before the end."""
    _, found = await _find(request)
    if not found.state.final:
        raise NotFinished("The video is not ready yet: ask for its status.")
    variant = request.query_params.get("variant", "video")
    if variant not in ("video", "thumbnail"):
        raise query.invalid("variant", "should be `video` or `thumbnail`", variant)
    wanted = is_clip if variant == "video" else is_picture
    outcome = outcome_of(found)
    if outcome.failure is not None:
        raise ArtifactNotFound(f"There is no video: {outcome.failure.message}")
    file = next((each for each in outcome.artifacts if wanted(each)), None)
    if file is None:
        raise ArtifactNotFound(f"This video has no {variant}.")
    return RedirectResponse(file_url(origin_of(request), file.key), 302)


async def not_here(request: HttpRequest) -> Response:
    await caller_of(request)
    raise Unsupported(
        "Clips are not remixed, edited or extended here, and there are no characters. Start a new "
        "one from a picture with input_reference."
    )


def _entry(core: Core, given: ClipParameters, *, referred: bool) -> CatalogEntry:
    name = given.model or DEFAULT_CLIP_MODEL
    entry = named(core.catalog, core.config.model_aliases, name)
    if referred:
        entry = capable(
            core.catalog, entry, ("image_url",), ("image-to-video",), "start from a picture"
        )
    if not makes_clips(entry):
        which = ", ".join(clip_endpoints(core.catalog)) or "none that is listed here"
        raise Unsupported(f"{entry.endpoint.id} makes no clips. Those that do: {which}.")
    return entry


async def _body(request: HttpRequest, core: Core) -> tuple[Mapping[str, Any], str | None]:
    """The parameters, and the picture to start from, as a URL."""
    limit = core.config.max_body_bytes
    if is_form(request):
        form = await read_form(request, limit, most_files=1)
        unknown = sorted(form.files.keys() - {REFERENCE})
        if unknown:
            raise InvalidInput.of_field(unknown[0], "Not supported here", "feature_not_supported")
        files = form.files.get(REFERENCE, [])
        texts: dict[str, Any] = dict(form.texts)
        linked = texts.pop(f"{REFERENCE}[image_url]", None)
        if not files:
            return texts, linked
        return texts, await asyncio.to_thread(_data_uri, files[0].content)
    body = await read_json(request, limit)
    if not isinstance(body, dict) or REFERENCE not in body:
        return cast("Mapping[str, Any]", body), None
    rest = {**cast("Mapping[str, Any]", body)}
    reference = rest.pop(REFERENCE)
    if reference is None:
        return rest, None
    if not (isinstance(reference, dict) and isinstance(reference.get("image_url"), str)):
        raise InvalidInput.of_field(REFERENCE, "Send a file, or an object with `image_url`")
    return rest, cast("str", reference["image_url"])


def _data_uri(content: bytes) -> str:
    return given_picture(content, REFERENCE).data_uri


async def _find(request: HttpRequest) -> tuple[Core, Request]:
    """``RequestNotFound`` in the same words for foreign, unknown and impossible ids, and for what
    is no clip."""
    caller = await caller_of(request)
    core = core_of(request)
    request_id: str = request.path_params["request_id"]
    unknown = RequestNotFound(f"There is no video {request_id[:64]}.")
    if not ids.valid(request_id):
        raise unknown
    try:
        found = await core.queue.get(caller.tenant, request_id)
    except RequestNotFound:
        raise unknown from None
    entry = core.catalog.find(found.endpoint)
    made_clips = any(is_clip(each) for each in (found.outcome.artifacts if found.outcome else ()))
    if not made_clips and (entry is None or not makes_clips(entry)):
        raise unknown
    exchange_of(request).request_id = found.id
    logs.request_id.set(found.id)  # the edge puts it back
    return core, found
