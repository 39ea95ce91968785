"""Outcomes of requests as responses.

In an output, a file becomes a URL, or with ``sync_mode`` a data URI.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from starlette.responses import Response

from serve_app.domain.artifact import Artifact, is_elsewhere
from serve_app.domain.billing.price import NOTHING, made_by, made_by_session
from serve_app.domain.errors import OutcomeForgotten, PipelineFailed
from serve_app.domain.media.data_uri import data_uri_of_base64
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.ports import Storage
from serve_app.domain.request import Priority, Redacted, Request
from serve_app.domain.workflows.references import FILE_URL
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import Files
from serve_app.ingress.submission.failures import failure_reply
from serve_app.storage.keys import media_type_of

ENDPOINT = "x-darkroom-endpoint"
"""Header of a result: the endpoint that made it, where a client has not named that one."""

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
    measure = made_by_session if request.priority is Priority.REALTIME else made_by
    units = (NOTHING if request.reuses is not None else measure(outcome)).of(request.price.unit)
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
        here = [artifact for artifact in outcome.artifacts if not is_elsewhere(artifact.key)]
        uris = {artifact.key: await _data_uri(files.storage, artifact) for artifact in here}

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


async def base64_of(storage: Storage, key: str, size: int) -> str:
    """Content of a file in Base64."""
    content = b"".join([chunk async for chunk in storage.read(key, 0, size)])
    # Base64 of an image takes milliseconds, which would block all other calls.
    return (await in_cpu_thread(base64.b64encode, content)).decode("ascii")


async def _data_uri(storage: Storage, artifact: Artifact) -> str:
    encoded = await base64_of(storage, artifact.key, artifact.size)
    return data_uri_of_base64(encoded, artifact.media_type)
