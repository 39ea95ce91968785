"""Endpoints that a Darkroom serves, with the schemas of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from serve_app.catalog import catalog, suggestions
from serve_app.catalog.fal_types import fal_ids
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config

PAGE = 100  # models per response
DEFINITIONS = ("$defs", "components")


@dataclass(frozen=True, slots=True)
class AvailableEndpoint:
    """Endpoint. ``schema`` is the JSON Schema of its input; its references point into
    ``document``."""

    endpoint: str
    category: str  # such as text-to-image
    missing: str  # sentence that says why it is not served; empty if it is served
    schema: Mapping[str, Any]
    document: Mapping[str, Any]

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Schema that ``schema`` refers to, or ``schema`` itself."""
        # OpenAPI 3.0 allows no keywords beside a reference, so the reference is wrapped in `allOf`.
        if len(alone := schema.get("allOf", ())) == 1:
            schema = alone[0]
        while isinstance(reference := schema.get("$ref"), str):
            node: Any = self.document
            for part in reference.removeprefix("#/").split("/"):
                node = node[part]
            schema = node
        return schema


class AvailableEndpoints:
    """Endpoints by id. ``where`` is the name of the Darkroom in reports."""

    def __init__(self, where: str, offered: Iterable[AvailableEndpoint]) -> None:
        self.where = where
        self._offered = {endpoint.endpoint: endpoint for endpoint in offered}
        self._fal_ids = fal_ids()

    def find(self, endpoint_id: str) -> AvailableEndpoint | None:
        return self._offered.get(endpoint_id)

    def not_found_message(self, endpoint_id: str) -> str:
        """Sentence that an endpoint does not exist, with ids of the same kind."""
        served = {
            endpoint.endpoint: endpoint.category
            for endpoint in self._offered.values()
            if not endpoint.missing
        }
        return suggestions.sentence(endpoint_id, served, self._fal_ids)


def from_catalogue(config: Config) -> AvailableEndpoints:
    """Catalogue of an installation with these settings and real weights."""
    listed = catalog.load(config.models.models, demo=False, demo_dir=Path("/"))
    schemas = ((entry, entry.schema.json_schema()) for entry in listed)
    offered = [
        AvailableEndpoint(
            entry.endpoint.id,
            entry.endpoint.category,
            entry.missing,
            schema,
            _definitions(schema),
        )
        for entry, schema in schemas
    ]
    return AvailableEndpoints(
        str(config.models.models or "the catalogue that comes with Darkroom"), offered
    )


def from_server(reached: Server) -> AvailableEndpoints:
    """Endpoints of a running Darkroom. Raises ``Misconfigured`` if another program answers."""
    try:
        return AvailableEndpoints(reached.url(), _all(reached))
    except (LookupError, TypeError, ValueError, httpx2.InvalidURL):
        raise Misconfigured(
            f"The server at {reached.url()} is not a Darkroom. Check the address."
        ) from None


def _all(reached: Server) -> list[AvailableEndpoint]:
    offered: list[AvailableEndpoint] = []
    cursor: str | None = None
    more = True
    with Client(reached) as client:
        while more:
            page = client.get("/v1/models", limit=PAGE, cursor=cursor, expand="openapi-3.0")
            offered += [_endpoint_of(model) for model in page["models"]]
            more, cursor = page["has_more"], page["next_cursor"]
    return offered


def _endpoint_of(model: Mapping[str, Any]) -> AvailableEndpoint:
    document: Mapping[str, Any] = model["openapi"]
    endpoint: str = model["endpoint_id"]
    body = document["paths"][f"/{endpoint}"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    ours = model["darkroom"]
    missing = "" if ours["served"] else ours["reason"]
    category: str = model["metadata"]["category"]
    offered = AvailableEndpoint(endpoint, category, missing, schema, _definitions(document))
    return replace(offered, schema=offered.resolve(schema))


def _definitions(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: document[name] for name in DEFINITIONS if name in document}
