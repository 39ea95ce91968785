"""``/v1/models/entries``: entries of the catalogue that operators add while Darkroom runs. All
calls require the scope ``operator``."""

from __future__ import annotations

import io
import zipfile
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.entries import CatalogEntry
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.ports import MAX_CODE_BYTES
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_body, read_json
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary, Time
from serve_app.ingress.http.openapi import (
    DocumentedRoute,
    Operation,
    answer,
    in_header,
    in_path,
    in_query,
)
from serve_app.ingress.services.services import Services, services_of

MAX_BODY_BYTES = 256 * 1024
ZIP = b"PK"  # begins each zip file

OriginName = Literal["built-in", "file", "database"]


class ModelEntry(TypedDict):
    """Entry of the catalog. The keys are those of an entry in a catalog file."""

    family: str
    schema: Annotated[str, Field(description="Name of the schema of input and output.")]
    weights: NotRequired[
        Annotated[
            dict[str, str | None],
            Field(description="`hub` with `revision`, or `directory`; and `variant`."),
        ]
    ]
    options: NotRequired[Annotated[dict[str, Any], Field(description="Options of the family.")]]
    defaults: NotRequired[
        Annotated[dict[str, Any], Field(description="Values in place of the schema's defaults.")]
    ]
    bounds: NotRequired[
        Annotated[
            dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]],
            Field(description="Least and most value of a field."),
        ]
    ]
    recipes: NotRequired[
        Annotated[list[dict[str, Any]], Field(description="Formats of the weights by GPU memory.")]
    ]
    memory: NotRequired[Annotated[dict[str, Any], Field(description="Memory that it needs.")]]
    demo: NotRequired[Annotated[dict[str, Any], Field(description="Demo model in its place.")]]
    cpu: NotRequired[
        Annotated[
            dict[str, Any], Field(description="Its weights run without a GPU, and what that takes.")
        ]
    ]
    cache: NotRequired[bool]
    pool: NotRequired[Annotated[str, Field(description="Default: the first with the family.")]]
    display_name: NotRequired[str]
    description: NotRequired[str]
    category: NotRequired[str]
    licence: NotRequired[str]


class WrittenEntry(TypedDict):
    """Entry in force, as it was written."""

    endpoint_id: str
    origin: OriginName
    replaces: Annotated[
        list[OriginName], Field(description="Other places that have an entry of this id.")
    ]
    served: bool
    reason: Annotated[str | None, Field(description="Why it is not served.")]
    pool: Annotated[str | None, Field(description="Pool that runs it; null: none can.")]
    entry: ModelEntry


class StoredModel(TypedDict):
    """Entry of the database."""

    endpoint_id: str
    entry: Annotated[dict[str, Any], Field(description="As it was written.")]
    changed_at: Time
    changed_by: Annotated[str, Field(description="Id of an API key.")]
    problem: Annotated[
        str | None, Field(description="Why it is not valid in this version, and not in force.")
    ]


class StoredModels(TypedDict):
    entries: list[StoredModel]
    conflicts: Annotated[
        list[str],
        Field(description="Ids that the file has too. The entries of the database are in force."),
    ]


class RemovedModel(TypedDict):
    """Result of a removal."""

    endpoint_id: str
    unfinished: Annotated[
        int, Field(description="Queued and running requests, of at most 1000 that are counted.")
    ]
    now: Annotated[
        str | None,
        Field(description="Place of the entry in force now: `file`, `built-in`, or null."),
    ]


async def listed(request: HttpRequest) -> Response:
    """List the entries of the database, by id, with those that are not valid."""
    services = await _admin(request, "v1.models.entries")
    catalog = services.catalog
    body: StoredModels = {
        "entries": [
            {
                "endpoint_id": each.endpoint,
                "entry": dict(each.entry),
                "changed_at": each.changed_at.isoformat(),
                "changed_by": each.changed_by,
                "problem": catalog.invalid.get(each.endpoint),
            }
            for each in await services.entries.stored()
        ],
        "conflicts": [each.endpoint.id for each in catalog if "file" in each.replaces],
    }
    return json_reply(body)


async def shown(request: HttpRequest) -> Response:
    """Show the entry of an endpoint, from any place, as it was written."""
    services = await _admin(request, "v1.models.entry")
    return json_reply(_written(services, services.catalog.listed(_endpoint(request))))


async def put(request: HttpRequest) -> Response:
    """Store an entry, in place of the one with this id in the database, the file or the built-in
    catalogue. It is in force here at once, and everywhere within about a second.

    ``If-None-Match: *`` only adds: ``EntryExists`` if there is one. ``?dry_run=true`` checks it
    and stores nothing.
    """
    services = await _admin(request, "v1.models.entry")
    dry_run = query.yes_no(request, "dry_run", default=False)
    body = await read_json(request, MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object with the keys of an entry.")
    entry, endpoint = cast("dict[str, Any]", body), _endpoint(request)
    new = request.headers.get("if-none-match")
    if new not in (None, "*"):
        raise InvalidInput("`If-None-Match` should be `*`, for an entry that does not exist yet.")
    if dry_run:
        checked = await services.entries.check(endpoint, entry)
    else:
        store = services.entries.put if new is None else services.entries.add
        checked = await store(endpoint, entry, actor_of(request))
    return json_reply(_written(services, checked))


async def removed(request: HttpRequest) -> Response:
    """Remove an entry of the database. An entry of the file, or a built-in one, is then in force.

    While the endpoint has queued or running requests, this needs ``?force=true``: running ones end
    as usual, and queued ones fail when a replica would take them, unless the endpoint still exists.
    """
    services = await _admin(request, "v1.models.entry")
    force = query.yes_no(request, "force", default=False)
    endpoint = _endpoint(request)
    unfinished = await services.entries.remove(endpoint, actor_of(request), force=force)
    entry = services.catalog.find(endpoint)
    body: RemovedModel = {
        "endpoint_id": endpoint,
        "unfinished": unfinished,
        "now": None if entry is None else entry.origin.value,
    }
    return json_reply(body)


class StoredCode(TypedDict):
    """Code of an app."""

    digest: Annotated[str, Field(description="SHA-256; the option `app.bundle` of entries.")]
    bytes: int


async def code_stored(request: HttpRequest) -> Response:
    """Store the code of an app: a zip file. Entries with the family `python` name it by its digest.

    Code that no entry names is removed after a day.
    """
    services = await _admin(request, "v1.apps.code")
    content = await read_body(request, MAX_CODE_BYTES)
    if not content.startswith(ZIP) or not zipfile.is_zipfile(io.BytesIO(content)):
        raise InvalidInput("The body must be a zip file with the code of an app.")
    digest = await services.bundles.store(content, actor_of(request))
    body: StoredCode = {"digest": digest, "bytes": len(content)}
    return json_reply(body)


_ID = in_path("endpoint_id", "Its slashes are not escaped.")

LIST = Operation(
    "listModelEntries",
    "List the catalog's entries of the database. Needs the scope `operator`",
    {200: answer("The entries.", StoredModels)},
    errors=(403,),
)
SHOW = Operation(
    "getModelEntry",
    "Show an endpoint's entry as it was written. Needs the scope `operator`",
    {200: answer("The entry in force.", WrittenEntry)},
    errors=(403, 404),
    parameters=(_ID,),
)
PUT = Operation(
    "putModelEntry",
    "Add an endpoint to the catalog, or replace its entry. Needs the scope `operator`",
    {200: answer("The entry in force.", WrittenEntry)},
    errors=(403, 412, 413, 422),
    parameters=(
        _ID,
        in_query("dry_run", "`true`: check the entry and store nothing.", bool),
        in_header("If-None-Match", "`*`: only add it. 412 if the catalog has the id."),
    ),
    body=ModelEntry,
)
REMOVE = Operation(
    "removeModelEntry",
    "Remove an entry of the database. Needs the scope `operator`",
    {200: answer("What is in force now.", RemovedModel)},
    errors=(400, 403, 404, 422),
    parameters=(
        _ID,
        in_query("force", "`true`: also while the endpoint has queued or running requests.", bool),
    ),
)

CODE = Operation(
    "storeAppCode",
    "Store the code of an app, for entries to name. Needs the scope `operator`",
    {200: answer("Its digest.", StoredCode)},
    errors=(403, 413, 422),
    content={"application/zip": Binary},
)

ROUTES = [
    DocumentedRoute("/v1/apps/code", code_stored, {"POST": CODE}),
    DocumentedRoute("/v1/models/entries", listed, {"GET": LIST}),
    DocumentedRoute("/v1/models/entries/{endpoint_id:path}", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/models/entries/{endpoint_id:path}", put, {"PUT": PUT}),
    DocumentedRoute("/v1/models/entries/{endpoint_id:path}", removed, {"DELETE": REMOVE}),
]


async def _admin(request: HttpRequest, route: str) -> Services:
    context_of(request).route = route
    await authenticate(request)
    return services_of(request)


def _endpoint(request: HttpRequest) -> str:
    return str(request.path_params["endpoint_id"]).replace("\0", "")


def _written(services: Services, entry: CatalogEntry) -> WrittenEntry:
    return {
        "endpoint_id": entry.endpoint.id,
        "origin": entry.origin.value,
        "replaces": [each.value for each in entry.replaces],
        "served": not entry.missing,
        "reason": entry.missing or None,
        "pool": _pool(services, entry),
        "entry": _as_written(entry),
    }


def _as_written(entry: CatalogEntry) -> ModelEntry:
    written = entry.source.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return cast("ModelEntry", written)


def _pool(services: Services, entry: CatalogEntry) -> str | None:
    try:
        return services.pools.pool_of(entry.endpoint, entry.pool)
    except DarkroomError:
        return None
