"""Options that families share: an endpoint's task and its pipeline options, an input's LoRAs.

Pipeline options change the loaded pipeline: a merged LoRA, a scheduler, VAE tiling. Two endpoints
with different options of this kind over the same weights are two loaded pipelines. Importing this
module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from deployments.engine.media.input import InputKind
from deployments.families.audio_io import steps_in
from deployments.families.base import Family, GenerationCall
from deployments.transfer.lora_fetcher import FIELD, RequestedLora
from serve_app.domain.endpoint import STEP_CACHE, Endpoint, Weights, levels_of
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.domain.lora import MAX_LORAS, MAX_SCALE, REPLACED, parse_lora_path
from serve_app.options.inputs import Inputs, InputType, declared_inputs
from weights.selection import LORA_FILE
from weights.store import adapters_of

# The task of an endpoint, and the input files that each task takes.

TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"
REALTIME = "realtime"
TEXT_TO_VIDEO, IMAGE_TO_VIDEO = "text-to-video", "image-to-video"
VIDEO_TO_VIDEO = "video-to-video"
TEXT_TO_AUDIO, AUDIO_TO_AUDIO = "text-to-audio", "audio-to-audio"
TEXT_TO_TEXT, IMAGE_TO_TEXT = "text-to-text", "image-to-text"


@dataclass(frozen=True, slots=True)
class FileField:
    """Field of an input that names a file, or a list of files."""

    kind: InputKind
    required: bool = True
    many: bool = False
    least: int = 1  # files of a list
    is_main: bool = True  # False: the output is not about it, nor of its size


_IMAGE, _MASK = FileField(InputKind.IMAGE), FileField(InputKind.MASK, is_main=False)
FILES_OF_TASKS: Mapping[str, Mapping[str, FileField]] = {
    IMAGE_TO_IMAGE: {"image_url": _IMAGE},
    INPAINTING: {"image_url": _IMAGE, "mask_url": _MASK},
    REALTIME: {"image_url": _IMAGE},
    IMAGE_TO_VIDEO: {
        "image_url": _IMAGE,
        "end_image_url": FileField(InputKind.IMAGE, required=False),
    },
    VIDEO_TO_VIDEO: {"video_url": FileField(InputKind.VIDEO)},
    AUDIO_TO_AUDIO: {"audio_url": FileField(InputKind.AUDIO)},
}
"""Task → fields of its inputs, unless the entry declares them."""

KINDS_OF_FILES = {
    InputType.IMAGE: InputKind.IMAGE,
    InputType.IMAGES: InputKind.IMAGE,
    InputType.MASK: InputKind.MASK,
    InputType.VIDEO: InputKind.VIDEO,
    InputType.AUDIO: InputKind.AUDIO,
}


def task_of(endpoint: Endpoint, known: tuple[str, ...]) -> str:
    """The ``task`` of the endpoint's options, by default the first of ``known``. ``Misconfigured``
    if it is not ``known``."""
    task = endpoint.options.get("task", known[0])
    if task not in known:
        raise Misconfigured(
            f"The family {endpoint.family} does not support the task {task!r} of {endpoint.id}. "
            f"Choose one of {', '.join(known)} (`options` in the catalogue)."
        )
    return task


def file_fields(endpoint: Endpoint) -> Mapping[str, FileField]:
    """Fields of the endpoint's inputs that name files, the main one first."""
    return _files_of(endpoint, declared_inputs(endpoint))


def _files_of(endpoint: Endpoint, declared: Inputs) -> Mapping[str, FileField]:
    if not declared:
        return FILES_OF_TASKS.get(str(endpoint.options.get("task", "")), {})
    return _named_files(declared)


def _named_files(inputs: Inputs) -> Mapping[str, FileField]:
    return {
        name: FileField(
            KINDS_OF_FILES[field.type],
            field.required,
            field.type is InputType.IMAGES,
            least=int(field.least or 1) if field.type is InputType.IMAGES else 1,
            is_main=field.type is not InputType.MASK and not field.is_adapters,
        )
        for name, field in inputs.items()
        if field.is_file
    }


def required_files(endpoint: Endpoint) -> Mapping[str, FileField]:
    """Fields that name a file in every input of the endpoint."""
    return {name: field for name, field in file_fields(endpoint).items() if field.required}


def main_file(endpoint: Endpoint, input: Mapping[str, Any]) -> Any:
    """The decoded file that an input is about, the first of several; None: it has none."""
    declared = declared_inputs(endpoint)
    for name, field in _files_of(endpoint, declared).items():
        if field.is_main and (value := input.get(name)):
            return value[0] if isinstance(value, list) else value
    for name, group in _objects(declared).items():
        shapes = [n for n, e in group.fields.items() if e.type in SHAPES and not e.as_is]
        files = (item.get(inner) for item in input.get(name) or () for inner in shapes)
        if (value := next(filter(None, files), None)) is not None:
            return value
    return None


SHAPES = frozenset({InputType.IMAGE, InputType.VIDEO})
"""Types of files whose shape the output has."""


def _objects(declared: Inputs) -> Inputs:
    """Declared inputs that are lists of objects."""
    return {name: field for name, field in declared.items() if field.fields}


@dataclass(frozen=True, slots=True)
class InputFile:
    """File that an input names. It is fetched and decoded before the family prepares its call."""

    path: tuple[str | int, ...]  # of its URL in the input: names of fields, and numbers in lists
    url: str
    kind: InputKind

    @property
    def place(self) -> str:
        """The path, for errors."""
        return ".".join(map(str, self.path))


def input_files(endpoint: Endpoint, input: Mapping[str, Any]) -> Sequence[InputFile]:
    """The files of ``input``, those of its objects last."""
    declared = declared_inputs(endpoint)
    files = [*_files(_files_of(endpoint, declared), input, ())]
    for name, group in _objects(declared).items():
        fields = _named_files(group.fields)
        for number, item in enumerate(input.get(name) or ()):
            files += _files(fields, item, (name, number))
    return files


def _files(
    fields: Mapping[str, FileField], values: Mapping[str, Any], at: tuple[str | int, ...]
) -> Iterator[InputFile]:
    for name, field in fields.items():
        if (value := values.get(name)) is None:
            continue
        if field.many:
            for number, url in enumerate(value):
                yield InputFile((*at, name, number), str(url), field.kind)
        else:
            yield InputFile((*at, name), str(value), field.kind)


def with_files(input: Mapping[str, Any], files: Mapping[InputFile, Any]) -> dict[str, Any]:
    """``input`` with decoded files in place of their URLs."""
    filled = dict(input)
    for file, decoded in files.items():
        filled = _with_value(filled, file.path, decoded)
    return filled


def _with_value(within: Any, path: Sequence[str | int], value: Any) -> Any:
    """Copy of ``within`` with ``value`` at ``path``."""
    if not path:
        return value
    copied: Any = {**within} if isinstance(within, Mapping) else [*within]
    copied[path[0]] = _with_value(copied[path[0]], path[1:], value)
    return copied


# Options that change the loaded pipeline.

PIPELINE_OPTIONS = ("dtype", "dtypes", "adapter", "solver", "tiling")
"""Options that require a separate loaded pipeline over the same weights."""

_FRAMES = "tile_sample_min_num_frames"

ADAPTERS = "adapters"

REQUEST_OPTIONS = ("step_cache", ADAPTERS)
"""Options that each generation has or has not, over the same loaded pipeline."""

LORA_KEYS = {"hub", "revision", "directory", "file", "scale"}


def apply_options(pipeline: Any, endpoint: Endpoint) -> Any:
    """Change ``pipeline`` permanently as the endpoint's options say. Runs on the loader's thread.

    ``adapter``: ``{directory}`` with ``file`` and ``scale``, which default to diffusers' own file
    name and 1. A LoRA of the hub (``{hub, revision}``) has already been downloaded to a directory.
    ``solver``: ``{name, …}``, a scheduler class of diffusers and the values that differ from the
    configuration that came with the weights. With ``adapters``, it is set for each call instead.
    ``tiling``: true makes the autoencoder process large images in overlapping tiles; a mapping has
    the arguments of its ``enable_tiling``. With a number of frames, long videos are tiled in time.
    ``step_cache``: step caches of diffusers for the denoisers, by level, or one. They are chosen
    for each request; here it is only checked that the denoisers can have them.
    Raises ``Misconfigured``, which names the endpoint, and ``WeightsUnavailable`` if the LoRA
    cannot be read.
    """
    if (lora := _option(endpoint, "adapter")) is not None:
        from deployments.engine.loading.loader import read_now  # noqa: PLC0415
        from deployments.engine.lora.format import merge_lora  # noqa: PLC0415

        _check_lora(endpoint, lora)
        read_now(pipeline)
        file = Path(lora["directory"]) / _name(lora)
        try:
            merge_lora(pipeline, file, float(lora.get("scale", 1.0)))
        except Misconfigured as error:
            raise Misconfigured(f"{endpoint.id}: {error.message}") from error
    own_adapters(endpoint)
    if not endpoint.options.get(ADAPTERS):
        _set_solver(pipeline, endpoint)
    if endpoint.options.get("tiling"):
        _tile(pipeline, endpoint)
    _check_step_caches(pipeline, endpoint)
    return pipeline


def options_name(options: Mapping[str, Any]) -> str:
    """Text that distinguishes the pipeline options of two endpoints. Empty if there are none."""
    every = (*PIPELINE_OPTIONS, REPLACED)
    names = [option for option in every if option != "solver" or not options.get(ADAPTERS)]
    values = [options[name] for name in names if options.get(name) is not None]
    texts = [
        value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, separators=(",", ":"))
        for value in values
    ]
    return "".join(f":{text}" for text in texts)


def _tile(pipeline: Any, endpoint: Endpoint) -> None:
    requested = endpoint.options["tiling"]
    sizes: Mapping[str, Any] = {} if requested is True else _option(endpoint, "tiling") or {}
    vae: Any = getattr(pipeline, "vae", None)
    if (enable := getattr(vae, "enable_tiling", None)) is None:
        raise Misconfigured(
            f"{endpoint.id}: `options.tiling`: the autoencoder of {type(pipeline).__name__} does "
            "not support tiles. Remove the option."
        )
    try:
        enable(**sizes)
    except (NotImplementedError, TypeError) as error:  # raised by autoencoders without tiling
        raise Misconfigured(f"{endpoint.id}: `options.tiling`: {error}") from error
    if _FRAMES in sizes and hasattr(vae, "use_framewise_decoding"):
        vae.use_framewise_decoding = True  # enable_tiling does not switch this on


def _check_step_caches(pipeline: Any, endpoint: Endpoint) -> None:
    from deployments.engine.interception.step_cache_options import (  # noqa: PLC0415
        check_step_cache,
    )

    try:
        for settings in levels_of(endpoint.options.get(STEP_CACHE)).values():
            check_step_cache(pipeline, settings)
    except (ValueError, Misconfigured) as error:
        raise Misconfigured(f"{endpoint.id}: `options.{STEP_CACHE}`: {error}") from error


def _option(endpoint: Endpoint, name: str) -> Mapping[str, Any] | None:
    value = endpoint.options.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise Misconfigured(
            f"{endpoint.id}: `options.{name}` is {value!r}; it must be a mapping "
            "(docs/reference/catalogue.md)."
        )
    return cast("Mapping[str, Any] | None", value)


def _set_solver(pipeline: Any, endpoint: Endpoint) -> None:
    from deployments.engine.interception.pipeline import set_scheduler  # noqa: PLC0415

    if (solver := _option(endpoint, "solver")) is None:
        return
    try:
        set_scheduler(pipeline, **solver)
    except (Misconfigured, TypeError) as error:
        raise Misconfigured(f"{endpoint.id}: `options.solver`: {error}") from error


# Adapters that belong to an endpoint and are not merged into its weights. Each generation gets them
# as it gets the LoRAs of its input, so endpoints with and without them share one loaded pipeline.


@dataclass(frozen=True, slots=True)
class OwnAdapter:
    """One of the endpoint's ``adapters``."""

    repository: Weights | None  # on the hub; None: in ``directory``
    directory: str
    file: str  # inside
    scale: float
    denoiser: str  # that it changes; empty: as the file says
    steps: int = 0  # only for requests with so many steps; 0: for all
    registered: str = ""  # SHA-256 of a registered file, in place of a directory

    def is_for(self, endpoint: Endpoint, input: Mapping[str, Any]) -> bool:
        """Return whether a request of its endpoint with this validated input runs with it."""
        return not self.steps or self.steps == _steps_of(endpoint, input)


def _steps_of(endpoint: Endpoint, input: Mapping[str, Any]) -> int | None:
    """Denoising steps of a request: fixed by its endpoint, or chosen in its input."""
    return steps_in({**input, **(endpoint.options.get("fixed") or {})})


def own_adapters(endpoint: Endpoint) -> tuple[OwnAdapter, ...]:
    """The endpoint's ``adapters``. Raises ``Misconfigured``, which names the endpoint."""
    declared = endpoint.options.get(ADAPTERS) or ()
    if not isinstance(declared, list | tuple) or not all(
        isinstance(item, Mapping) for item in declared
    ):
        raise Misconfigured(
            f"{endpoint.id}: `options.{ADAPTERS}` is {declared!r}; it must be a list of mappings "
            "(docs/reference/catalogue.md)."
        )
    repositories = {
        (repository.source, repository.revision): repository for repository in adapters_of(endpoint)
    }
    adapters: list[OwnAdapter] = []
    for lora in cast("Sequence[Mapping[str, Any]]", declared):
        if "registered" in lora:  # of a private endpoint
            digest, scale = str(lora["registered"]), float(lora["scale"])
            adapters.append(OwnAdapter(None, "", "", scale, "", registered=digest))
            continue
        _check_lora(endpoint, lora, ADAPTERS, {*LORA_KEYS, "denoiser", "steps"})
        place = lora.get("hub"), lora.get("revision")
        adapters.append(
            OwnAdapter(
                repositories.get(cast("tuple[str, str | None]", place)),
                str(lora.get("directory", "")),
                _name(lora),
                float(lora.get("scale", 1.0)),
                str(lora.get("denoiser", "")),
                int(lora.get("steps", 0)),
            )
        )
    return tuple(adapters)


def prepared_call(
    family: Family, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
) -> GenerationCall:
    """The family's call. With ``adapters``, it calls a pipeline with the solver of the options over
    the same weights. The adapters themselves are not added."""
    if ADAPTERS not in endpoint.options:
        return family.prepare(endpoint, input, pipeline, seed)
    from deployments.engine.interception.pipeline import view_of  # noqa: PLC0415

    view = view_of(pipeline, type(pipeline))
    _set_solver(view, endpoint)
    call = family.prepare(endpoint, input, view, seed)
    return call if call.view is not None else replace(call, view=view)


def _check_lora(
    endpoint: Endpoint,
    lora: Mapping[str, Any],
    option: str = "adapter",
    known: Collection[str] = LORA_KEYS,
) -> None:
    unknown = lora.keys() - known
    if unknown or ("hub" in lora) == ("directory" in lora):
        more = ", `scale`, `denoiser` and `steps`" if "steps" in known else " and `scale`"
        raise Misconfigured(
            f"{endpoint.id}: `options.{option}` takes `hub` with `revision` or `directory`, and "
            f"`file`{more}; found: {', '.join(sorted(lora)) or 'nothing'}."
        )
    if not _name(lora).endswith(".safetensors"):
        raise Misconfigured(
            f"{endpoint.id}: `options.{option}` names {_name(lora)}, which is not a "
            "*.safetensors file. Pickle files can run code and are never loaded."
        )


def _name(lora: Mapping[str, Any]) -> str:
    return str(lora.get("file", LORA_FILE))


# LoRAs of an input.


def requested_loras(input: Mapping[str, Any]) -> tuple[RequestedLora, ...]:
    """LoRAs of the field ``loras``, in order. Raises ``InvalidInput`` for values that the schema
    ``open`` does not reject."""
    items = input.get(FIELD) or ()
    if not isinstance(items, list | tuple):
        raise InvalidInput.of_field(FIELD, "Input should be a valid list", "list_type")
    if len(items) > MAX_LORAS:
        message = f"List should have at most {MAX_LORAS} items"
        raise InvalidInput.of_field(FIELD, message, "sequence_too_long")
    return tuple(_requested_lora(item, f"{FIELD}.{number}") for number, item in enumerate(items))


def _requested_lora(item: Any, at: str) -> RequestedLora:
    if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
        raise InvalidInput.of_field(f"{at}.path", "Field required", "missing")
    try:
        source = parse_lora_path(item["path"])
    except ValueError as error:
        raise InvalidInput.of_field(f"{at}.path", str(error), "adapter_path") from None
    scale = item.get("scale", 1.0)
    if not isinstance(scale, int | float) or not -MAX_SCALE <= scale <= MAX_SCALE:
        message = f"Input should be a number from {-MAX_SCALE:g} to {MAX_SCALE:g}"
        raise InvalidInput.of_field(f"{at}.scale", message)
    return RequestedLora(f"{at}.path", source, float(scale))
