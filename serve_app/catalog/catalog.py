"""The endpoints that this installation serves."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from serve_app.catalog import stranger
from serve_app.catalog.schema import SCHEMAS, InputSchema
from serve_app.catalog.source import EndpointSource, SourceFile
from serve_app.domain.endpoint import Endpoint, Recipe, Weights
from serve_app.domain.errors import (
    EndpointNotFound,
    EndpointNotServed,
    InvalidInput,
    Misconfigured,
)

BUILT_IN = Path(__file__).with_name("models.yaml")

RESERVED_OWNERS = frozenset(
    {
        ".well-known",
        "api",
        "cdn",
        "docs",
        "fal",
        "files",
        "healthz",
        "llms.txt",
        "mcp",
        "metrics",
        "models",
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

DEMO_MARK = "model_index.json"
"""What a folder of demo weights has: they are a diffusers pipeline."""

RESERVED_SEGMENTS = frozenset({"requests"})
"""Would be read as the start of a request's URL."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """An endpoint with the checker of its inputs."""

    endpoint: Endpoint
    schema: InputSchema
    missing: str = ""  # what it lacks to be served, as a sentence; empty: it is served
    cache: bool = False  # whether requests with the same input and seed share an outcome

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

    def __init__(self, entries: Mapping[str, CatalogEntry], fal_ids: Container[str] = ()) -> None:
        """``fal_ids`` are those of fal's endpoints, of which most are not here."""
        self._entries = dict(entries)
        self._fal_ids = fal_ids

    def __iter__(self) -> Iterator[CatalogEntry]:
        """All that are listed, served or not."""
        return iter(self._entries.values())

    def find(self, endpoint_id: str) -> CatalogEntry | None:
        """Listed, served or not."""
        return self._entries.get(endpoint_id)

    def listed(self, endpoint_id: str) -> CatalogEntry:
        """Served or not; ``EndpointNotFound`` names the ids that are nearest."""
        entry = self._entries.get(endpoint_id)
        if entry is None:
            raise EndpointNotFound(
                stranger.sentence(endpoint_id, list(self._entries), self._fal_ids)
            )
        return entry

    def get(self, endpoint_id: str) -> CatalogEntry:
        """One that is served; ``EndpointNotFound`` as above, ``EndpointNotServed`` tells why."""
        entry = self.listed(endpoint_id)
        if entry.missing:
            raise EndpointNotServed(f"{endpoint_id} is not served here. {entry.missing}")
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


def load(
    path: Path | None, *, demo: bool, demo_dir: Path, families: Container[str] | None = None
) -> Catalog:
    """The catalogue of ``path``, or the one that comes with Darkroom.

    With ``demo``, entries that name a demo model use it, from ``demo_dir`` (absolute). ``families``
    are those that some pool hosts; None: all. An entry that lacks its family, its demo model or the
    revision of its weights is listed without being served. Every complaint is ``Misconfigured`` and
    names file and line.
    """
    file = SourceFile(path or BUILT_IN)
    source = file.read()
    entries: dict[str, CatalogEntry] = {}
    for endpoint_id, given in source.endpoints.items():
        try:
            _check_id(endpoint_id)
            endpoint = _demo(endpoint_id, given, demo_dir) if demo else _real(endpoint_id, given)
            missing = _no_demo(given, endpoint) if demo else _no_revision(given)
            if families is not None and given.family not in families:
                missing = _no_family(given)  # without it the other reasons are no way out
            schema = _schema(endpoint)
            _check_arguments(endpoint, schema)
            entries[endpoint_id] = CatalogEntry(endpoint, schema, missing, given.cache)
        except ValueError as error:
            raise file.complaint(("endpoints", endpoint_id), str(error)) from error
    if not entries:
        raise Misconfigured(f"The catalogue {path or BUILT_IN} lists no endpoint: add one.")
    return Catalog(entries, stranger.read_fal_ids())


def _check_id(endpoint_id: str) -> None:
    owner, *rest = endpoint_id.split("/")
    if owner in RESERVED_OWNERS:
        raise ValueError(f"`{owner}/` is a path of Darkroom's own; choose another owner")
    if RESERVED_SEGMENTS.intersection(rest):
        raise ValueError("`requests` cannot be part of an id: it begins a request's URL")


def _real(endpoint_id: str, given: EndpointSource) -> Endpoint:
    return Endpoint(
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
        recipes=tuple(Recipe(**dict(each)) for each in given.recipes),
    )


def _demo(endpoint_id: str, given: EndpointSource, demo_dir: Path) -> Endpoint:
    """The demo model is small enough for every device, so it has no recipes."""
    endpoint = _real(endpoint_id, given)
    if given.demo is None:
        return endpoint
    return replace(
        endpoint,
        weights=Weights(source=str(demo_dir / given.demo.weights), demo=True),
        defaults={**given.defaults, **given.demo.defaults},
        options={**given.options, **given.demo.options},
        recipes=(),
    )


def _weights(given: EndpointSource) -> Weights:
    if given.weights is None:
        return Weights(source="")
    if given.weights.hub is not None:
        return Weights(given.weights.hub, given.weights.revision, variant=given.weights.variant)
    return Weights(str(given.weights.directory), variant=given.weights.variant)


def _no_family(given: EndpointSource) -> str:
    return (
        f"No pool of this installation hosts its family `{given.family}`: add it to one in "
        "DARKROOM_POOLS. A family that does not come with Darkroom is code of your own, named in "
        "DARKROOM_FAMILIES (docs/04-replicas.md)."
    )


def _no_demo(given: EndpointSource, endpoint: Endpoint) -> str:
    real = "DARKROOM_DEMO=false serves the real one, which wants a GPU."
    if given.demo is not None:
        if (Path(endpoint.weights.source) / DEMO_MARK).is_file():
            return ""
        return f"Its demo weights `{given.demo.weights}` do not come with this Darkroom. {real}"
    if given.weights is not None and given.weights.hub is not None:
        return f"It has no demo model, and this installation serves demo models. {real}"
    return ""


def _no_revision(given: EndpointSource) -> str:
    weights = given.weights
    if weights is None or weights.hub is None or weights.revision is not None:
        return ""
    return (
        f"Its weights {weights.hub} are not pinned: set `weights.revision` to a commit of that "
        "repository (40 hex digits) in a catalogue of your own (DARKROOM_MODELS)."
    )


def _schema(endpoint: Endpoint) -> InputSchema:
    build = SCHEMAS.get(endpoint.schema)
    if build is None:
        raise ValueError(f"there is no schema `{endpoint.schema}`; known are {', '.join(SCHEMAS)}")
    return build(endpoint)


def _check_arguments(endpoint: Endpoint, schema: InputSchema) -> None:
    """A field that no input has would be left out without a word. The schema `open` has none."""
    arguments = endpoint.options.get("arguments")
    fields = schema.json_schema().get("properties")
    if isinstance(arguments, Mapping) and fields:
        unknown = sorted(
            str(name) for name in cast("Mapping[Any, Any]", arguments) if name not in fields
        )
        if unknown:
            raise ValueError(
                f"`options.arguments` names {', '.join(unknown)}, which the schema "
                f"{endpoint.schema} does not have"
            )
