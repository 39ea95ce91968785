"""Calls under ``videos``, over the queue, and videos in OpenAI's format."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, cast
from urllib.parse import unquote

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.artifact import Artifact
from serve_app.domain.endpoint import DEFAULT_CLIP_MODEL
from serve_app.domain.errors import (
    ArtifactNotFound,
    InvalidInput,
    Unsupported,
)
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import is_form, read_form, read_json
from serve_app.ingress.http.context import name_request
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import Answer, Operation, answer, in_path, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.openai.errors import (
    AT_SUBMIT,
    ERRORS,
    TAG,
    OpenAiErrorDetails,
    failure_body,
)
from serve_app.ingress.openai.form import convert_types, unfold
from serve_app.ingress.openai.image_parameters import is_image
from serve_app.ingress.openai.input_images import image_uri
from serve_app.ingress.openai.lookup import find_maker
from serve_app.ingress.openai.runs import validate_request
from serve_app.ingress.openai.video_parameters import (
    NAMES,
    VideoParameters,
    input_of,
    length_text,
    size_text,
)
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.model_lookup import EndpointFields, find_capable, find_endpoint
from serve_app.ingress.submission.protocol import require_ended
from serve_app.ingress.submission.rendering import (
    ENDPOINT,
    NO_OUTCOME,
    final_outcome,
    outcome_headers,
)
from serve_app.ingress.submission.replay import add_replay_headers
from serve_app.storage.keys import request_of, valid
from serve_app.tenants.scopes import Caller

# Request for a video, in OpenAI's format.

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]

STATUSES: Mapping[State, VideoStatus] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
    State.EXPIRED: "failed",
}

DENOISED_PERCENT = 90
"""Share of denoising in the whole work, in percent. Decoding and encoding are the rest."""


class OpenAiVideo(TypedDict):
    """Request for a video."""

    id: str
    object: Literal["video"]
    model: str
    status: VideoStatus
    progress: Annotated[int, Field(ge=0, le=100, description="Percent.")]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str | None
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: OpenAiErrorDetails | None


class OpenAiVideoPage(TypedDict):
    object: Literal["list"]
    data: list[OpenAiVideo]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(TypedDict):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


def makes_videos(entry: CatalogEntry) -> bool:
    return entry.endpoint.category.endswith("to-video")


def video_endpoints(catalog: Catalog) -> list[str]:
    return [entry.endpoint.id for entry in catalog if makes_videos(entry)]


def video(request: Request, names: Mapping[str, str]) -> OpenAiVideo:
    file = next((artifact for artifact in artifacts(request) if is_video(artifact)), None)
    size = f"{file.width}x{file.height}" if file and file.width else size_text(request.input)
    body: OpenAiVideo = {
        "id": request.id,
        "object": "video",
        "model": request.requested_model or request.endpoint,
        "status": STATUSES[request.state],
        "progress": progress(request),
        "created_at": int(request.created_at.timestamp()),
        "completed_at": _seconds(request.finished_at) if request.state.final else None,
        "expires_at": None,
        "prompt": request.input.get("prompt"),
        "seconds": length_text(request.input),
        "size": size,
        "remixed_from_video_id": _source_of(request),
        "error": None,
    }
    if request.state.final and request.state is not State.SUCCEEDED:
        failure = request.outcome.failure if request.outcome else None
        body["error"] = failure_body(failure or NO_OUTCOME, names)["error"]
    return body


def progress(request: Request) -> int:
    """Progress in percent. It is 0 before denoising, which is nearly all of the work."""
    if request.state is State.SUCCEEDED:
        return 100
    now = request.progress
    if request.state is not State.RUNNING or now is None:
        return 0
    if now.stage is Stage.DENOISING and now.steps:
        return round(DENOISED_PERCENT * min(1.0, now.step / now.steps))
    stages = tuple(Stage)
    return DENOISED_PERCENT if stages.index(now.stage) > stages.index(Stage.DENOISING) else 0


def artifacts(request: Request) -> tuple[Artifact, ...]:
    return request.outcome.artifacts if request.outcome else ()


def is_video(artifact: Artifact) -> bool:
    return artifact.media_type.startswith("video/")


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None


MAX_LISTED = 100
REFERENCE = "input_reference"
SOURCE = "video_url"
"""Field of endpoints that change a video."""


async def create(request: HttpRequest) -> Response:
    """Store a request for a video. Answer before the video exists."""
    caller = await authenticate(request)
    services = services_of(request)
    body, reference = await _body(request, services.config.limits.max_body_bytes)
    parameters = VideoParameters.read(body)
    entry = video_endpoint(services, caller, parameters, referred=reference is not None)
    fields = EndpointFields(entry)
    inputs = input_of(convert_types(parameters, fields) if is_form(request) else parameters, fields)
    if reference is not None:
        inputs["image_url"] = reference
    origin_of(request)  # may be refused, so check it before anything is stored
    new = await validate_request(
        request, caller, entry.endpoint.id, inputs, NAMES, model=parameters.model
    )
    stored = await asyncio.shield(submission.submit(services, new))
    return add_replay_headers(request, _reply(stored), new, stored)


async def show(request: HttpRequest) -> Response:
    _, job = await _find(request)
    return _reply(job)


def _reply(record: Request) -> Response:
    headers = outcome_headers(record) | {ENDPOINT: record.runs_at}
    return json_reply(video(record, NAMES), headers=headers)


async def list_videos(request: HttpRequest) -> Response:
    """List the tenant's requests to endpoints that make videos, newest first."""
    caller = await authenticate(request)
    services = services_of(request)
    limit = query.page_size(request, default=20, most=MAX_LISTED)
    after = query.request_id(request, "after", "should be the id of a video")
    if request.query_params.get("order", "desc") != "desc":
        order = request.query_params["order"]
        raise query.invalid("order", "should be `desc`, the only supported order", order)
    endpoints = [*filter(caller.allows, video_endpoints(services.catalog_of(caller)))]
    jobs: Sequence[Request] = ()
    if endpoints:
        jobs = await services.queue.page(
            caller.tenant, endpoints=endpoints, before=after, limit=limit + 1
        )
    page = [video(job, NAMES) for job in jobs[:limit]]
    body: OpenAiVideoPage = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(jobs) > limit,
    }
    return json_reply(body)


async def delete(request: HttpRequest) -> Response:
    """Delete a request with its files. A request that has not ended is refused."""
    services, job = await _find(request)
    await submission.delete(services, job.tenant, job.id, actor_of(request))
    body: DeletedVideo = {"id": job.id, "object": "video.deleted", "deleted": True}
    return json_reply(body)


async def content(request: HttpRequest) -> Response:
    """Redirect to the file. ``NotFinished``: the request has not ended."""
    services, job = await _find(request)
    waiting = "The video is not ready yet. Poll its status until it is completed."
    job = await require_ended(services.queue, job, waiting)
    variant = request.query_params.get("variant", "video")
    if variant not in ("video", "thumbnail"):
        raise query.invalid("variant", "should be `video` or `thumbnail`", variant)
    is_match = is_video if variant == "video" else is_image
    outcome = final_outcome(job)
    if outcome.failure is not None:
        raise ArtifactNotFound(f"The request made no video: {outcome.failure.message}")
    file = next((artifact for artifact in outcome.artifacts if is_match(artifact)), None)
    if file is None and variant == "thumbnail":  # an app's video has no poster of its own
        file = next(
            (artifact.thumbnail for artifact in outcome.artifacts if artifact.thumbnail), None
        )
    if file is None:
        raise ArtifactNotFound(f"This video has no {variant}.")
    url = services.files.access.url(origin_of(request), file.key, job.tenant)
    return RedirectResponse(url, 302)


async def remix(request: HttpRequest) -> Response:
    """Store a request for a video from a finished one, by an endpoint that changes videos."""
    caller, services = await authenticate(request), services_of(request)
    record = await _find_record(request, caller)
    record = await require_ended(services.queue, record, "The video is not ready yet.")
    body = await read_json(request, services.config.limits.max_body_bytes)
    parameters = VideoParameters.read(body)
    file = next((artifact for artifact in artifacts(record) if is_video(artifact)), None)
    if file is None:
        raise ArtifactNotFound("The request made no video, so it cannot be remixed.")
    named = find_endpoint(services, caller, parameters.model or record.endpoint)
    catalog = services.catalog_of(caller)
    entry = find_capable(catalog, named, (SOURCE,), ("video-to-video",), "change a video")
    arguments = input_of(parameters, EndpointFields(entry))
    arguments[SOURCE] = services.files.access.url(origin_of(request), file.key, record.tenant)
    new = await validate_request(
        request,
        caller,
        entry.endpoint.id,
        arguments,
        NAMES,
        model=parameters.model,
        sent=[record.id, body],
    )
    stored = await asyncio.shield(submission.submit(services, new))
    return add_replay_headers(request, _reply(stored), new, stored)


def _source_of(request: Request) -> str | None:
    """Id of the video that this one was made from; None if it was made from none of here."""
    url = request.input.get(SOURCE)
    if not isinstance(url, str):
        return None
    key = unquote(url.partition("/files/")[2].partition("?")[0])
    return request_of(key) if valid(key) else None


async def not_here(request: HttpRequest) -> Response:
    await authenticate(request)
    raise Unsupported(
        "Edits and extensions of videos, and characters, are not supported. To start a video from "
        "an image, create a new one with input_reference; to change one, remix it."
    )


class VideoCreateForm(VideoParameters):
    """Parameters with an image to start from."""

    input_reference: Binary | None = None


ONE = in_path("request_id", "Id of the video.")

CREATE = Operation(
    "openaiCreateVideo",
    "Submit a request for a video, from a prompt and perhaps an image",
    {200: answer("The request is stored.", OpenAiVideo)},
    errors=AT_SUBMIT,
    body=VideoParameters,
    content={"multipart/form-data": VideoCreateForm},
    tag=TAG,
    error_format=ERRORS,
)
REMIX = Operation(
    "openaiRemixVideo",
    "Submit a request for a video from a finished one",
    {200: answer("The request is stored.", OpenAiVideo)},
    errors=(*AT_SUBMIT, 410),
    parameters=(ONE,),
    body=VideoParameters,
    description="Another endpoint takes it if that of the video has no input for videos: its "
    "sibling `video-to-video`, or the `model` of this call.",
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "openaiListVideos",
    "List the tenant's requests for videos, newest first",
    {200: answer("A page.", OpenAiVideoPage)},
    errors=(400,),
    parameters=(
        in_query("after", "`last_id` of the previous page."),
        in_query("limit", "1 to 100; default 20.", int),
        in_query("order", "The only supported order.", Literal["desc"]),
    ),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "openaiGetVideo",
    "Show a request for a video",
    {200: answer("The request.", OpenAiVideo)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
DELETE = Operation(
    "openaiDeleteVideo",
    "Delete an ended request for a video, with its files",
    {200: answer("The request is deleted.", DeletedVideo)},
    errors=(400, 404),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
GET_CONTENT = Operation(
    "openaiGetVideoContent",
    "Get the video, or its first image",
    {302: Answer("The URL of the file.")},
    errors=(400, 404, 410),
    parameters=(ONE, in_query("variant", "Default: `video`.", Literal["video", "thumbnail"])),
    tag=TAG,
    error_format=ERRORS,
)


def refused_call(number: int, path: str) -> Operation:
    """Description of a call that ``not_here`` answers."""
    return Operation(
        f"openaiRefusedVideoCall{number}",
        "Not supported",
        {},
        errors=(400,),
        parameters=(ONE,) if "{" in path else (),
        tag="not supported",
        error_format=ERRORS,
    )


def video_endpoint(
    services: Services, caller: Caller, parameters: VideoParameters, *, referred: bool
) -> CatalogEntry:
    catalog = services.catalog_of(caller)
    entry = find_endpoint(services, caller, parameters.model or DEFAULT_CLIP_MODEL)
    if referred:
        entry = find_capable(
            catalog, entry, ("image_url",), ("image-to-video",), "start from an image"
        )
    if not makes_videos(entry):
        which = ", ".join(video_endpoints(catalog)) or "none of this installation"
        raise Unsupported(f"{entry.endpoint.id} does not make videos. Endpoints that do: {which}.")
    return entry


async def _body(request: HttpRequest, max_bytes: int) -> tuple[Mapping[str, Any], str | None]:
    """Parameters of the call, and the URL of the image to start from (None without one)."""
    if is_form(request):
        form = await read_form(request, max_bytes, most_files=1)
        unknown = sorted(form.files.keys() - {REFERENCE})
        if unknown:
            raise InvalidInput.of_field(unknown[0], "Not supported here", "feature_not_supported")
        files = form.files.get(REFERENCE, [])
        parameters, linked = split_reference(unfold(form.sent))
        if not files:
            return parameters, linked
        return parameters, await in_cpu_thread(image_uri, files[0].content, REFERENCE)
    return split_reference(await read_json(request, max_bytes))


def split_reference(body: Any) -> tuple[Mapping[str, Any], str | None]:
    """Parameters of a JSON body without ``input_reference``, and the URL that it names."""
    if not isinstance(body, dict) or REFERENCE not in body:
        return cast("Mapping[str, Any]", body), None
    rest = {**cast("Mapping[str, Any]", body)}
    reference = rest.pop(REFERENCE)
    if reference is None:
        return rest, None
    url = reference.get("image_url") if isinstance(reference, dict) else None
    if not isinstance(url, str):
        raise InvalidInput.of_field(REFERENCE, "Send a file, or an object with `image_url`")
    return rest, url


async def _find(request: HttpRequest) -> tuple[Services, Request]:
    """Request for the video that the path names, of which the call's response is."""
    record = await _find_record(request, await authenticate(request))
    name_request(request, record)
    return services_of(request), record


async def _find_record(request: HttpRequest, caller: Caller) -> Request:
    """Request for the video that the path names."""
    request_id: str = request.path_params["request_id"]
    what = f"video {request_id[:64]}"
    services = services_of(request)
    return await find_maker(services, caller, request_id, what, is_video, makes_videos)
