"""Outcomes as fal's clients read them: a file becomes a URL, or with ``sync_mode`` a data URI."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any, cast

from starlette.responses import Response

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import OutcomeForgotten, PipelineFailed
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.ports import Storage
from serve_app.domain.request import Forgetting, Request
from serve_app.ingress.fal.failure import failure_reply
from serve_app.ingress.origin import file_url
from serve_app.ingress.reply import json_reply
from serve_app.storage.keys import media_type_of

NO_OUTCOME = Failure(
    code=PipelineFailed.code, message="The request ended without an outcome.", retryable=False
)


async def outcome_reply(request: Request, storage: Storage, origin: str) -> Response:
    """The answer for a request whose state is final. ``OutcomeForgotten``."""
    outcome = outcome_of(request)
    if outcome.failure is not None:
        return failure_reply(outcome.failure)
    return json_reply(await rendered_output(request, storage, origin))


def outcome_of(request: Request) -> Outcome:
    """Of a request whose state is final. ``OutcomeForgotten``."""
    if request.forgetting is Forgetting.DONE:
        raise OutcomeForgotten(
            "The outcome was kept for an hour and is forgotten, as X-Fal-Store-IO: 0 asked for."
        )
    return request.outcome or Outcome(failure=NO_OUTCOME)


async def rendered_output(
    request: Request, storage: Storage, origin: str, *, inline: bool = True
) -> dict[str, Any]:
    """What a request that succeeded made, with URLs in place of files. With ``sync_mode`` in its
    input these are data URIs, unless not ``inline``. ``OutcomeForgotten``, and as below."""
    inside = inline and request.input.get("sync_mode") is True
    return await output_of(outcome_of(request), storage, origin, inline=inside)


async def output_of(outcome: Outcome, storage: Storage, origin: str, *, inline: bool) -> Any:
    """The output with its files as clients read them; ``inline``: inside it. ``ArtifactNotFound``,
    ``StorageUnavailable``."""
    uris: dict[str, str] = {}
    if inline:
        uris = {each.key: await _data_uri(storage, each) for each in outcome.artifacts}
    return _Rendering(outcome, origin, uris).render(outcome.output or {})


class _Rendering:
    """Walks an output and replaces its files."""

    def __init__(self, outcome: Outcome, origin: str, inline: Mapping[str, str]) -> None:
        self._artifacts = {artifact.key: artifact for artifact in outcome.artifacts}
        self._origin = origin
        self._inline = inline

    def render(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            if isinstance(fields.get("artifact"), str):
                return self._file(fields)
            return {name: self.render(inner) for name, inner in fields.items()}
        if isinstance(value, (list, tuple)):
            return [self.render(inner) for inner in cast("Sequence[Any]", value)]
        return value

    def _file(self, value: Mapping[str, Any]) -> dict[str, Any]:
        key: str = value["artifact"]
        file: dict[str, Any] = {
            "url": self._inline.get(key) or file_url(self._origin, key),
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
    # Base64 of a picture takes milliseconds, which all other calls would wait for.
    encoded = await asyncio.to_thread(base64.b64encode, content)
    return f"data:{artifact.media_type};base64,{encoded.decode('ascii')}"
