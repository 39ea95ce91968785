"""Requests, outputs and endpoints in Replicate's format: predictions, URLs, models, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.errors import (
    ArtifactNotFound,
    EndpointNotFound,
    InvalidInput,
    OutcomeForgotten,
)
from serve_app.domain.progress import Progress
from serve_app.domain.request import LogLine, Request, State
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Json, Time, components
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.model_lookup import endpoint_id_of
from serve_app.ingress.submission.rendering import final_outcome, output_of, rendered_output
from serve_app.ingress.submission.status import FallbackStatus, fallback_body
from serve_app.tenants.scopes import Caller

# Outputs in Replicate's format: a URL or a list of URLs, where fal has an object with files.

PRODUCTS = ("images", "image", "videos", "video", "audios", "audio_files", "audio", "audio_file")
"""Fields of an output that hold an endpoint's main product. Fields with several files come first.
"""

OUTPUT = "output"
"""The only field of an output that is no object, such as a Cog model's."""

URL: Json = {"type": "string", "format": "uri"}


def plain(output: Mapping[str, Any]) -> Any:
    """Convert a rendered output: the URL or URLs of its product, or all of it if it has none. What
    a Cog model returns is as on Replicate, with a URL for each file."""
    for name in PRODUCTS:
        urls = _urls(output.get(name))
        if urls is not None:
            return urls
    return _with_urls(output[OUTPUT]) if set(output) == {OUTPUT} else dict(output)


def _with_urls(value: Any) -> Any:
    """``value`` with URLs in place of files."""
    if _is_file(value):
        return value["url"]
    if isinstance(value, Mapping):
        return {name: _with_urls(item) for name, item in cast("Json", value).items()}
    if isinstance(value, list):
        return [_with_urls(item) for item in cast("list[Any]", value)]
    return value


def pieces_of(output: Any) -> Sequence[str]:
    """Pieces that a stream sends one by one, from an output converted by ``plain``: files and texts
    as they are, other values as JSON. An output that is no list is one piece."""
    if output is None:
        return ()
    pieces = cast("list[Any]", output) if isinstance(output, list) else [output]
    return [piece if isinstance(piece, str) else json.dumps(piece) for piece in pieces]


def schemas(entry: CatalogEntry) -> Json:
    """``Input`` and ``Output``, as the components of an OpenAPI document."""
    input_schemas = components("Input", entry.schema.json_schema())
    schema = entry.schema.output_schema()
    properties: Mapping[str, Json] = schema.get("properties", {})
    for name in PRODUCTS:
        if name in properties and "anyOf" not in properties[name]:  # it is always there
            several = properties[name].get("type") == "array"
            product: Json = {"type": "array", "items": URL} if several else URL
            return {**input_schemas, "Output": {**product, "title": "Output"}}
    if set(properties) == {OUTPUT} and "$defs" not in schema:
        return {**input_schemas, "Output": _schema_with_urls(properties[OUTPUT])}
    return {**input_schemas, **components("Output", schema)}


def _schema_with_urls(schema: Any) -> Any:
    """``schema`` with URLs in place of files, which it marks."""
    if isinstance(schema, list):
        return [_schema_with_urls(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    if "x-darkroom-file" in schema:
        return dict(URL)
    return {name: _schema_with_urls(value) for name, value in cast("Json", schema).items()}


def _urls(value: Any) -> str | list[str] | None:
    if _is_file(value):
        return value["url"]
    if isinstance(value, list) and value and all(map(_is_file, cast("list[Any]", value))):
        return [file["url"] for file in cast("list[Json]", value)]
    return None


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("url"), str)


# Endpoints by Replicate's names: ``owner/name``, and a version. fal's ids may have more than two
# parts, Replicate's have two. Therefore the slashes after the first one become hyphens:
# ``fal-ai/flux/schnell`` is ``fal-ai/flux-schnell``. The version of an endpoint is the digest of
# its specification. It changes when anything about the endpoint changes.

_REFERENCE = re.compile(r"(?P<model>[^/:]+/[^:]+?)(?::(?P<version>.+))?")
_MODEL = re.compile(r"[\w.-]{1,100}/[\w.-]{1,100}", re.ASCII)


def model_id(endpoint_id: str) -> str:
    """``owner/name`` of an endpoint."""
    owner, _, rest = endpoint_id.partition("/")
    return f"{owner}/{rest.replace('/', '-')}"


def listed_models(services: Services, caller: Caller, model: str) -> CatalogEntry:
    """Endpoint of a name, an alias or an endpoint id, served or not.

    ``EndpointNotFound`` suggests similar names. ``InvalidInput``: the name is ambiguous.
    """
    catalog = services.catalog_of(caller)
    meant = endpoint_id_of(catalog, services.config.models.model_aliases, model)
    entry = catalog.find(meant)
    if entry is not None:
        return entry
    candidates = [candidate for candidate in catalog if model_id(candidate.endpoint.id) == model]
    if len(candidates) > 1:
        ids = ", ".join(candidate.endpoint.id for candidate in candidates)
        raise InvalidInput.of_field("model", f"{model} could be {ids}. Send its version")
    return candidates[0] if candidates else catalog.get_listed(meant)


def endpoint_of_version(services: Services, caller: Caller, reference: str) -> CatalogEntry:
    """Endpoint of a version, or of ``owner/name`` with or without a version."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return _by_digest(services.catalog_of(caller), reference)
    entry = listed_models(services, caller, match["model"])
    return check_version(entry, match["version"]) if match["version"] else entry


def requested_model(reference: str, entry: CatalogEntry) -> str:
    """``owner/name:version`` of a call that named ``entry`` by ``reference``. What could be no
    model's name at Replicate, though an alias fits it, is the name of the endpoint."""
    match = _REFERENCE.fullmatch(reference)
    model = model_id(match["model"]) if match else ""
    name = model if _MODEL.fullmatch(model) else model_id(entry.endpoint.id)
    return f"{name}:{entry.endpoint.digest}"


def check_version(entry: CatalogEntry, version: str) -> CatalogEntry:
    """Return ``entry`` if this is its version. ``EndpointNotFound``."""
    if entry.endpoint.digest != version:
        raise _no_version(version, f"The present version is {entry.endpoint.digest}.")
    return entry


def _by_digest(catalog: Catalog, version: str) -> CatalogEntry:
    for entry in catalog:
        if entry.endpoint.digest == version:
            return entry
    raise _no_version(version, "A version changes with the endpoint. Read the present one.")


def _no_version(version: str, more: str) -> EndpointNotFound:
    return EndpointNotFound(f"There is no version {version[:80]}. {more}")


PREFIX = "/replicate"
CURSOR = in_query("cursor", "The cursor in `next` of the previous page.")

PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]

STATUSES: Mapping[State, PredictionStatus] = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
    State.EXPIRED: "failed",
}

MAX_INSIDE_BYTES = 16 * 2**20
"""Most bytes of files, together, that an answer has inside without a request for it."""

BAR = 10
"""Characters of the progress bar in the log, which Replicate's client parses."""


class ReplicatePage(TypedDict):
    """Links to other pages."""

    previous: str | None
    next: str | None


class PredictionMetrics(TypedDict, total=False):
    predict_time: float
    total_time: float


class PredictionUrls(TypedDict):
    get: str
    cancel: str
    stream: str


Output = Annotated[
    Any,
    WithJsonSchema(
        {"nullable": True, "description": "A URL, a list of URLs, or the whole output."}
    ),
]


class ReplicatePrediction(TypedDict):
    """Request in Replicate's format."""

    id: str
    model: str
    version: str
    input: dict[str, Any]
    output: Output
    logs: str
    error: str | None
    status: PredictionStatus
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    deadline: NotRequired[Time | None]
    metrics: PredictionMetrics
    data_removed: bool
    source: NotRequired[str]
    darkroom_endpoint: NotRequired[str]
    darkroom_fallback: NotRequired[FallbackStatus | None]
    urls: PredictionUrls


@dataclass(frozen=True, slots=True)
class PredictionRenderer:
    """Builds predictions from requests."""

    files: Files

    async def render(
        self,
        request: Request,
        base: str,
        lines: Sequence[LogLine] = (),
        *,
        inline: bool = True,
        inside: bool = False,
    ) -> ReplicatePrediction:
        """Build a prediction.

        ``base``: URL at which Replicate's paths begin. ``lines``: lines of the log to include.
        ``inline``: allow files inside the output, which ``sync_mode`` in the input requests.
        ``inside``: put them there without such a request, if they are not large.
        """
        url = f"{base}/v1/predictions/{request.id}"
        model, _, version = request.requested_model.partition(":")
        if not _MODEL.fullmatch(model):  # as OpenAI names models
            model, version = model_id(request.endpoint), ""
        output, forgotten = await self._output(request, base, inline=inline, inside=inside)
        failure = request.outcome.failure if request.outcome else None
        return {
            "id": request.id,
            "model": model,
            "version": version or request.endpoint_digest,
            "input": dict(request.input),
            "output": output,
            "logs": _logs(lines, request.progress),
            "error": failure.message if failure else None,
            "status": _status(request),
            "created_at": request.created_at.isoformat(),
            "started_at": iso(request.started_at),
            "completed_at": iso(request.finished_at),
            "deadline": iso(request.end_by),
            "metrics": _metrics(request),
            "data_removed": forgotten,
            "source": "api",
            "darkroom_endpoint": request.endpoint,
            "darkroom_fallback": fallback_body(request),
            "urls": {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/stream"},
        }

    async def _output(
        self, request: Request, base: str, *, inline: bool, inside: bool
    ) -> tuple[Any, bool]:
        """Output, and whether it was deleted."""
        if request.state is not State.SUCCEEDED:
            return None, False
        try:
            origin = base.removesuffix(PREFIX)
            outcome = final_outcome(request)
            if inside and sum(artifact.size for artifact in outcome.artifacts) <= MAX_INSIDE_BYTES:
                rendered = await output_of(outcome, self.files, origin, request.tenant, inline=True)
            else:
                rendered = await rendered_output(request, self.files, origin, inline=inline)
        except (OutcomeForgotten, ArtifactNotFound):
            return None, True
        return plain(rendered), False


def renderer_of(services: Services) -> PredictionRenderer:
    return PredictionRenderer(services.files)


def _status(request: Request) -> PredictionStatus:
    """Canceled, not failed, at the end of the time in which it should have ended, as Replicate's
    ``Cancel-After`` promises. A request that has started has no other deadline."""
    ended, end_by = request.finished_at, request.end_by
    if request.state is State.EXPIRED and ended is not None and end_by is not None:
        late = request.started_at is not None or ended >= end_by
        return "canceled" if late else "failed"
    return STATUSES[request.state]


def _metrics(request: Request) -> PredictionMetrics:
    metrics: PredictionMetrics = {}
    if request.outcome is not None:
        metrics["predict_time"] = request.outcome.usage.run_s
    if request.finished_at is not None:
        metrics["total_time"] = (request.finished_at - request.created_at).total_seconds()
    return metrics


def _logs(lines: Sequence[LogLine], progress: Progress | None) -> str:
    messages = [line.message for line in lines]
    if messages and progress is not None and progress.steps:
        done = min(1.0, progress.step / progress.steps)
        bar = "█" * int(done * BAR)
        messages.append(f"{done:.0%}|{bar:<{BAR}}| {progress.amount}")
    return "\n".join(messages)
