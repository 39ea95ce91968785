"""Entries of the catalogue in force, built from entries as they are written."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from serve_app.catalog.limits import RecipeMemory
from serve_app.catalog.schema.registry import SCHEMAS, InputSchema
from serve_app.catalog.source import EndpointSource, ExampleSource, RecipeSource
from serve_app.domain.endpoint import Endpoint, Recipe, Weights, WeightsPart, WorkLimit
from serve_app.domain.errors import InvalidInput
from serve_app.domain.executors.hosted import EVERY
from serve_app.domain.executors.secrets import OPTION, name_problem, named_by
from serve_app.options.hosted import HostedEndpoint
from serve_app.options.inputs import DECLARED, STEPS
from serve_app.options.inputs import OPTION as INPUTS

RESERVED_OWNERS = frozenset(
    {
        ".well-known",
        "api",
        "cdn",
        "comfyui",
        "docs",
        "fal",
        "favicon.ico",
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
        "workflows",
    }
)
"""First path segments that are reserved for Darkroom's own HTTP routes, and for workflows."""

DEMO_MARK = "model_index.json"
"""File in every folder of demo weights, because they are diffusers pipelines."""

RESERVED_SEGMENTS = frozenset({"requests"})
"""Segments that would be read as the start of a request's URL."""


class EntryOrigin(StrEnum):
    """Place that an entry comes from. A later one replaces an entry of an earlier one."""

    BUILT_IN = "built-in"
    FILE = "file"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """Endpoint with its input schema."""

    endpoint: Endpoint
    schema: InputSchema
    source: EndpointSource  # the entry as it is written
    missing: str = ""  # why it is not served, as a sentence; empty: it is served
    cache: bool = False  # True: requests with the same input and seed share an outcome
    pool: str = ""  # name of the pool that runs it; empty: the first one with its family
    origin: EntryOrigin = EntryOrigin.BUILT_IN
    replaces: tuple[EntryOrigin, ...] = ()  # other places that have an entry of this id
    # of a private endpoint:
    tenant: str = ""  # only its requests may use it; empty: all
    base: str = ""  # public endpoint that it is like
    repository: str = ""  # of the hub, that its weights come from
    digests: tuple[str, ...] = ()  # SHA-256 of its own files

    @property
    def demo(self) -> bool:
        return self.endpoint.weights.demo

    @property
    def examples(self) -> tuple[ExampleSource, ...]:
        """Examples of the model that is served: the demo model's own, where it stands in."""
        if self.demo and self.source.demo is not None:
            return self.source.demo.examples
        return self.source.examples

    @property
    def about_demo(self) -> str:
        """What the demo model can make. Empty for other models."""
        return self.source.demo.about if self.demo and self.source.demo is not None else ""

    @property
    def demo_words(self) -> Mapping[str, Sequence[str]]:
        """Words that the demo model knows, by group. Empty for other models."""
        by_group = self.source.demo.words if self.demo and self.source.demo is not None else {}
        return {group: words.split() for group, words in by_group.items()}


Pools = Mapping[str, Container[str]]
"""Name of a pool → families that it hosts. Pools that take the overflow of others have no queue."""


@dataclass(frozen=True, slots=True)
class EntryBuilder:
    """Builds entries for one installation. With ``demo``, entries that name a demo model use it,
    from ``demo_dir`` (absolute), and others are served by their own weights if those run on a CPU.
    ``families`` are those that some pool hosts; None: all.
    ``pools`` are all pools with a queue; None: entries may name any.
    ``gpu_problem``: function from an endpoint, and the pool that its entry names, to the reason why
    the pool's GPUs do not do; empty if they do.
    """

    demo: bool
    demo_dir: Path
    families: Container[str] | None = None
    pools: Pools | None = None
    gpu_problem: Callable[[Endpoint, str], str] = lambda *_: ""

    def build(self, endpoint_id: str, source: EndpointSource) -> CatalogEntry:
        """Entry of ``endpoint_id``. An entry without its family, its pool, its demo model or the
        revision of its weights is listed but not served. ``ValueError`` if it is not valid."""
        _check_id(endpoint_id)
        demo = self.demo
        endpoint = _demo(endpoint_id, source, self.demo_dir) if demo else _real(endpoint_id, source)
        stands_in = demo and not source.runs_on_cpu
        missing = _no_demo(source, endpoint) if stands_in else _no_revision(source)
        if self.families is not None and source.family not in self.families:
            missing = _no_family(source)  # fixing another reason would not help without it
        elif self.pools is not None and source.pool is not None:
            missing = _no_pool(source.pool, source.family, self.pools) or missing
        missing = missing or self.gpu_problem(endpoint, source.pool or "")
        schema = _schema(endpoint)
        _check_arguments(endpoint, schema)
        _check_secrets(endpoint)
        if endpoint.executor.is_hosted or endpoint_id.endswith(f"/{EVERY}"):
            HostedEndpoint.of(endpoint)
        entry = CatalogEntry(endpoint, schema, source, missing, source.cache, source.pool or "")
        _check_examples(entry)
        return entry


def unknown_pool(name: str, pools: Pools) -> str:
    """Why an entry cannot name this pool, which goes on after "pool"; empty if it can."""
    if name in pools:
        return ""
    return (
        f"`{name}` does not exist, or takes the overflow of another one. Pools that entries may "
        f"name are {', '.join(sorted(pools))}"
    )


def _no_pool(name: str, family: str, pools: Pools) -> str:
    if unknown := unknown_pool(name, pools):
        return f"Its pool {unknown}."
    if family not in pools[name]:
        return f"Its pool `{name}` does not host its family `{family}`."
    return ""


def _check_id(endpoint_id: str) -> None:
    owner, *rest = endpoint_id.split("/")
    if owner in RESERVED_OWNERS:
        raise ValueError(f"`{owner}/` is reserved for Darkroom's own paths; choose another owner")
    if RESERVED_SEGMENTS.intersection(rest):
        raise ValueError("`requests` cannot be part of an id: it begins a request's URL")


def real_endpoint(entry: CatalogEntry) -> Endpoint:
    """Endpoint with the entry's own weights and recipes, also where a demo model stands in."""
    return _real(entry.endpoint.id, entry.source) if entry.demo else entry.endpoint


def _real(endpoint_id: str, source: EndpointSource) -> Endpoint:
    return Endpoint(
        id=endpoint_id,
        family=source.family,
        weights=_weights(source),
        schema=source.input_schema,
        defaults=source.defaults,
        bounds=source.bounds,
        options=source.options,
        display_name=source.display_name,
        description=source.description,
        category=source.category,
        licence=source.licence,
        recipes=tuple(_recipe(source, recipe) for recipe in source.recipes),
    )


def _recipe(source: EndpointSource, recipe: RecipeSource) -> Recipe:
    """Recipe with its largest work: the one that the file states, or what its memory allows."""
    largest: WorkLimit | None = None
    if recipe.largest is not None:
        largest = WorkLimit(**dict(recipe.largest))
    elif source.memory is not None:
        dtypes = {**(source.options.get("dtypes") or {}), **recipe.dtypes}
        memory = RecipeMemory(
            source.memory,
            memory_gb=recipe.memory_gb,
            precision=recipe.precision,
            offload=recipe.offload,
            hot=recipe.hot,
            float32=frozenset(name for name, dtype in dtypes.items() if dtype == "float32"),
        )
        largest = memory.limit(always_tiled=bool(source.options.get("tiling")))
    fields: dict[str, Any] = dict(recipe) | {"largest": largest}
    return Recipe(**fields)


def _demo(endpoint_id: str, source: EndpointSource, demo_dir: Path) -> Endpoint:
    """Endpoint with its demo model, which fits every device and so has no recipes."""
    endpoint = _real(endpoint_id, source)
    if source.demo is None:
        return endpoint
    return replace(
        endpoint,
        weights=Weights(source=str(demo_dir / source.demo.weights), demo=True),
        defaults={**source.defaults, **source.demo.defaults},
        bounds={**source.bounds, **source.demo.bounds},
        options={**source.options, **source.demo.options},
        recipes=(),
        demo_words=tuple(" ".join(source.demo.words.values()).split()),
    )


def _weights(source: EndpointSource) -> Weights:
    if source.weights is None:
        return Weights(source="")
    written = source.weights
    return Weights(
        written.hub or str(written.directory),
        written.revision,
        variant=written.variant,
        checkpoint=written.checkpoint or "",
        components=written.components,
        parts=tuple(
            WeightsPart(
                name, place.hub or str(place.directory), place.revision, place.folder, place.file
            )
            for name, place in written.places
        ),
        pipeline=written.pipeline or "",
        version=written.version or "",
    )


def _no_family(source: EndpointSource) -> str:
    return (
        f"No pool of this installation hosts its family `{source.family}`: add it to one in "
        "DARKROOM_POOLS. A family that is not built into Darkroom is your own code, named in "
        "DARKROOM_FAMILIES (docs/how-to/write-a-family.md)."
    )


def _no_demo(source: EndpointSource, endpoint: Endpoint) -> str:
    real = "DARKROOM_DEMO=false serves the real one, which needs a GPU."
    if source.demo is not None:
        if (Path(endpoint.weights.source) / DEMO_MARK).is_file():
            return ""
        return f"Its demo weights `{source.demo.weights}` are not part of this Darkroom. {real}"
    if source.weights is not None and source.weights.hub is not None:
        return (
            f"It has no demo model, and this installation serves demo models. {real} If it is "
            "small enough for a CPU, an entry of your own with `cpu: {}` serves it here."
        )
    return ""  # weights in a folder of the operator


def _no_revision(source: EndpointSource) -> str:
    weights = source.weights
    if weights is None or weights.hub is None or weights.revision is not None:
        return ""
    return (
        f"Its weights {weights.hub} are not pinned: set `weights.revision` to a commit of that "
        "repository (40 hex digits) in an entry of your own: `darkroom models add --replace`, or "
        "DARKROOM_MODELS."
    )


def _schema(endpoint: Endpoint) -> InputSchema:
    build = SCHEMAS.get(endpoint.schema)
    if build is None:
        raise ValueError(f"there is no schema `{endpoint.schema}`; known are {', '.join(SCHEMAS)}")
    if INPUTS in endpoint.options and endpoint.schema != DECLARED:
        raise ValueError(f"`options.{INPUTS}` belongs to the schema `{DECLARED}`")
    return build(endpoint)


def _check_secrets(endpoint: Endpoint) -> None:
    """Raise if the names of its secrets are none."""
    declared = endpoint.options.get(OPTION, [])
    if not isinstance(declared, (list, tuple)) or not all(
        isinstance(name, str) for name in declared
    ):
        raise ValueError(f"`options.{OPTION}` must be a list of names, such as [FAL_KEY]")
    for name in named_by(endpoint.options):
        if (problem := name_problem(name)) is not None:
            raise ValueError(f"`options.{OPTION}` names {name}: {problem}")


def _check_arguments(endpoint: Endpoint, schema: InputSchema) -> None:
    """Raise if a mapped field is not in the schema, or a fixed one is: it would be ignored without
    a message."""
    arguments = endpoint.options.get("arguments")
    fields = schema.fields
    fixed = endpoint.options.get("fixed")
    if isinstance(fixed, Mapping) and STEPS in fixed and STEPS in fields:
        raise ValueError(
            f"`options.fixed` has {STEPS}, which requests choose by the schema {endpoint.schema}"
        )
    if isinstance(arguments, Mapping) and fields:
        named = {str(name) for name in cast("Mapping[Any, Any]", arguments)}
        _require_fields("options.arguments", named, endpoint, schema)


def _require_fields(option: str, named: Set[str], endpoint: Endpoint, schema: InputSchema) -> None:
    if unknown := sorted(named - schema.fields):
        raise ValueError(
            f"`{option}` names {', '.join(unknown)}, which the schema {endpoint.schema} does not "
            "have"
        )


def _check_examples(entry: CatalogEntry) -> None:
    """Raise if an example has a field that the schema lacks, since it would be ignored, or a value
    that it refuses. Required fields may be missing: files that only users have."""
    if entry.schema.fields:
        named = {name for example in entry.examples for name in example.input}
        _require_fields("examples", named, entry.endpoint, entry.schema)
    for number, sample in enumerate(entry.examples, start=1):
        try:
            entry.schema.validate(sample.input)
        except InvalidInput as error:
            if any(problem.type != "missing" for problem in error.problems):
                raise ValueError(f"example {number} is refused: {error.message}") from None
