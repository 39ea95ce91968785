"""The OpenAPI documents: of the whole installation, and of one endpoint as fal publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.ingress.fal.paths import app_of
from serve_app.ingress.openapi import endpoints, own
from serve_app.ingress.openapi.parts import SECURITY, SHARED, VERSION, Json

API_VERSION = "1"
PATH = "/api/openapi/queue/openapi.json"
"""Where fal has the document of an endpoint."""


def whole(catalog: Catalog, origin: str) -> Json:
    """Every call of this installation. An endpoint that is listed without being served is described
    with the reason, under ``x-darkroom-not-served``."""
    entries = list(catalog)
    paths: Json = own.paths()
    schemas: Json = {**SHARED, **own.SCHEMAS}
    for entry in entries:
        schemas |= endpoints.schemas(entry)
        paths |= endpoints.submit(entry, f"/queue/{entry.endpoint.id}")
        paths |= endpoints.run(entry, f"/run/{entry.endpoint.id}")
        paths |= endpoints.run(entry, f"/{entry.endpoint.id}")
        paths |= endpoints.streamed(entry, f"/run/{entry.endpoint.id}/stream")
    for app, outputs in endpoints.outputs_by_app(entries).items():
        paths |= endpoints.about_requests(app, "/queue", outputs)
    info = {
        "title": "Darkroom",
        "version": API_VERSION,
        "description": (
            "Everything that this installation answers. The calls about a request, under /queue, "
            "also work under /run and under no prefix."
        ),
    }
    return _document(info, origin, paths, schemas)


def of_endpoint(entry: CatalogEntry, origin: str) -> Json:
    """The queue's calls of one endpoint; the server is the queue."""
    endpoint = entry.endpoint
    app, name = app_of(endpoint.id), endpoints.pascal(endpoint.id)
    paths = {
        **endpoints.submit(entry, f"/{endpoint.id}"),
        **endpoints.about_requests(app, "", [f"{name}Output"]),
    }
    info = {
        "title": f"Queue OpenAPI for {endpoint.id}",
        "version": API_VERSION,
        "description": endpoint.description,
        "x-fal-metadata": {
            "endpointId": endpoint.id,
            "category": endpoint.category,
            "playgroundUrl": f"{origin}/#model={endpoint.id}",
            "documentationUrl": f"{origin}{PATH}?endpoint_id={endpoint.id}",
        },
    }
    return _document(info, f"{origin}/queue", paths, {**SHARED, **endpoints.schemas(entry)})


def _document(
    info: Mapping[str, Any], server: str, paths: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Json:
    return {
        "openapi": VERSION,
        "info": dict(info),
        "servers": [{"url": server}],
        "paths": dict(paths),
        "components": {"schemas": dict(schemas), "securitySchemes": SECURITY},
    }
