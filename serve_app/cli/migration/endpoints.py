"""What a Darkroom offers to those who come: its endpoints, with the schemas of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serve_app.catalog import catalog, stranger
from serve_app.cli.client import Client, Reached
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config

PAGE = 100  # models in an answer
DEFINITIONS = ("$defs", "components")


@dataclass(frozen=True, slots=True)
class Named:
    """A Darkroom that the user named by its address."""

    address: str
    secret: str

    def url(self) -> str:
        return self.address.rstrip("/")

    def key(self) -> str:
        return self.secret


@dataclass(frozen=True, slots=True)
class Offered:
    """An endpoint. ``schema`` is of its input, as JSON Schema; references in it lead into
    ``document``."""

    endpoint: str
    missing: str  # what it lacks to be served, as a sentence; empty: it is served
    schema: Mapping[str, Any]
    document: Mapping[str, Any]

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """What ``schema`` refers to, or itself."""
        if len(alone := schema.get("allOf", ())) == 1:  # 3.0 has no other place beside a reference
            schema = alone[0]
        while isinstance(reference := schema.get("$ref"), str):
            found: Any = self.document
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema


class Offer:
    """Endpoints by id. ``where``: how reports call the Darkroom that has them."""

    def __init__(self, where: str, offered: Iterable[Offered]) -> None:
        self.where = where
        self._offered = {each.endpoint: each for each in offered}
        self._fal_ids = stranger.read_fal_ids()

    def find(self, endpoint_id: str) -> Offered | None:
        return self._offered.get(endpoint_id)

    def stranger(self, endpoint_id: str) -> str:
        """Why there is no such endpoint, and what is nearest."""
        return stranger.sentence(endpoint_id, list(self._offered), self._fal_ids)


def of_catalogue(config: Config) -> Offer:
    """The catalogue that an installation with these settings would have, with real weights."""
    listed = catalog.load(config.models, demo=False, demo_dir=Path("/"))
    schemas = ((each, each.schema.json_schema()) for each in listed)
    offered = [
        Offered(each.endpoint.id, each.missing, schema, _definitions(schema))
        for each, schema in schemas
    ]
    return Offer(str(config.models or "the catalogue that comes with Darkroom"), offered)


def of_running(reached: Reached) -> Offer:
    """What a running Darkroom says of itself. ``Misconfigured``: something else answers."""
    try:
        return Offer(reached.url(), _all(reached))
    except (LookupError, TypeError, ValueError, httpx.InvalidURL):
        raise Misconfigured(f"What answers at {reached.url()} is no Darkroom.") from None


def _all(reached: Reached) -> list[Offered]:
    offered: list[Offered] = []
    cursor: str | None = None
    more = True
    with Client(reached) as client:
        while more:
            page = client.get("/v1/models", limit=PAGE, cursor=cursor, expand="openapi-3.0")
            offered += [_told(each) for each in page["models"]]
            more, cursor = page["has_more"], page["next_cursor"]
    return offered


def _told(model: Mapping[str, Any]) -> Offered:
    document: Mapping[str, Any] = model["openapi"]
    endpoint: str = model["endpoint_id"]
    body = document["paths"][f"/{endpoint}"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    ours = model["darkroom"]
    missing = "" if ours["served"] else ours["reason"]
    offered = Offered(endpoint, missing, schema, _definitions(document))
    return Offered(endpoint, missing, offered.resolved(schema), offered.document)


def _definitions(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: document[name] for name in DEFINITIONS if name in document}
