"""Entries of the catalogue as they are written, and the reader for catalogue files. Every error
names its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from serve_app.catalog.limits import MemorySource
from serve_app.domain.billing.price import Price
from serve_app.domain.endpoint import STEP_CACHE, Precision, levels_of
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.fallback import ERRORS, NEVER, USUAL_ERRORS, FallbackBudget
from serve_app.domain.pipeline_index import IP_ADAPTER
from serve_app.options.mistakes import mistakes_of

Path_ = tuple[str | int, ...]


class PlaceSource(BaseModel):
    """Location of files: a ``hub`` repository at a ``revision``, or a ``directory``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    directory: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.hub is None) == (self.directory is None):
            raise ValueError("set either `hub` with `revision`, or `directory`")
        if self.directory is not None and self.revision is not None:
            raise ValueError("`revision` belongs to a `hub` repository; remove it for a directory")
        if self.directory is not None and not self.directory.is_absolute():
            raise ValueError("`directory` must be an absolute path")
        return self


class PartSource(PlaceSource):
    """Location of a component, in a ``folder`` there, or without one, or of the ``file`` of an
    IP-Adapter. Always pinned."""

    folder: str = Field(default="", pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$")
    file: str = Field(default="", pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*\.safetensors)?$")

    @model_validator(mode="after")
    def _check_revision(self) -> Self:
        if self.hub is not None and self.revision is None:
            raise ValueError("`revision` is the commit of a `hub` repository: set both")
        return self


_Several = Annotated[tuple[PartSource, ...], Field(min_length=1)]
_SEVERAL: TypeAdapter[_Several] = TypeAdapter(_Several)


def _one_or_several(value: object, _union: ValidatorFunctionWrapHandler) -> PartSource | _Several:
    """Read what is written: the errors of a union would name each of its types."""
    if isinstance(value, (list, tuple)):
        return _SEVERAL.validate_python(value)
    return PartSource.model_validate(value)


Parts = Annotated[PartSource | _Several, WrapValidator(_one_or_several)]
"""Place of a component, or a list of places."""


class WeightsSource(PlaceSource):
    """Location of a model's files.

    A ``hub`` repository without ``revision`` is listed but not served, because a branch can change.
    ``variant`` chooses among several files of a component, as in diffusers. ``checkpoint`` is one
    file that holds ``components``: only their settings are taken of the pipeline. ``parts`` are
    components of other repositories, several of one for ControlNets or IP-Adapters that run
    together, and ``pipeline`` the class of diffusers that takes them. ``version`` is any text:
    where it changes, the files of directories are read again.
    """

    variant: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$")
    checkpoint: str | None = Field(
        default=None,
        pattern=r"^(/.+|[\w.-]+/[\w.-]+/.+\.(safetensors|gguf)@[0-9a-f]{40})$",
        description="An absolute path, or owner/name/file.safetensors@<commit of 40 hex digits>, "
        "or a file.gguf in their place.",
    )
    components: tuple[str, ...] = ()
    parts: dict[str, Parts] = Field(default_factory=dict)
    pipeline: str | None = Field(default=None, pattern=r"^[A-Za-z]\w+Pipeline$")
    version: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")

    @property
    def places(self) -> Iterator[tuple[str, PartSource]]:
        """Components that are not of the source, with each of their places."""
        for name, parts in self.parts.items():
            for part in (parts,) if isinstance(parts, PartSource) else parts:
                yield name, part

    @property
    def local_places(self) -> Iterator[Path]:
        """Directories and files that are not of the hub."""
        if self.directory is not None:
            yield self.directory
        for _, part in self.places:
            if part.directory is not None:
                yield part.directory / part.folder / part.file
        if self.checkpoint is not None and self.checkpoint.startswith("/"):
            yield Path(self.checkpoint)

    @model_validator(mode="after")
    def _parts_of_components(self) -> Self:
        if wrong := [name for name in self.parts if not name.isidentifier()]:
            raise ValueError(f"{wrong[0]!r} cannot be the name of a component")
        for name, part in self.places:
            if name == IP_ADAPTER and (part.folder or not part.file):
                raise ValueError(f"`{name}` is a file: set its `file`, and no `folder`")
            if name != IP_ADAPTER and part.file:
                raise ValueError(f"`file` belongs to `{IP_ADAPTER}`; set the `folder` of `{name}`")
        return self

    @model_validator(mode="after")
    def _checkpoint_of_components(self) -> Self:
        if (self.checkpoint is None) != (not self.components):
            raise ValueError(
                "set both `checkpoint` and the `components` that it replaces, such as [transformer]"
            )
        return self


class ExampleSource(BaseModel):
    """Input that clients show, to try the endpoint with. It may lack required files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: dict[str, Any] = Field(min_length=1)
    output: dict[str, Any] | None = None  # as the endpoint answers it, with URLs that stay valid


class DemoSource(BaseModel):
    """Demo model that replaces the weights if there is no GPU. Its ``bounds`` and ``examples``
    replace those of the entry; ``about`` says what it can make, and ``words`` are all that it
    knows, by group, with spaces between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field(pattern=r"^[\w-]+$", description="A directory of the demo models.")
    defaults: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    about: str = ""
    words: dict[str, str] = Field(default_factory=dict)
    examples: tuple[ExampleSource, ...] = ()


class CpuSource(BaseModel):
    """Real weights run on a machine without a GPU, and what that takes there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float | None = Field(default=None, gt=0, description="Of a usual request, about.")
    download_gb: float | None = Field(default=None, gt=0, description="Of the weights, 10^9 bytes.")


class LargestSource(BaseModel):
    """Largest work of a recipe; see ``WorkLimit``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    megapixels: float = Field(gt=0)
    frames: int = Field(default=1, ge=1)
    tile_above: float | None = Field(default=None, ge=0)


class RecipeSource(BaseModel):
    """Format of the weights on a device with at least this much memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_gb: float = Field(gt=0)
    precision: Precision
    offload: Literal["none", "components", "blocks"] = "none"
    hot: tuple[str, ...] = ()
    compile: bool = False
    compile_decoder: bool = False
    graphs: bool = False
    dtypes: dict[str, Literal["float32", "float16", "bfloat16"]] = Field(default_factory=dict)
    attention: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    largest: LargestSource | None = None
    step_cache: dict[str, Any] = Field(default_factory=dict)

    @field_validator("step_cache")
    @classmethod
    def _step_cache_by_level(cls, value: dict[str, Any]) -> dict[str, Any]:
        levels_of(value or None)
        return value

    @model_validator(mode="after")
    def _weights_stay(self) -> RecipeSource:
        if self.compile and (self.precision == "float8" or self.offload == "blocks"):
            raise ValueError(
                "compile: float8 weights and streamed blocks are moved by hooks, which would make "
                "every block compile again; leave out one of the two"
            )
        if self.graphs and (self.precision == "float8" or self.offload == "blocks"):
            raise ValueError(
                "graphs: float8 weights and streamed blocks are moved by hooks, and a graph reads "
                "weights where they were; leave out one of the two"
            )
        return self


class FallbackSource(BaseModel):
    """Endpoint that runs requests which would wait too long, or which have failed.

    ``fields``: own name of a field → its name there; null: it is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    max_wait_s: float | None = Field(default=None, gt=0, le=86400)
    errors: tuple[str, ...] = USUAL_ERRORS
    budget: str | None = None  # such as ``20 EUR/day``; None: no limit
    fields: dict[str, str | None] = Field(default_factory=dict)

    @field_validator("errors")
    @classmethod
    def _known_errors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if code in NEVER:
                raise ValueError(f"`{code}` cannot be among the errors: {NEVER[code]}")
            if code not in ERRORS:
                raise ValueError(
                    f"there is no error `{code}`; known are {', '.join(sorted(ERRORS))}"
                )
        return value

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str | None) -> str | None:
        if value is not None:
            FallbackBudget.parse(value)
        return value


class ShadowSource(BaseModel):
    """Endpoint that gets copies of a share of the requests, to compare the two. ``fields``: as of a
    fallback."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    share: float = Field(gt=0, le=1)
    budget: str | None = None  # such as ``20 EUR/day``; None: no limit
    fields: dict[str, str | None] = Field(default_factory=dict)
    except_tenants: tuple[str, ...] = ()  # whose requests are never copied

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str | None) -> str | None:
        if value is not None:
            FallbackBudget.parse(value)
        return value


class EndpointSource(BaseModel):
    """One entry, of a file or of the database."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    input_schema: str = Field(alias="schema")
    weights: WeightsSource | None = None  # a custom family may need none
    demo: DemoSource | None = None
    cpu: CpuSource | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    recipes: tuple[RecipeSource, ...] = ()
    memory: MemorySource | None = None
    packages: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")], ...] = ()
    cache: bool = False
    pool: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    price: Price | None = None
    fallback: FallbackSource | None = None
    shadow: ShadowSource | None = None
    display_name: str = ""
    description: str = ""
    category: str = "text-to-image"
    licence: str = ""
    readme: str = Field(default="", max_length=20_000)  # Markdown
    examples: tuple[ExampleSource, ...] = Field(default=(), max_length=20)

    @property
    def runs_on_cpu(self) -> bool:
        """True if its own weights are served beside demo models: it says so, or nothing in it says
        that it needs a GPU."""
        return self.demo is None and (self.cpu is not None or not self.recipes)

    @model_validator(mode="after")
    def _demo_or_real(self) -> EndpointSource:
        if self.demo is not None and self.cpu is not None:
            raise ValueError("set `demo` or `cpu`: without a GPU, one of the two models is served")
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> EndpointSource:
        demo = self.demo.bounds if self.demo else {}
        for name, (least, most) in (*self.bounds.items(), *demo.items()):
            if least > most:
                raise ValueError(f"bounds of {name}: {least:g} is more than {most:g}")
        return self

    @field_validator("options")
    @classmethod
    def _step_cache_by_level(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            levels_of(value.get(STEP_CACHE))
        except ValueError as error:
            raise ValueError(f"{STEP_CACHE}: {error}") from error
        return value

    @field_validator("recipes")
    @classmethod
    def _recipes_in_order(cls, value: tuple[RecipeSource, ...]) -> tuple[RecipeSource, ...]:
        sizes = [recipe.memory_gb for recipe in value]
        if sizes != sorted(set(sizes)):
            raise ValueError("list recipes by ascending memory_gb, each value once")
        return value


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def _endpoint_id(value: str) -> str:
    group = value.removesuffix("/*")
    if "/" in value and _ID.fullmatch(group):
        return value
    raise ValueError(
        "an id should be owner/name, such as house/portraits, of letters, digits, `.`, `_` and `-`"
    )


EndpointId = Annotated[str, AfterValidator(_endpoint_id)]
"""Id of an endpoint, or that of a group of them, such as ``fal-ai/*``."""


class CatalogSource(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: dict[EndpointId, EndpointSource]
    built_in: bool = Field(default=True, description="False: without the built-in endpoints.")


_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML has it: the built-in catalogue takes 0.05 s of CPU, without it 0.10 s."""


class SourceFile:
    """Parsed file that knows the line of each of its values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[Path_, int] = {}

    def read(self) -> CatalogSource:
        """Parse the file. ``Misconfigured``, with file and line, if it is invalid."""
        parsed = self.parse()
        if isinstance(parsed, CatalogSource):
            return parsed
        raise parsed[0]

    def parse(self) -> CatalogSource | Sequence[Misconfigured]:
        """Parse the file; all invalid values if there are any. ``Misconfigured``, with file and
        line, if it cannot be read or is not YAML."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"The catalogue {self._path} cannot be read: {error}.") from error
        try:
            data = self._parse(text, _FastLoader)
        except yaml.YAMLError:
            data = self._parse_exactly(text)
        except (ValueError, RecursionError) as error:  # such as a date in a 13th month
            raise Misconfigured(f"{self._path}: this is not valid YAML: {error}.") from error
        try:
            return CatalogSource.model_validate(data)
        except ValidationError as error:
            return [self.error_at(*mistake) for mistake in mistakes_of(CatalogSource, error)]

    def _parse(self, text: str, loader_class: Any) -> Any:
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            self._lines.clear()
            self._note_lines(node, ())  # before the construction, which moves merged keys
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()

    def _parse_exactly(self, text: str) -> Any:
        """Parse with the loader whose errors say what was expected and what is there."""
        try:
            return self._parse(text, yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            what = getattr(error, "problem", None) or error
            raise Misconfigured(f"{self._path}:{line}: this is not valid YAML: {what}.") from error

    def error_at(self, where: Path_, what: str) -> Misconfigured:
        """Error about the value at ``where``, with its file and line."""
        place = ".".join(str(part) for part in where if part != "[key]") or "the file"
        return Misconfigured(f"{self._path}:{self._line(where)}: {place}: {what}.")

    def _line(self, where: Path_) -> int:
        # A missing value has no line, so use the nearest parent that has one.
        while where and where not in self._lines:
            where = where[:-1]
        return self._lines.get(where, 1)

    def _note_lines(self, node: yaml.Node | None, where: Path_) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*where, str(key.value))
                if inner in self._lines:
                    raise Misconfigured(
                        f"{self._path}:{key.start_mark.line + 1}: {key.value} is there twice; "
                        f"the first is in line {self._lines[inner]}."
                    )
                self._lines[inner] = key.start_mark.line + 1
                self._note_lines(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*where, index)] = value.start_mark.line + 1
                self._note_lines(value, (*where, index))
