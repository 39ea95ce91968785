"""Calls ``images/generations``, ``images/edits`` and ``images/variations``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.endpoint import DEFAULT_IMAGE_MODEL
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.domain.request import Request
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import Form, is_form, read_form, read_json
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import EVENTS, JSON, Answer, Operation
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.openai import input_images
from serve_app.ingress.openai.errors import (
    AT_END,
    AT_SUBMIT,
    ERRORS,
    TAG,
)
from serve_app.ingress.openai.form import convert_types, unfold
from serve_app.ingress.openai.image_parameters import (
    ImageParameters,
    ImageRequest,
    OpenAiImages,
    image_answer,
    names_of,
    parse_parameters,
)
from serve_app.ingress.openai.image_stream import ImagesEvents, stream
from serve_app.ingress.openai.runs import run, validate_request
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission.model_lookup import EndpointFields, find_capable, find_endpoint
from serve_app.ingress.submission.rendering import (
    outcome_headers,
)
from serve_app.tenants.scopes import Caller

MAKES_IMAGES = "to-image"
"""Suffix of the category of an endpoint that makes images."""

IMAGE_FIELDS = ("image", "images", "image_url", "image_urls")
"""Names for the images to edit, in JSON."""

GENERATION, EDIT = "image_generation", "image_edit"


async def generations(request: HttpRequest) -> Response:
    """Make images from a prompt."""
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_json(request, services.config.limits.max_body_bytes)
    return await _answer(request, caller, json_call(services, caller, body), GENERATION)


async def edits(request: HttpRequest) -> Response:
    """Make images from a prompt, images, and perhaps a mask."""
    return await _edited_answer(request, {})


async def variations(request: HttpRequest) -> Response:
    """Make images from an image alone: an edit whose prompt is empty."""
    return await _edited_answer(request, {"prompt": ""})


async def _edited_answer(request: HttpRequest, defaults: Mapping[str, Any]) -> Response:
    """``defaults``: parameters that the call has, unless it sends others."""
    services = services_of(request)
    caller = await authenticate(request)
    max_bytes = services.config.limits.max_body_bytes
    if is_form(request):
        form = await read_form(request, max_bytes, input_images.MAX_INPUT_IMAGES + 1)
        call = await _form_call(services, caller, form, defaults)
    else:
        body = await read_json(request, max_bytes)
        whole = {**defaults, **body} if isinstance(body, dict) else body
        call = json_call(services, caller, whole, edits=True)
    return await _answer(request, caller, call, EDIT)


@dataclass(frozen=True, slots=True)
class ImageCall:
    """Call for images: its endpoint and its parameters, and what these are for the endpoint."""

    entry: CatalogEntry
    parameters: ImageParameters
    image_request: ImageRequest


def json_call(services: Services, caller: Caller, body: Any, *, edits: bool = False) -> ImageCall:
    """Call whose parameters are JSON, with URLs of the images to edit. ``InvalidInput``."""
    parameters = ImageParameters.read(body)
    entry = named_endpoint(services, caller, parameters)
    files: dict[str, Any] = {}
    if edits:
        urls, parameters = _split_image_urls(parameters)
        entry = editing(services.catalog_of(caller), entry, len(urls), masked=_has_mask(parameters))
        is_single = len(urls) == 1 and EndpointFields(entry).accepts("image_url")
        files = {"image_url": urls[0]} if is_single else {"image_urls": urls}
    image_request = parse_parameters(parameters, EndpointFields(drawing(entry)), files)
    return ImageCall(entry, parameters, image_request)


def _split_image_urls(parameters: ImageParameters) -> tuple[list[str], ImageParameters]:
    """URLs of the images to edit, and the other parameters. JSON has no files, so images are URLs
    or data URIs: ``image`` or ``images``, each a text or an object with ``image_url``."""
    more = {**(parameters.model_extra or {})}
    if "mask" in more:
        message = "Not supported in JSON: send `mask_url`, in which white parts are redrawn"
        raise InvalidInput.of_field("mask", message, "feature_not_supported")
    value = next((more[name] for name in IMAGE_FIELDS if name in more), None)
    entries = cast("list[Any]", value) if isinstance(value, list) else [value]
    urls = [cast("Any", x).get("image_url") if isinstance(x, dict) else x for x in entries]
    if not urls or not all(isinstance(url, str) and url for url in urls):
        message = "Send a URL or a data URI, an object with `image_url`, or a list of these"
        raise InvalidInput.of_field("image", message, "missing")
    rest = parameters.model_dump(exclude_unset=True, exclude=set(IMAGE_FIELDS))
    return cast("list[str]", urls), ImageParameters.model_validate(rest)


def _has_mask(parameters: ImageParameters) -> bool:
    """Return whether a mask is given by its URL, which is the endpoint's own field."""
    return "mask_url" in (parameters.model_extra or {})


async def _form_call(
    services: Services, caller: Caller, form: Form, defaults: Mapping[str, Any]
) -> ImageCall:
    """Call whose parameters are a form, with the files of the images to edit. ``InvalidInput``."""
    unknown = sorted(form.files.keys() - {"image", "mask"})
    if unknown:
        raise InvalidInput.of_field(unknown[0], "Not supported here", "feature_not_supported")
    parameters = ImageParameters.read({**defaults, **unfold(form.sent)})
    images = [file.content for file in form.files.get("image", ())]
    masks = [file.content for file in form.files.get("mask", ())]
    if not images:
        raise InvalidInput.of_field("image", "Field required", "missing")
    entry = drawing(
        editing(
            services.catalog_of(caller),
            named_endpoint(services, caller, parameters),
            len(images),
            masked=bool(masks) or _has_mask(parameters),
        )
    )
    fields = EndpointFields(entry)
    mask = masks[0] if masks else None
    async with services.mask_decoding if mask is not None else nullcontext():
        files = await in_cpu_thread(input_images.fields_of, images, mask, fields)
    return ImageCall(
        entry, parameters, parse_parameters(convert_types(parameters, fields), fields, files)
    )


class ImageReference(TypedDict):
    """Image by its URL."""

    image_url: str


class ImageEdit(ImageParameters):
    """Parameters with URLs or data URIs of images, and perhaps of a mask."""

    image: str | ImageReference | list[str | ImageReference]
    mask_url: str | None = Field(default=None, description="White parts are redrawn.")


class ImageEditForm(ImageParameters):
    """Parameters with images, and perhaps a mask."""

    image: list[Binary]
    mask: Binary | None = None


class ImageVariation(ImageEdit):
    """Parameters with the URL or data URI of an image, without a prompt."""

    prompt: str = ""


class ImageVariationForm(ImageEditForm):
    """Parameters with an image, without a prompt."""

    prompt: str = ""


GENERATE = Operation(
    "openaiGenerateImages",
    "Make images from a prompt",
    {
        200: Answer(
            "The images. With `stream`: events with partial images, then with the images.",
            {JSON: OpenAiImages, EVENTS: str},
        )
    },
    errors=(*AT_SUBMIT, *AT_END),
    body=ImageParameters,
    description="Also takes fields of the endpoint's own input, such as `seed`.",
    tag=TAG,
    error_format=ERRORS,
)
EDITS = replace(
    GENERATE,
    name="openaiEditImages",
    summary="Make images from a prompt, images, and perhaps a mask",
    body=ImageEdit,
    content={"multipart/form-data": ImageEditForm},
)
VARIATIONS = replace(
    EDITS,
    name="openaiVaryImages",
    summary="Make images from an image, without a prompt",
    body=ImageVariation,
    content={"multipart/form-data": ImageVariationForm},
)


def named_endpoint(services: Services, caller: Caller, parameters: ImageParameters) -> CatalogEntry:
    return find_endpoint(services, caller, parameters.model or DEFAULT_IMAGE_MODEL)


def makes_images(entry: CatalogEntry) -> bool:
    return entry.endpoint.category.endswith(MAKES_IMAGES)


def drawing(entry: CatalogEntry) -> CatalogEntry:
    """Return ``entry`` if it makes images. A video would yield only its poster."""
    endpoint = entry.endpoint
    if not makes_images(entry):
        raise Unsupported(
            f"{endpoint.id} does not make images: its category is {endpoint.category}."
        )
    return entry


def editing(catalog: Catalog, entry: CatalogEntry, images: int, *, masked: bool) -> CatalogEntry:
    if masked:
        return find_capable(
            catalog,
            entry,
            ("mask_url",),
            ("inpainting", "inpaint", "fill"),
            "fill in a mask",
        )
    needs = ("image_urls",) if images > 1 else ("image_url", "image_urls")
    what = "edit several images at once" if images > 1 else "edit images"
    return find_capable(catalog, entry, needs, ("image-to-image", "edit"), what)


async def _answer(
    request: HttpRequest,
    caller: Caller,
    call: ImageCall,
    kind: str,
) -> Response:
    services = services_of(request)
    image_request = call.image_request
    origin = origin_of(request)  # may be refused, so read it before anything is stored
    names = names_of(call.parameters)
    new = await validate_request(
        request,
        caller,
        call.entry.endpoint.id,
        image_request.input,
        names,
        model=call.parameters.model,
    )
    if image_request.streamed:
        events = ImagesEvents(services, image_request, names, kind)
        return await stream(request, new, events, image_request.partial_images)

    async def reply(ended: Request) -> Response:
        created = int(services.clock.now().timestamp())
        body = await image_answer(ended, image_request, services.files, origin, created)
        return json_reply(body, headers=outcome_headers(ended))

    return await run(request, new, names, reply)
