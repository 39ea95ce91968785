"""Responses about stored requests: outcome, failure, preview, and state in the queue.

In an output, a file becomes a URL, or with ``sync_mode`` a data URI.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.artifact import Artifact, is_elsewhere
from serve_app.domain.billing.price import NOTHING, made_by, made_by_session
from serve_app.domain.errors import (
    Expired,
    FieldProblem,
    NotFound,
    OutcomeForgotten,
    PipelineFailed,
    field_loc,
)
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.ports import Storage
from serve_app.domain.progress import Stage
from serve_app.domain.request import (
    Priority,
    Redacted,
    Request,
    Retries,
    State,
    Waiting,
    WaitReason,
)
from serve_app.domain.workflows.references import FILE_URL
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import (
    BY_CODE,
    INTERNAL,
    Error,
    ErrorResponse,
    ValidationError,
    iso,
    json_reply,
    problem_item,
)
from serve_app.ingress.http.json_schema import Binary, Time
from serve_app.ingress.http.openapi import Answer, DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.services import services_of
from serve_app.storage.keys import media_type_of

# Responses for attempts that ended in an error, in fal's format.

FIELD_AT_FAULT = ErrorResponse(422, "value_error")


def answer_for(failure: Failure) -> ErrorResponse:
    """HTTP status and fal's type of a failure. A failure at a field is the client's error."""
    if failure.field is not None:
        return ErrorResponse(FIELD_AT_FAULT.status, failure.type or FIELD_AT_FAULT.type)
    return BY_CODE.get(failure.code, INTERNAL)


def failure_body(failure: Failure) -> Error | ValidationError:
    answer = answer_for(failure)
    if failure.field is not None:
        context = dict(failure.context) if failure.context else None
        message = failure.message.removeprefix(f"{failure.field}: ")
        problem = FieldProblem(field_loc(failure.field), message, answer.type, context)
        return {
            "message": failure.message,
            "code": failure.code,
            "detail": [problem_item(problem)],
        }
    # Text, not a list with one item: fal's Python client shows `detail` as it is.
    return {
        "message": failure.message,
        "code": failure.code,
        "detail": failure.message,
        "error_type": answer.type,
    }


def failure_reply(failure: Failure, more: Mapping[str, str] | None = None) -> Response:
    """Response for a failure. ``more``: headers to add."""
    answer = answer_for(failure)
    headers = {
        "x-fal-retryable": "true" if failure.retryable else "false",
        "x-fal-error-type": answer.type,
    }
    if failure.code == Expired.code:
        # A request expires only by a time limit that the client set. This header stops the
        # client's retries.
        headers["x-fal-request-timeout-type"] = "user"
    return json_reply(failure_body(failure), answer.status, headers | dict(more or {}))


NO_OUTCOME = Failure(
    code=PipelineFailed.code, message="The request ended without an outcome.", retryable=False
)


async def outcome_reply(request: Request, files: Files, origin: str) -> Response:
    """Response for a request in a final state. ``OutcomeForgotten``: its outcome was deleted."""
    outcome = final_outcome(request)
    elsewhere = {ENDPOINT: request.fell_back_to} if request.fell_back_to else {}
    if outcome.failure is not None:
        return failure_reply(outcome.failure, elsewhere)
    body = await rendered_output(request, files, origin)
    return json_reply(body, headers=outcome_headers(request) | elsewhere)


def outcome_headers(request: Request) -> dict[str, str]:
    """Headers of a result in each protocol: which checkers saw its files, and fal's with the units
    that it was billed for, if it has a price. Empty for a request that has not succeeded."""
    outcome = request.outcome
    if outcome is None or not outcome.succeeded:
        return {}
    checked = str((outcome.output or {}).get("darkroom_safety", "not-checked"))
    safety = {"x-darkroom-safety": checked.encode("ascii", "replace").decode("ascii")}
    if request.price is None:
        return safety
    made = made_by_session if request.priority is Priority.REALTIME else made_by
    units = (NOTHING if request.reuses is not None else made(outcome)).of(request.price.unit)
    return safety | {"x-fal-billable-units": f"{units.normalize():f}"}


def final_outcome(request: Request) -> Outcome:
    """Outcome of a request whose state is final. ``OutcomeForgotten``: it was deleted."""
    if request.forgetting is Redacted.DONE:
        raise OutcomeForgotten(
            "The outcome was deleted: after an hour if the request set X-Fal-Store-IO: 0, else at "
            "the end of the time for which this installation keeps prompts."
        )
    return request.outcome or Outcome(failure=NO_OUTCOME)


async def rendered_output(
    request: Request, files: Files, origin: str, *, inline: bool = True
) -> dict[str, Any]:
    """Output of a request that succeeded, with URLs in place of files.

    With ``sync_mode`` in its input they are data URIs, unless ``inline`` is false. Errors:
    ``OutcomeForgotten``, and the errors of ``output_of``.
    """
    inside = inline and request.input.get("sync_mode") is True
    return await output_of(final_outcome(request), files, origin, request.tenant, inline=inside)


async def output_of(
    outcome: Outcome, files: Files, origin: str, tenant: str, *, inline: bool
) -> Any:
    """Output with its files as clients of ``tenant`` read them; ``inline``: as data URIs inside the
    output.

    Errors: ``ArtifactNotFound``, ``StorageUnavailable``.
    """
    uris: dict[str, str] = {}
    if inline:
        here = [each for each in outcome.artifacts if not is_elsewhere(each.key)]
        uris = {each.key: await _data_uri(files.storage, each) for each in here}

    def url(key: str) -> str:
        return uris.get(key) or files.access.url(origin, key, tenant)

    return _Rendering(outcome, url).render(outcome.output or {})


def rendered_value(
    value: Any, artifacts: Mapping[str, Artifact], files: Files, origin: str, tenant: str
) -> Any:
    """A part of an output, with URLs in place of its files, which are among ``artifacts``."""

    def url(key: str) -> str:
        return files.access.url(origin, key, tenant)

    return _Rendering(Outcome(artifacts=tuple(artifacts.values())), url).render(value)


class _Rendering:
    """Walks an output and replaces its files."""

    def __init__(self, outcome: Outcome, url: Callable[[str], str]) -> None:
        self._artifacts = {artifact.key: artifact for artifact in outcome.artifacts}
        self._url = url

    def render(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            if isinstance(fields.get("artifact"), str):
                alone = fields.get("$as") == "url"  # an app for fal returned only the URL
                return self._url(fields["artifact"]) if alone else self._file(fields)
            key = fields.get(FILE_URL)
            if len(fields) == 1 and isinstance(key, str) and key in self._artifacts:
                return self._url(key)
            return {name: self.render(inner) for name, inner in fields.items()}
        if isinstance(value, (list, tuple)):
            return [self.render(inner) for inner in cast("Sequence[Any]", value)]
        return value

    def _file(self, value: Mapping[str, Any]) -> dict[str, Any]:
        key: str = value["artifact"]
        file: dict[str, Any] = {
            "url": self._url(key),
            "content_type": media_type_of(key),
            "file_name": key.rpartition("/")[2],
        }
        artifact = self._artifacts.get(key)
        if artifact is not None:
            file |= {"content_type": artifact.media_type, "file_size": artifact.size}
            if artifact.width is not None and artifact.height is not None:
                file |= {"width": artifact.width, "height": artifact.height}
        file.update((name, inner) for name, inner in value.items() if name != "artifact")
        return file


async def _data_uri(storage: Storage, artifact: Artifact) -> str:
    content = b"".join([chunk async for chunk in storage.read(artifact.key, 0, artifact.size)])
    # Base64 of an image takes milliseconds, which would block all other calls.
    encoded = await in_cpu_thread(base64.b64encode, content)
    return f"data:{artifact.media_type};base64,{encoded.decode('ascii')}"


# Previews over HTTP: an image of a running request, for the request's tenant.

HEADERS = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}


async def shown(request: HttpRequest) -> Response:
    """Answer with the newest preview, or 204 without one. Each call causes the next preview."""
    context_of(request).route = "v1.request.preview"
    caller = await authenticate(request)
    services = services_of(request)
    if not services.config.models.previews:
        raise NotFound("Previews are turned off on this installation (DARKROOM_PREVIEWS).")
    found = await services.queue.preview(caller.tenant, request.path_params["request_id"])
    if found is None:
        return Response(status_code=204, headers=HEADERS)
    step = {"x-darkroom-step": str(found.step)}
    return Response(found.image, headers=HEADERS | step, media_type="image/jpeg")


def preview_url(request: Request, origin: str, *, made: bool) -> str | None:
    """URL of the newest preview; it changes with each preview. None while there can be none.

    ``made``: whether this installation makes previews.
    """
    progress = request.progress
    if not made or not request.previews or request.state is not State.RUNNING or progress is None:
        return None
    url = f"{origin}/v1/requests/{request.id}/preview"
    if request.preview_step:
        return f"{url}?attempt={request.attempt}&step={request.preview_step}"
    # A poll while weights are loading would expire before there is a preview.
    return url if progress.stage is Stage.DENOISING else None


SHOW_PREVIEW = Operation(
    "getPreview",
    "Show a small image of a running request. Previews are made only while they are read",
    {
        200: answer(
            "The newest preview. `X-Darkroom-Step` is the step that it shows.", Binary, "image/jpeg"
        ),
        204: Answer("There is no preview yet."),
    },
    errors=(404,),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
)

ROUTES = [
    DocumentedRoute("/v1/requests/{request_id}/preview", shown, {"GET": SHOW_PREVIEW}),
]


# State of a queued request, the same in all of our protocols.


class WaitingStatus(TypedDict):
    """Why a request waits, and when it is expected to run."""

    reason: WaitReason
    detail: str
    stage: Annotated[str | None, Field(description="Stage of a cold start.")]
    share: Annotated[float | None, Field(description="Finished share of that stage, 0 to 1.")]
    starts_at: Annotated[Time | None, Field(description="Expected start; null: not known.")]
    ends_at: Annotated[Time | None, Field(description="Expected end; null: not known.")]


def waiting_body(waiting: Waiting) -> WaitingStatus:
    """All fields but the position, which has a name of its own in each protocol."""
    return {
        "reason": waiting.reason,
        "detail": waiting.detail,
        "stage": waiting.stage,
        "share": round_significant(waiting.share),
        "starts_at": iso(waiting.starts_at),
        "ends_at": iso(waiting.ends_at),
    }


class FallbackStatus(TypedDict):
    """Endpoint that runs a request in place of its own, and why."""

    endpoint: str
    reason: Annotated[
        str, Field(description="`max_wait`, `deadline`, or the code of the failure before.")
    ]


def fallback_body(request: Request) -> FallbackStatus | None:
    """None: it runs at its own endpoint."""
    if not request.fell_back_to:
        return None
    return {"endpoint": request.fell_back_to, "reason": request.fell_back_for}


ENDPOINT = "x-darkroom-endpoint"
"""Header of a result: the endpoint that made it, where a client has not named that one."""


class RetriesLeft(TypedDict):
    """Retries that a request has left, by cause."""

    timeout: int
    server_error: int
    connection_error: int


def retries_body(retries: Retries) -> RetriesLeft:
    return {
        "timeout": retries.timeout,
        "server_error": retries.server_error,
        "connection_error": retries.connection_error,
    }


def round_significant(figure: float | None) -> float | None:
    """Round a number to three significant digits."""
    return None if figure is None else float(f"{figure:.3g}")
