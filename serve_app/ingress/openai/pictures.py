"""``images/generations`` and ``images/edits``."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.domain.model_aliases import DEFAULT_PICTURE_MODEL
from serve_app.ingress import submission
from serve_app.ingress.acceptance import accepted
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.endpoint_fields import EndpointFields
from serve_app.ingress.exchange import gone
from serve_app.ingress.fal.output import outcome_of
from serve_app.ingress.fal.submit import WENT_AWAY
from serve_app.ingress.form import is_form, read_form
from serve_app.ingress.model_names import capable, named
from serve_app.ingress.openai import given_pictures
from serve_app.ingress.openai.picture_answer import picture_answer
from serve_app.ingress.openai.picture_events import PictureStream
from serve_app.ingress.openai.picture_wish import (
    PictureParameters,
    PictureWish,
    names_of,
    wish_of,
)
from serve_app.ingress.openai.refusal import failed
from serve_app.ingress.origin import origin_of
from serve_app.ingress.repeats import about
from serve_app.ingress.reply import json_reply
from serve_app.ingress.translated import renamed
from serve_app.tenants.keys import Identity

ENDPOINT = "x-darkroom-endpoint"
"""On every answer with pictures: the endpoint that made them."""

MAKES_PICTURES = "to-image"
"""How the category of such an endpoint ends."""

GENERATION, EDIT = "image_generation", "image_edit"
EVENT_STREAM = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def generations(request: HttpRequest) -> Response:
    """Pictures from a prompt."""
    core = core_of(request)
    caller = await caller_of(request)
    given = PictureParameters.read(await read_json(request, core.config.max_body_bytes))
    entry = _drawing(_named(core, given))
    wish = wish_of(given, EndpointFields(entry))
    return await _answer(request, caller, entry, given, wish, GENERATION)


async def edits(request: HttpRequest) -> Response:
    """Pictures from a prompt and pictures, with a mask or without: a form, as OpenAI's clients
    send it."""
    core = core_of(request)
    caller = await caller_of(request)
    if not is_form(request):
        raise InvalidInput("Pictures are edited by a form (multipart/form-data) with the files.")
    most = given_pictures.MOST_GIVEN + 1
    form = await read_form(request, core.config.max_body_bytes, most)
    unknown = sorted(form.files.keys() - {"image", "mask"})
    if unknown:
        raise InvalidInput.of_field(unknown[0], "Not supported here", "feature_not_supported")
    given = PictureParameters.read(form.texts)
    pictures = [each.content for each in form.files.get("image", ())]
    masks = [each.content for each in form.files.get("mask", ())]
    if not pictures:
        raise InvalidInput.of_field("image", "Field required", "missing")
    entry = _drawing(_editing(core, _named(core, given), len(pictures), masked=bool(masks)))
    fields = EndpointFields(entry)
    wish = wish_of(given, fields)
    mask = masks[0] if masks else None
    files = await asyncio.to_thread(given_pictures.fields_of, pictures, mask, fields)
    wish = replace(wish, input={**files, **wish.input})
    return await _answer(request, caller, entry, given, wish, EDIT)


def _named(core: Core, given: PictureParameters) -> CatalogEntry:
    return named(core.catalog, core.config.model_aliases, given.model or DEFAULT_PICTURE_MODEL)


def _drawing(entry: CatalogEntry) -> CatalogEntry:
    """``entry``, if pictures are what it makes: of a clip there would be the poster only."""
    endpoint = entry.endpoint
    if not endpoint.category.endswith(MAKES_PICTURES):
        raise Unsupported(f"{endpoint.id} makes no pictures: it is {endpoint.category}.")
    return entry


def _editing(core: Core, entry: CatalogEntry, pictures: int, *, masked: bool) -> CatalogEntry:
    if masked:
        return capable(
            core.catalog, entry, ("mask_url",), ("inpainting", "inpaint", "fill"), "fill in a mask"
        )
    needs = ("image_urls",) if pictures > 1 else ("image_url", "image_urls")
    what = "edit several pictures at once" if pictures > 1 else "edit pictures"
    return capable(core.catalog, entry, needs, ("image-to-image", "edit"), what)


async def _answer(
    request: HttpRequest,
    caller: Identity,
    entry: CatalogEntry,
    given: PictureParameters,
    wish: PictureWish,
    kind: str,
) -> Response:
    core = core_of(request)
    origin = origin_of(request)  # may be refused, and then nothing is to be stored
    names = dict(names_of(given))
    try:
        new = await accepted(request, core, caller, entry.endpoint.id, wish.input)
    except InvalidInput as error:
        raise renamed(error, names) from None
    if wish.streamed:
        storing = submission.submit(core, new)
        try:
            stored = await asyncio.shield(storing)
        except asyncio.CancelledError:
            submission.abandon(core, new, storing)
            raise
        stream = PictureStream(core, new, storing, wish, names, kind)
        reply: Response = StreamingResponse(
            stream.events(), headers=EVENT_STREAM, media_type="text/event-stream"
        )
    else:
        ended = await submission.run(core, new, lambda: gone(request.receive))
        if ended is None:
            return failed(WENT_AWAY, names)
        stored = ended
        if (failure := outcome_of(ended).failure) is not None:
            return about(request, failed(failure, names), new, ended)
        created = int(core.clock.now().timestamp())
        reply = json_reply(await picture_answer(ended, wish, core.storage, origin, created))
    reply.headers[ENDPOINT] = stored.endpoint
    return about(request, reply, new, stored)
