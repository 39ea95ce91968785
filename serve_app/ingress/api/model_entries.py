"""``/v1/models/entries``: entries of the catalogue that operators add while Darkroom runs. All
calls require the scope ``operator``."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.entries import CatalogEntry
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.ports import MAX_CODE_BYTES
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_body
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import (
    DocumentedRoute,
    Operation,
    answer,
    in_header,
    in_query,
)
from serve_app.ingress.resources.calls import FORCE, Call, Calls, ResourceList, Special
from serve_app.ingress.services.services import Services, services_of
from serve_app.resources.entries import ENTRIES, StoredModel
from serve_app.tenants.scopes import OPERATOR

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


Conflicts = Annotated[
    list[str],
    Field(description="Ids that the file has too. The entries of the database are in force."),
]
WRITTEN = Special(reply=WrittenEntry)
calls = Calls(ENTRIES)


@calls.list(
    "List the catalog's entries of the database, with those that are not valid",
    about={"conflicts": Conflicts},
)
async def list_entries(call: Call) -> ResourceList[StoredModel]:
    catalog = call.services.catalog
    rows = [
        StoredModel(
            record.endpoint,
            record.entry,
            record.changed_at,
            record.changed_by,
            catalog.invalid.get(record.endpoint),
        )
        for record in await call.services.entries.list_stored()
    ]
    conflicts = [entry.endpoint.id for entry in catalog if "file" in entry.replaces]
    return ResourceList(rows, {"conflicts": conflicts})


@calls.show("Show an endpoint's entry, from any place, as it was written", WRITTEN)
async def show(call: Call, endpoint: str) -> WrittenEntry:
    return _entry_body(call.services, call.services.catalog.get_listed(endpoint))


@calls.put(
    "Add an endpoint to the catalog, or replace its entry",
    ModelEntry,
    replace(
        WRITTEN,
        max_bytes=MAX_BODY_BYTES,
        parameters=(
            in_query("dry_run", "`true`: check the entry and store nothing.", bool),
            in_header("If-None-Match", "`*`: only add it. 412 if the catalog has the id."),
        ),
        errors=(412,),
    ),
)
async def put(call: Call, endpoint: str, entry: ModelEntry) -> WrittenEntry:
    """``If-None-Match: *``: ``EntryExists`` if there is one."""
    dry_run, new = call.flag("dry_run"), call.request.headers.get("if-none-match")
    if new not in (None, "*"):
        raise InvalidInput("`If-None-Match` should be `*`, for an entry that does not exist yet.")
    entries = call.services.entries
    if dry_run:
        checked = await entries.check(endpoint, entry)
    else:
        store = entries.put if new is None else entries.add
        checked = await store(endpoint, entry, call.actor)
    return _entry_body(call.services, checked)


@calls.delete(
    "Delete an entry of the database. One of the file, or a built-in one, is then in force",
    Special(reply=RemovedModel, parameters=(FORCE,), errors=(400,)),
)
async def delete(call: Call, endpoint: str) -> RemovedModel:
    """While the endpoint has queued or running requests, this needs ``?force=true``: running ones
    end as usual, and queued ones fail when a replica would take them, unless the endpoint still
    exists."""
    force = call.flag("force")
    unfinished = await call.services.entries.remove(endpoint, call.actor, force=force)
    entry = call.services.catalog.find(endpoint)
    now = None if entry is None else entry.origin.value
    return RemovedModel(endpoint_id=endpoint, unfinished=unfinished, now=now)


class StoredCode(TypedDict):
    """Code of an app."""

    digest: Annotated[str, Field(description="SHA-256; the option `app.bundle` of entries.")]
    bytes: int


async def store_code(request: HttpRequest) -> Response:
    """Store the code of an app: a zip file. Entries with the family `python` name it by its digest.

    Code that no entry names is removed after a day.
    """
    context_of(request).route = "v1.apps.code"
    await authenticate(request)
    content = await read_body(request, MAX_CODE_BYTES)
    if not content.startswith(ZIP) or not zipfile.is_zipfile(io.BytesIO(content)):
        raise InvalidInput("The body must be a zip file with the code of an app.")
    digest = await services_of(request).bundles.store(content, actor_of(request))
    body: StoredCode = {"digest": digest, "bytes": len(content)}
    return json_reply(body)


CODE = Operation(
    "storeAppCode",
    "Store the code of an app, for entries to name. Needs the scope `operator`",
    {200: answer("Its digest.", StoredCode)},
    errors=(403, 413, 422),
    content={"application/zip": Binary},
)

ROUTES = [DocumentedRoute("/v1/apps/code", store_code, {"POST": CODE}, OPERATOR), *calls.routes]


def _entry_body(services: Services, entry: CatalogEntry) -> WrittenEntry:
    return {
        "endpoint_id": entry.endpoint.id,
        "origin": entry.origin.value,
        "replaces": [replaced.value for replaced in entry.replaces],
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
