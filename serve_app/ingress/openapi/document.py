"""OpenAPI documents of the whole installation, and of one endpoint as fal publishes it.

Routes and the protocol's calls of each endpoint are handed in, so this package imports no protocol.

Generators such as FastAPI's and spectree's describe handlers when they are defined. Here most
paths, inputs and outputs are those of the catalogue, which changes while the process runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.realtime import AppSessionRules
from serve_app.ingress.http.json_schema import Json, components
from serve_app.ingress.http.openapi import (
    SECURITY,
    VERSION,
    DocumentedRoute,
    Operation,
    Operations,
    Renderer,
    pascal,
)
from serve_app.ingress.http.paths import app_of

API_VERSION = "1"
PATH = "/api/openapi/queue/openapi.json"
"""Path of an endpoint's document, as at fal."""


class EndpointCalls(Protocol):
    """Calls whose paths begin with ids of the catalog."""

    def calls_of_endpoint(self, entry: CatalogEntry) -> Operations:
        """All calls that run an endpoint."""
        ...

    def submit_of_endpoint(self, entry: CatalogEntry, prefix: str) -> Operations:
        """Submit to the queue, which is below ``prefix``."""
        ...

    def calls_about_requests(self, app: str, prefix: str, outputs: list[str]) -> Operations:
        """Calls about requests of ``app``. ``outputs``: components of the possible outputs."""
        ...


class ApiDocument:
    """OpenAPI documents of an application. Building one takes tens of milliseconds, so do it in a
    thread."""

    def __init__(self, routes: Iterable[BaseRoute], endpoint_calls: EndpointCalls) -> None:
        self._routes = tuple(routes)
        self._endpoint_calls = endpoint_calls

    def of_installation(self, catalog: Catalog, origin: str) -> Json:
        """Document of every call of this installation.

        An endpoint that is listed but not served has the reason in ``x-darkroom-not-served``.
        """
        info = {
            "title": "Darkroom",
            "version": API_VERSION,
            "description": (
                "All calls of this installation. The calls about a request, under /queue, also "
                "work under /run and without a prefix. Any call can also answer 400 (untrusted "
                "host), 408 (a body that arrives too slowly), 500 (a defect) and 503 (a service "
                "that Darkroom depends on does not answer)."
            ),
        }
        renderer, entries = Renderer(), list(catalog)
        paths = renderer.paths(self._own_calls())
        for entry in entries:
            renderer.components |= _schemas(entry)
            if entry.endpoint.takes_requests:
                paths |= renderer.paths(self._endpoint_calls.calls_of_endpoint(entry))
            paths |= _sessions(entry, paths)
        for app, outputs in _outputs_by_app(entries).items():
            calls = self._endpoint_calls.calls_about_requests(app, "/queue", outputs)
            paths |= renderer.paths(calls)
        return _document(info, origin, paths, renderer.components)

    def of_endpoint(self, entry: CatalogEntry, origin: str) -> Json:
        """Document of one endpoint's calls at the queue, which is the document's server."""
        endpoint, renderer = entry.endpoint, Renderer()
        renderer.components |= _schemas(entry)
        outputs = [f"{pascal(endpoint.id)}Output"]
        calls = self._endpoint_calls
        about = calls.calls_about_requests(app_of(endpoint.id), "", outputs)
        submit = calls.submit_of_endpoint(entry, "") if endpoint.takes_requests else {}
        paths = renderer.paths({**submit, **about})
        paths |= _sessions(entry, paths)
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
        return _document(info, f"{origin}/queue", paths, renderer.components)

    def _own_calls(self) -> Operations:
        """Calls of all routes that are documented."""
        operations: dict[str, dict[str, Operation]] = {}
        for route in self._routes:
            if isinstance(route, DocumentedRoute):
                path = re.sub(r":\w+}", "}", route.path)
                operations.setdefault(path, {}).update(route.operations)
        return operations


def document_of(request: HTTPConnection) -> ApiDocument:
    return cast("ApiDocument", request.app.state.document)


def _schemas(entry: CatalogEntry) -> Json:
    """Schemas of an endpoint's input and output. Their names begin with the endpoint's id."""
    name = pascal(entry.endpoint.id)
    return {
        **components(f"{name}Input", entry.schema.json_schema()),
        **components(f"{name}Output", entry.schema.output_schema()),
    }


def _sessions(entry: CatalogEntry, paths: Mapping[str, Any]) -> Json:
    """Path of the sessions of an endpoint's app, described as fal does. OpenAPI knows no
    WebSockets."""
    rules = AppSessionRules.of(entry.endpoint)
    if rules is None:
        return {}
    path, name = f"/{entry.endpoint.id}", pascal(entry.endpoint.id)
    protocol = {
        "type": "realtime" if rules.is_realtime else "websocket",
        **({"contentType": rules.content_type} if rules.content_type else {}),
        **({"realtimeMode": rules.mode} if rules.is_realtime else {}),
        "config": {"buffering": rules.buffering, "maxBatchSize": rules.max_batch_size},
        "x-darkroom-input": {"$ref": f"#/components/schemas/{name}Input"},
        "x-darkroom-output": {"$ref": f"#/components/schemas/{name}Output"},
    }
    return {path: {**paths.get(path, {}), "x-fal-protocol": protocol}}


def _outputs_by_app(entries: list[CatalogEntry]) -> dict[str, list[str]]:
    """Components of outputs by ``owner/alias``, whose endpoints share the paths of requests."""
    outputs: dict[str, list[str]] = {}
    for entry in entries:
        endpoint_id = entry.endpoint.id
        outputs.setdefault(app_of(endpoint_id), []).append(f"{pascal(endpoint_id)}Output")
    return outputs


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
