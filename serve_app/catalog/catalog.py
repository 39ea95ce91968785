"""Catalogue of the endpoints that this installation serves."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from serve_app.catalog import suggestions
from serve_app.catalog.limits import RecipeMemory
from serve_app.catalog.schema.registry import SCHEMAS, InputSchema
from serve_app.catalog.source import EndpointSource, RecipeSource, SourceFile
from serve_app.domain.endpoint import Endpoint, Recipe, Weights, WorkLimit
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
"""First path segments that are reserved for Darkroom's own HTTP routes."""

DEMO_MARK = "model_index.json"
"""File in every folder of demo weights, because they are diffusers pipelines."""

STEPS = "num_inference_steps"

RESERVED_SEGMENTS = frozenset({"requests"})
"""Segments that would be read as the start of a request's URL."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """Endpoint with its input schema."""

    endpoint: Endpoint
    schema: InputSchema
    missing: str = ""  # why it is not served, as a sentence; empty: it is served
    cache: bool = False  # True: requests with the same input and seed share an outcome

    @property
    def demo(self) -> bool:
        return self.endpoint.weights.demo


@dataclass(frozen=True, slots=True)
class ValidInput:
    """Validated input with its defaults, and warnings for its sender."""

    input: dict[str, Any]
    warnings: tuple[str, ...]


class Catalog:
    """Endpoints by id. Created by ``load``."""

    def __init__(self, entries: Mapping[str, CatalogEntry], fal_ids: Container[str] = ()) -> None:
        """``fal_ids``: the ids of fal's endpoints; most are not in this catalogue."""
        self._entries = dict(entries)
        self._fal_ids = fal_ids

    def become(self, other: Catalog) -> None:
        """Take the entries of ``other``. All that hold this catalogue see them."""
        self._entries, self._fal_ids = other._entries, other._fal_ids

    def __iter__(self) -> Iterator[CatalogEntry]:
        """All listed entries, served or not."""
        return iter(self._entries.values())

    def find(self, endpoint_id: str) -> CatalogEntry | None:
        """A listed entry, served or not. None if it is not listed."""
        return self._entries.get(endpoint_id)

    def listed(self, endpoint_id: str) -> CatalogEntry:
        """A listed entry, served or not. ``EndpointNotFound`` names the most similar ids."""
        entry = self._entries.get(endpoint_id)
        if entry is None:
            raise EndpointNotFound(
                suggestions.sentence(endpoint_id, list(self._entries), self._fal_ids)
            )
        return entry

    def get(self, endpoint_id: str) -> CatalogEntry:
        """An entry that is served. Raises ``EndpointNotFound``, or ``EndpointNotServed`` with the
        reason."""
        entry = self.listed(endpoint_id)
        if entry.missing:
            raise EndpointNotServed(f"{endpoint_id} is not served here. {entry.missing}")
        return entry

    def validate(self, endpoint_id: str, body: object) -> ValidInput:
        """Validate an input. ``InvalidInput`` names every invalid field; unknown fields become
        warnings."""
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
    """Load the catalogue from ``path``, or the built-in one.

    With ``demo``, entries that name a demo model use it, from ``demo_dir`` (absolute). ``families``
    are those that some pool hosts; None: all. An entry without its family, its demo model or the
    revision of its weights is listed but not served. Every error is ``Misconfigured`` and names
    file and line.
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
                missing = _no_family(given)  # fixing another reason would not help without it
            schema = _schema(endpoint)
            _check_arguments(endpoint, schema)
            entries[endpoint_id] = CatalogEntry(endpoint, schema, missing, given.cache)
        except ValueError as error:
            raise file.error_at(("endpoints", endpoint_id), str(error)) from error
    if not entries:
        raise Misconfigured(f"The catalogue {path or BUILT_IN} has no endpoints: add one.")
    return Catalog(entries, suggestions.read_fal_ids())


def _check_id(endpoint_id: str) -> None:
    owner, *rest = endpoint_id.split("/")
    if owner in RESERVED_OWNERS:
        raise ValueError(f"`{owner}/` is reserved for Darkroom's own paths; choose another owner")
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
        recipes=tuple(_recipe(given, each) for each in given.recipes),
    )


def _recipe(given: EndpointSource, recipe: RecipeSource) -> Recipe:
    """Recipe with its largest work: the one that the file states, or what its memory allows."""
    largest: WorkLimit | None = None
    if recipe.largest is not None:
        largest = WorkLimit(**dict(recipe.largest))
    elif given.memory is not None:
        dtypes = {**(given.options.get("dtypes") or {}), **recipe.dtypes}
        memory = RecipeMemory(
            given.memory,
            memory_gb=recipe.memory_gb,
            precision=recipe.precision,
            offload=recipe.offload,
            hot=recipe.hot,
            float32=frozenset(name for name, dtype in dtypes.items() if dtype == "float32"),
        )
        largest = memory.limit(always_tiled=bool(given.options.get("tiling")))
    fields: dict[str, Any] = dict(recipe) | {"largest": largest}
    return Recipe(**fields)


def _demo(endpoint_id: str, given: EndpointSource, demo_dir: Path) -> Endpoint:
    """Endpoint with its demo model, which fits every device and so has no recipes."""
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
        "DARKROOM_POOLS. A family that is not built into Darkroom is your own code, named in "
        "DARKROOM_FAMILIES (docs/how-to/write-a-family.md)."
    )


def _no_demo(given: EndpointSource, endpoint: Endpoint) -> str:
    real = "DARKROOM_DEMO=false serves the real one, which needs a GPU."
    if given.demo is not None:
        if (Path(endpoint.weights.source) / DEMO_MARK).is_file():
            return ""
        return f"Its demo weights `{given.demo.weights}` are not part of this Darkroom. {real}"
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
    """Raise if a mapped field is not in the schema, or a fixed one is: it would be ignored without
    a message."""
    arguments = endpoint.options.get("arguments")
    fields = schema.json_schema().get("properties")
    fixed = endpoint.options.get("fixed")
    if isinstance(fixed, Mapping) and STEPS in fixed and STEPS in (fields or ()):
        raise ValueError(
            f"`options.fixed` has {STEPS}, which requests choose by the schema {endpoint.schema}"
        )
    if isinstance(arguments, Mapping) and fields:
        unknown = sorted(
            str(name) for name in cast("Mapping[Any, Any]", arguments) if name not in fields
        )
        if unknown:
            raise ValueError(
                f"`options.arguments` names {', '.join(unknown)}, which the schema "
                f"{endpoint.schema} does not have"
            )
