"""The endpoints that this installation serves."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from serve_app.catalog.schema import SCHEMAS, InputSchema
from serve_app.catalog.source import EndpointSource, SourceFile
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import EndpointNotFound, InvalidInput, Misconfigured

BUILT_IN = Path(__file__).with_name("models.yaml")

RESERVED_OWNERS = frozenset(
    {
        ".well-known",
        "cdn",
        "docs",
        "fal",
        "files",
        "healthz",
        "mcp",
        "metrics",
        "openai",
        "openapi.json",
        "page",
        "queue",
        "readyz",
        "replicate",
        "rest",
        "run",
        "v1",
    }
)
"""First segments that the HTTP side keeps for itself."""

RESERVED_SEGMENTS = frozenset({"requests"})
"""Would be read as the start of a request's URL."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """An endpoint with the checker of its inputs."""

    endpoint: Endpoint
    schema: InputSchema

    @property
    def demo(self) -> bool:
        return self.endpoint.weights.demo


@dataclass(frozen=True, slots=True)
class ValidInput:
    """A checked input with its defaults, and what its sender should know."""

    input: dict[str, Any]
    warnings: tuple[str, ...]


class Catalog:
    """Endpoints by id; made by ``load``."""

    def __init__(self, entries: Mapping[str, CatalogEntry]) -> None:
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries.values())

    def find(self, endpoint_id: str) -> CatalogEntry | None:
        return self._entries.get(endpoint_id)

    def get(self, endpoint_id: str) -> CatalogEntry:
        """``EndpointNotFound`` names the ids that are nearest."""
        entry = self._entries.get(endpoint_id)
        if entry is None:
            raise EndpointNotFound(self._not_found(endpoint_id))
        return entry

    def validate(self, endpoint_id: str, body: object) -> ValidInput:
        """``InvalidInput`` names every field at fault; unknown fields become warnings."""
        entry = self.get(endpoint_id)
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object with the input's fields.")
        checked, warnings = entry.schema.validate(cast("dict[str, Any]", body))
        if entry.demo:
            real = entry.endpoint.display_name or endpoint_id
            warnings = (f"This is Darkroom's tiny demo model, not the real {real}.", *warnings)
        return ValidInput(checked, warnings)

    def families(self) -> frozenset[str]:
        return frozenset(entry.endpoint.family for entry in self)

    def _not_found(self, endpoint_id: str) -> str:
        near = difflib.get_close_matches(endpoint_id[:200], self._entries, n=3, cutoff=0.5)
        if near:
            return f"There is no endpoint `{endpoint_id[:200]}`. Did you mean {', '.join(near)}?"
        return (
            f"There is no endpoint `{endpoint_id[:200]}`. "
            f"This installation serves {', '.join(sorted(self._entries)) or 'none'}."
        )


def load(path: Path | None, *, demo: bool, demo_dir: Path) -> Catalog:
    """The catalogue of ``path``, or the one that comes with Darkroom.

    With ``demo``, entries that have a demo model use it, from ``demo_dir`` (absolute); the others
    keep their own weights. Every complaint is ``Misconfigured`` and names file and line.
    """
    file = SourceFile(path or BUILT_IN)
    source = file.read()
    entries: dict[str, CatalogEntry] = {}
    for endpoint_id, given in source.endpoints.items():
        try:
            _check_id(endpoint_id)
            endpoint = _endpoint(endpoint_id, given, demo=demo, demo_dir=demo_dir)
            entries[endpoint_id] = _entry(endpoint)
        except ValueError as error:
            raise file.complaint(("endpoints", endpoint_id), str(error)) from error
    if not entries:
        raise Misconfigured(f"The catalogue {path or BUILT_IN} lists no endpoint: add one.")
    return Catalog(entries)


def _check_id(endpoint_id: str) -> None:
    owner, *rest = endpoint_id.split("/")
    if owner in RESERVED_OWNERS:
        raise ValueError(f"`{owner}/` is a path of Darkroom's own; choose another owner")
    if RESERVED_SEGMENTS.intersection(rest):
        raise ValueError("`requests` cannot be part of an id: it begins a request's URL")


def _endpoint(endpoint_id: str, given: EndpointSource, *, demo: bool, demo_dir: Path) -> Endpoint:
    endpoint = Endpoint(
        id=endpoint_id,
        family=given.family,
        weights=_weights(given),
        schema=given.input_schema,
        defaults=given.defaults,
        bounds=given.bounds,
        options=given.options,
        display_name=given.display_name,
        description=given.description,
        category=given.category,
        licence=given.licence,
    )
    if not demo or given.demo is None:
        return endpoint
    return replace(
        endpoint,
        weights=Weights(source=str(demo_dir / given.demo.weights), demo=True),
        options={**given.options, **given.demo.options},
    )


def _weights(given: EndpointSource) -> Weights:
    if given.weights is None:
        return Weights(source="")
    if given.weights.hub is not None:
        return Weights(source=given.weights.hub, revision=given.weights.revision)
    return Weights(source=str(given.weights.directory))


def _entry(endpoint: Endpoint) -> CatalogEntry:
    build = SCHEMAS.get(endpoint.schema)
    if build is None:
        raise ValueError(f"there is no schema `{endpoint.schema}`; known are {', '.join(SCHEMAS)}")
    return CatalogEntry(endpoint, build(endpoint))
