"""``/v1/models``: the catalog in fal's format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.endpoint import Precision, Recipe, WeightsPart
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import ReplicaStage
from serve_app.domain.realtime import SessionKind, session_kind
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.http.time_buckets import CURSOR, PageLinks
from serve_app.ingress.openapi.document import ApiDocument, document_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.tenants.scopes import OPERATOR, Caller

MAX_PAGE = 100
OPENAPI, PREFLIGHT = "openapi-3.0", "preflight"
STATUSES = ("active", "inactive", "deprecated")  # the last is fal's; no model here has it


WeightsState = Literal["hot", "warm", "cold", "not_served", "unknown"]


class ModelMetadata(TypedDict):
    display_name: str
    category: str
    description: str
    status: Literal["active", "inactive"]
    tags: list[str]
    license: str
    model_url: str


class LargestWork(TypedDict):
    """Largest work that a recipe's memory was computed for."""

    megapixels: Annotated[float, Field(description="Of a frame, with all images of a call.")]
    frames: int
    tile_above: Annotated[
        float | None,
        Field(description="Megapixels above which the autoencoder works in tiles."),
    ]


class ModelRecipe(TypedDict):
    """Format of a model's weights on a device with at least this much memory."""

    memory_gb: float
    precision: Precision
    offload: Literal["none", "components", "blocks"]
    hot: list[str]
    compile: bool
    compile_decoder: bool
    dtypes: dict[str, str]
    attention: str
    graphs: bool
    largest: LargestWork | None
    step_cache: dict[str, Any]


class ModelWeights(TypedDict):
    source: str | None
    revision: str | None
    version: str | None
    checkpoint: Annotated[str | None, Field(description="One file with some components.")]
    parts: Annotated[
        dict[str, str | list[str]],
        Field(description="Components of other places; a list: ControlNets that run together."),
    ]


class ModelExample(TypedDict):
    """Input to try a model with. Required files may be missing."""

    input: dict[str, Any]
    output: Annotated[dict[str, Any] | None, Field(description="Null: none is stored.")]


class ModelStatus(TypedDict):
    """What only Darkroom has."""

    served: bool
    state: Annotated[
        WeightsState,
        Field(
            description="Where the weights are: `hot`: on a device, `warm`: in a machine's memory, "
            "`cold`: a request has to load them, `unknown`: the database does not answer."
        ),
    ]
    kind: Annotated[str, Field(description="What it makes: image, video, audio or 3d.")]
    readme: Annotated[str, Field(description="Markdown.")]
    examples: list[ModelExample]
    drafts: Annotated[
        bool, Field(description="Inputs have the field `draft`. Some pipelines refuse it.")
    ]
    requests: Annotated[
        bool, Field(description="False: it takes realtime sessions only, and no requests.")
    ]
    sessions: Annotated[
        SessionKind,
        Field(
            description="Realtime sessions: `frames`: each message is an input of the endpoint, "
            "`app`: messages are those of its app, `none`: it has none."
        ),
    ]
    reason: Annotated[str | None, Field(description="Why the model is not served.")]
    family: str
    origin: Annotated[
        Literal["built-in", "file", "database"],
        Field(description="Place of the entry in force."),
    ]
    replaces: Annotated[
        list[Literal["built-in", "file", "database"]],
        Field(description="Other places that have an entry of this id."),
    ]
    weights: ModelWeights
    recipes: list[ModelRecipe]
    cpu: Annotated[
        CpuFacts | None,
        Field(description="Stated where the real model runs without a GPU, null otherwise."),
    ]
    about_demo: Annotated[
        str | None, Field(description="What the demo model can make, where one is served.")
    ]
    demo_words: Annotated[
        dict[str, list[str]],
        Field(description="All words that the demo model knows, by group. Empty: none is served."),
    ]
    preflight: NotRequired[
        Annotated[
            PreflightAnswer,
            Field(
                description="With `expand=preflight`. For operators the hub is asked, which may "
                "take seconds; for others it is what the entry says."
            ),
        ]
    ]


class PreflightNeeds(TypedDict):
    """What the real model takes, in 10^9 bytes. Null: not known, or nothing of it."""

    gpu: bool | None
    device_gb: Annotated[float | None, Field(description="Of the smallest GPU that will do.")]
    host_gb: float | None
    disk_gb: float | None


class PreflightMachine(TypedDict):
    """What the machine of the replicas has, in 10^9 bytes. Null: not known."""

    device_gb: Annotated[float | None, Field(description="0: it has no GPU.")]
    memory_gb: float | None
    free_gb: Annotated[float | None, Field(description="On the disk of the weights.")]


class PreflightDownload(TypedDict):
    """Weights of the hub."""

    total_bytes: int | None
    missing_bytes: Annotated[int | None, Field(description="Not on the machine. Null: not known.")]
    basis: Annotated[
        Literal["files", "entry", "estimate", "unknown"],
        Field(description="Of the size: its files, what the entry says, or its memory."),
    ]
    source: Annotated[
        Literal["not_needed", "not_asked", "offline", "unreachable", "refuses", "gives"],
        Field(description="State of the hub, or of the mirror in front of it."),
    ]
    gated: Annotated[
        bool | None,
        Field(description="True: its licence has to be accepted on the hub. Null: not known."),
    ]
    problem: str | None


class PreflightAnswer(TypedDict):
    """What serving the endpoint's own model here takes, and what is in the way."""

    server: Annotated[
        Literal["real", "demo", "hosted", "nothing"],
        Field(description="What answers requests now."),
    ]
    fits: Annotated[bool | None, Field(description="Null: not known.")]
    needs: PreflightNeeds
    machine: PreflightMachine
    download: PreflightDownload
    seconds: Annotated[float | None, Field(description="Of a usual request.")]
    seconds_from: Literal["here", "entry", "unknown"]
    sentences: Annotated[
        dict[str, str],
        Field(
            description="The same in sentences, by subject: served, fits, packages, download, "
            "licence, access, time, next."
        ),
    ]


class CpuFacts(TypedDict):
    """What the real model takes on a machine without a GPU, as its entry states it."""

    seconds: Annotated[float | None, Field(description="Of a usual request, about.")]
    download_gb: Annotated[float | None, Field(description="Of the weights, in 10^9 bytes.")]


class Model(TypedDict):
    """Endpoint of the catalog."""

    endpoint_id: str
    metadata: ModelMetadata
    darkroom_demo: bool
    darkroom: ModelStatus
    openapi: NotRequired[
        Annotated[
            dict[str, Any],
            Field(description="The endpoint's OpenAPI document, with `expand=openapi-3.0`."),
        ]
    ]


class ModelPage(PageLinks):
    models: list[Model]


async def models(request: HttpRequest) -> Response:
    """List endpoints that the key may use, in the catalog's order.

    Filters: ``endpoint_id`` (repeated, or separated by commas), ``q``, ``category``, ``status``.
    Pages: ``limit`` endpoints after ``cursor``. ``expand=openapi-3.0`` adds each one's document,
    ``expand=preflight`` what its own model takes.
    """
    context_of(request).route = "v1.models"
    caller = await authenticate(request)
    services = services_of(request)
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    allowed = [entry for entry in services.catalog_of(caller) if caller.allows(entry.endpoint.id)]
    # The filters may exclude the cursor's own entry: it was perhaps served when the previous page
    # was sent, and is not served any more.
    first = query.after_cursor(request, [entry.endpoint.id for entry in allowed])
    entries = [entry for entry in allowed[first:] if _matches_query(request, entry)]
    page = entries[:limit]
    origin = origin_of(request)
    weights = await held_weights(services)
    listed = [_model(entry, origin, weights) for entry in page]
    expanded = _expansions(request)
    if PREFLIGHT in expanded:
        for model, answer in zip(listed, await _preflights(services, caller, page), strict=True):
            model["darkroom"]["preflight"] = answer
    if OPENAPI in expanded:
        await in_cpu_thread(_describe, listed, page, document_of(request), origin)
    more = len(entries) > limit
    body: ModelPage = {
        "models": listed,
        "next_cursor": page[-1].endpoint.id if more else None,
        "has_more": more,
    }
    return json_reply(body)


LIST = Operation(
    "listModels",
    "List endpoints in the catalog's order",
    {200: answer("A page.", ModelPage)},
    errors=(422,),
    parameters=(
        in_query(
            "endpoint_id", "Only these endpoints; repeated or separated by commas.", list[str]
        ),
        in_query("q", "Only endpoints with these words."),
        in_query("category", "Only this category, such as text-to-image."),
        in_query(
            "status",
            "Only endpoints with this status.",
            Literal["active", "inactive", "deprecated"],
        ),
        in_query(
            "expand",
            "Add each endpoint's OpenAPI document, or what serving its real model takes.",
            list[Literal["openapi-3.0", "preflight"]],
        ),
        in_query("limit", "1 to 100; default 50.", int),
        CURSOR,
    ),
)


def _matches_query(request: HttpRequest, entry: CatalogEntry) -> bool:
    params, endpoint = request.query_params, entry.endpoint
    ids = query.several(request, "endpoint_id")
    status = params.get("status")
    if status is not None and status not in STATUSES:
        raise query.invalid("status", f"should be one of {', '.join(STATUSES)}", status)
    return (
        (not ids or endpoint.id in ids)
        and params.get("category", endpoint.category) == endpoint.category
        and status in (None, _status(entry))
        and endpoint.has_words(params.get("q", ""))
    )


def _expansions(request: HttpRequest) -> Collection[str]:
    fields = request.query_params.getlist("expand")
    for field in fields:
        if field not in (OPENAPI, PREFLIGHT):
            raise query.invalid("expand", f"should be {OPENAPI} or {PREFLIGHT}", field)
    return fields


def _status(entry: CatalogEntry) -> Literal["active", "inactive"]:
    return "inactive" if entry.missing else "active"


def _describe(
    listed: list[Model], page: list[CatalogEntry], document: ApiDocument, origin: str
) -> None:
    """Add the documents. Each takes milliseconds, so call it in a thread."""
    for model, entry in zip(listed, page, strict=True):
        model["openapi"] = document.of_endpoint(entry, origin)


async def _preflights(
    services: Services, caller: Caller, page: Sequence[CatalogEntry]
) -> Sequence[PreflightAnswer]:
    """Answers for a page of entries. For operators the machine and the hub are looked at: the free
    disk and the way to the hub are not a tenant's to see."""
    try:
        replicas = await services.health.replicas()
    except DatabaseUnavailable:
        replicas = ()
    smallest: dict[str, int] = {}  # memory of the smallest GPU, by pool
    for replica in replicas:
        if replica["device"] and replica["memory_total"]:
            known = smallest.get(replica["pool"], replica["memory_total"])
            smallest[replica["pool"]] = min(known, replica["memory_total"])
    pools = {entry.endpoint.id: services.pool_if_any(entry) for entry in page}
    devices = {
        endpoint: size
        for endpoint, pool in pools.items()
        if (size := smallest.get(pool) or services.pools.device_bytes(pool))
    }
    preflights = await services.preflights.of(
        page,
        devices,
        lambda catalog_entry: services.queue.usual_s(
            catalog_entry.endpoint.id, pools[catalog_entry.endpoint.id]
        ),
        looks=caller.may(OPERATOR),
    )
    return [cast("PreflightAnswer", preflight.as_json()) for preflight in preflights]


Held = Mapping[WeightsState, Collection[str]]
"""Endpoints whose weights some replica holds, by where they are."""


async def held_weights(services: Services) -> Held | None:
    """What ready replicas hold. None while the database does not answer: the catalog is listed
    nevertheless."""
    try:
        replicas = await services.health.replicas()
    except DatabaseUnavailable:
        return None
    seen = [replica for replica in replicas if replica["stage"] == ReplicaStage.READY]
    return {
        "hot": {endpoint for replica in seen for endpoint in replica["hot"]},
        "warm": {endpoint for replica in seen for endpoint in replica["warm"]},
    }


def weights_state(entry: CatalogEntry, by_state: Held | None) -> WeightsState:
    """Where the endpoint's weights are."""
    if entry.missing:
        return "not_served"
    if by_state is None:
        return "unknown"
    for state, ids in by_state.items():
        if entry.endpoint.id in ids:
            return state
    return "cold"


def _model(entry: CatalogEntry, origin: str, by_state: Held | None) -> Model:
    endpoint = entry.endpoint
    return {
        "endpoint_id": endpoint.id,
        "metadata": {
            "display_name": endpoint.display_name or endpoint.id,
            "category": endpoint.category,
            "description": endpoint.description,
            "status": _status(entry),
            "tags": [],
            "license": endpoint.licence,
            "model_url": f"{origin}/run/{endpoint.id}",
        },
        "darkroom_demo": entry.demo,
        "darkroom": {
            "served": not entry.missing,
            "state": weights_state(entry, by_state),
            "kind": endpoint.kind,
            "readme": entry.source.readme,
            "drafts": entry.schema.makes_drafts,
            "requests": endpoint.takes_requests,
            "sessions": session_kind(endpoint),
            "reason": entry.missing or None,
            "family": endpoint.family,
            "origin": entry.origin.value,
            "replaces": [replaced.value for replaced in entry.replaces],
            "weights": {
                "source": endpoint.weights.source or None,
                "revision": endpoint.weights.revision,
                "version": endpoint.weights.version or None,
                "checkpoint": endpoint.weights.checkpoint or None,
                "parts": _parts(endpoint.weights.parts),
            },
            "recipes": [_recipe(recipe) for recipe in endpoint.recipes],
            "examples": [
                {"input": example.input, "output": example.output} for example in entry.examples
            ],
            "cpu": _cpu(entry),
            "about_demo": entry.about_demo or None,
            "demo_words": {group: [*words] for group, words in entry.demo_words.items()},
        },
    }


def _parts(parts: Sequence[WeightsPart]) -> dict[str, str | list[str]]:
    places: dict[str, list[str]] = {}
    for part in parts:
        places.setdefault(part.component, []).append(part.place)
    return {name: values if len(values) > 1 else values[0] for name, values in places.items()}


def _cpu(entry: CatalogEntry) -> CpuFacts | None:
    facts = entry.source.cpu
    if facts is None:
        return None
    return {"seconds": facts.seconds, "download_gb": facts.download_gb}


def _recipe(recipe: Recipe) -> ModelRecipe:
    return cast("ModelRecipe", asdict(recipe))


ROUTES = [DocumentedRoute("/v1/models", models, {"GET": LIST}, ANY_KEY)]
