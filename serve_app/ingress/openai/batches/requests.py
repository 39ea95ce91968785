"""Lines of batches as requests, and the ends of requests as results of lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.batches.batch import BatchError, BatchLine, LineResult, StoredBatch
from serve_app.domain.errors import ArtifactNotFound, DarkroomError, Expired, InvalidInput
from serve_app.domain.outcome import Failure
from serve_app.domain.request import NewRequest, Priority, Request
from serve_app.ingress.http.body import parse
from serve_app.ingress.http.routing import rename_locations
from serve_app.ingress.openai import image_parameters, images, videos
from serve_app.ingress.openai.errors import error_body, error_response, failure_body, failure_status
from serve_app.ingress.openai.image_parameters import ImageRequest
from serve_app.ingress.openai.video_parameters import NAMES, VideoParameters, input_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import options, submission
from serve_app.ingress.submission.max_cost import MaxCost
from serve_app.ingress.submission.model_lookup import EndpointFields
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.rendering import final_outcome, rendered_output
from serve_app.tenants.scopes import Caller

GENERATIONS, EDITS, VIDEOS = "/v1/images/generations", "/v1/images/edits", "/v1/videos"
RUN = "/run/"
"""Prefix of Darkroom's own URLs: an endpoint's id follows, and the body is the endpoint's input."""

NO_PARAMETERS = ImageRequest(
    input={},
    echoed={"size": "auto"},
    response_formats=frozenset({"url"}),
    streamed=False,
    partial_images=0,
)
EXPIRED = "batch_expired"


def check_url(services: Services, caller: Caller, url: str) -> None:
    """Raise ``InvalidInput`` if batches cannot make this call, and the errors of an endpoint that
    the caller cannot use."""
    if url.startswith(RUN):
        endpoint_id = services.catalog_of(caller).get(url.removeprefix(RUN)).endpoint.id
        caller.require_endpoint(endpoint_id)
    elif url not in (GENERATIONS, EDITS, VIDEOS):
        raise InvalidInput.of_field(
            "endpoint",
            f"Input should be {GENERATIONS}, {EDITS}, {VIDEOS}, or {RUN} and the id of an endpoint",
            "invalid_endpoint",
        )


@dataclass(frozen=True, slots=True)
class LineCall:
    """Call that a line makes: its endpoint, its input, and the format of its result."""

    endpoint: CatalogEntry
    input: Mapping[str, Any]
    names: Mapping[str, str]  # field of the input → the client's name for it
    image_request: ImageRequest | None = None  # None: the result has no images of OpenAI's


async def read_line(services: Services, batch: StoredBatch, line: BatchLine) -> Any:
    """Body of the call. ``ArtifactNotFound``: the input file was deleted."""
    storage = services.files.storage
    reading = storage.read(batch.input_key, line.start, line.start + line.size)
    raw = b"".join([chunk async for chunk in reading])
    return (await in_cpu_thread(parse, raw))["body"]


def call_of(services: Services, caller: Caller, batch: StoredBatch, body: Any) -> LineCall:
    """Translate a body as the call itself would. Raises the call's errors."""
    if batch.endpoint.startswith(RUN):
        entry = services.catalog_of(caller).get(batch.endpoint.removeprefix(RUN))
        return LineCall(entry, body, {})
    if batch.endpoint == VIDEOS:
        parameters, reference = videos.split_reference(body)
        video = VideoParameters.read(parameters)
        entry = videos.video_endpoint(services, caller, video, referred=reference is not None)
        arguments = input_of(video, EndpointFields(entry))
        return LineCall(entry, arguments | ({"image_url": reference} if reference else {}), NAMES)
    return _image_call(services, caller, body, edits=batch.endpoint == EDITS)


def _image_call(services: Services, caller: Caller, body: Any, *, edits: bool) -> LineCall:
    call = images.json_call(services, caller, body, edits=edits)
    if call.parameters.stream:
        raise InvalidInput.of_field("stream", "Not supported in a batch", "feature_not_supported")
    image_request, names = call.image_request, image_parameters.names_of(call.parameters)
    if call.parameters.response_format is None:  # base64 of thousands of images would be gigabytes
        image_request = replace(image_request, response_formats=frozenset({"url"}))
    return LineCall(call.entry, image_request.input, names, image_request)


def options_of(batch: StoredBatch) -> SubmitOptions:
    """Options of a batch's lines, by the headers of the call that created it."""
    return options.options_of(batch.headers or {}, _owner(batch))


async def request_of(
    services: Services,
    caller: Caller,
    batch: StoredBatch,
    line: BatchLine,
    call: LineCall,
    max_cost: MaxCost | None = None,
) -> NewRequest:
    """Validated request of a line, at the lowest priority. Its id and its idempotency key are the
    same each time."""
    batch_options = options_of(batch)
    left_s = max(1.0, batch.left_s)
    line_options = replace(
        batch_options,
        priority=Priority.LOW,
        end_within_s=min(left_s, batch_options.end_within_s or left_s),
        idempotency_key=f"{batch.id}/{line.custom_id}",
        previews=False,
        no_shadow=True,
        max_cost=max_cost,
    )
    try:
        return await submission.validate(
            services,
            caller,
            call.endpoint.endpoint.id,
            call.input,
            line_options,
            request_id=line.request_id or services.new_id(),
        )
    except InvalidInput as error:
        raise rename_locations(error, dict(call.names)) from None


async def result_of(
    services: Services, batch: StoredBatch, line: BatchLine, request: Request
) -> LineResult:
    """Result of a line whose request has ended. ``StorageUnavailable``."""
    try:
        call = call_of(services, _owner(batch), batch, await read_line(services, batch, line))
    except ArtifactNotFound:
        call = None  # the input file is gone: the result repeats no parameters
    except DarkroomError:
        call = None  # its endpoint is not served any more
    try:
        failure = final_outcome(request).failure
        if failure is not None:
            return _failure_result(batch, line, failure, call.names if call else {})
        body, inlined = await _body(services, batch, request, call)
    except DarkroomError as error:
        if error.retryable:
            raise
        return refused_line(line, error)
    response = {"status_code": 200, "request_id": request.id, "body": body}
    return LineResult(line.line, succeeded=True, response=response, inlined=inlined)


def _owner(batch: StoredBatch) -> Caller:
    """Key that made the batch, without its rights."""
    return Caller(batch.key_id, batch.tenant, frozenset())


async def _body(
    services: Services, batch: StoredBatch, request: Request, call: LineCall | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Body as the call itself would answer, and the files whose base64 is added to its images."""
    files = services.files
    if batch.endpoint.startswith(RUN):
        return await rendered_output(request, files, batch.origin, inline=False), ()
    if batch.endpoint == VIDEOS:
        return cast("Mapping[str, Any]", videos.video(request, NAMES)), ()
    image_request = call.image_request if call else None
    if image_request is None:
        image_request = NO_PARAMETERS
    by_url = replace(image_request, response_formats=image_request.response_formats & {"url"})
    created = int((request.finished_at or request.created_at).timestamp())
    body = await image_parameters.image_answer(request, by_url, files, batch.origin, created)
    inlined = "b64_json" in image_request.response_formats
    keys = (image.key for image in image_parameters.images_of(request)) if inlined else ()
    return cast("Mapping[str, Any]", body), tuple(keys)


def _failure_result(
    batch: StoredBatch,
    line: BatchLine,
    failure: Failure,
    names: Mapping[str, str],
) -> LineResult:
    if failure.code == Expired.code or (failure.code == "cancelled" and batch.stop is not None):
        return LineResult(line.line, succeeded=False, error=stop_error(batch))
    body = cast("Mapping[str, Any]", failure_body(failure, names))
    return _error_line(line, failure_status(failure), body)


def refused_line(line: BatchLine, error: DarkroomError) -> LineResult:
    """Result of a line whose request was refused, as the call itself would be."""
    answer = error_response(error)
    return _error_line(line, answer.status_code, json.loads(bytes(answer.body)))


def deleted_line(line: BatchLine) -> LineResult:
    """Result of a line whose request was deleted before its result was read."""
    message = "The request was deleted before the batch read its result."
    body = error_body(message, 410, "request_deleted")
    return _error_line(line, 410, cast("Mapping[str, Any]", body))


def _error_line(line: BatchLine, status: int, body: Mapping[str, Any]) -> LineResult:
    response = {"status_code": status, "request_id": line.request_id, "body": body}
    error = {"code": body["error"]["code"], "message": body["error"]["message"]}
    return LineResult(line.line, succeeded=False, response=response, error=error)


def input_gone() -> BatchError:
    """Error of a batch whose input file was deleted before it was validated."""
    return BatchError("input_file_not_found", "The input file was deleted.")


def stop_error(batch: StoredBatch) -> Mapping[str, Any]:
    """Error of a line that did not run, because its batch was stopped."""
    if batch.stop is not None and batch.stop.value == "cancelled":
        return {"code": "batch_cancelled", "message": "The batch was cancelled before this ran."}
    message = "This request could not be executed before the completion window expired."
    return {"code": EXPIRED, "message": message}
