"""A request to the endpoint that ``darkroom models add`` derives from a pipeline class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deployments.checking.modular_call import modular_call
from deployments.engine.engine import Engine
from deployments.engine.media.input import InputKind
from deployments.engine.media.scratch import Scratch
from deployments.families.base import (
    Family,
    GenerationCall,
    GenerationResult,
    Product,
    load_families,
)
from deployments.families.registry import FAMILIES
from deployments.families.warm_up import plain_file
from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.catalog.entries import EntryBuilder
from serve_app.cli.inspection.derivation import LENGTHS, NUMBERS_OF_FRAMES
from serve_app.cli.inspection.pipeline_call import (
    MODULAR,
    TARGETS,
    PipelineCall,
    as_call,
    read_call,
)
from serve_app.cli.inspection.proposal import propose
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from serve_app.options.inputs import IMAGE_TYPES, DeclaredInput, InputType, declared_inputs
from tests.engine.conformance import inputs
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.families.sd import INTRINSICS

#: Classes whose tiny components, or whose case, cannot be what a request asks for.
NOT_TRIED = {
    "FluxPipeline": "has a family of its own",
    "StableDiffusionXLPipeline": "has a family of its own",
    "AllegroPipeline": "decodes in tiles only, which its tiny autoencoder does not",
    "LTXI2VLongMultiPromptPipeline": "its case begins from latents",
    "SanaSprintPipeline": "takes two steps unless an argument is None, which no request can say",
    "SanaSprintImg2ImgPipeline": "takes two steps unless an argument is None",
    "StableDiffusionDepth2ImgPipeline": "its case brings the depth, for which it has no model",
}
INDEXES = {"MarigoldIntrinsicsPipeline": {TARGETS: INTRINSICS}}
"""What the index of weights says about the call of their class."""
BUILDER = EntryBuilder(demo=False, demo_dir=Path("/"))
URL = "https://example.org/file"


def entry_of(case: Case, pipeline: Any, endpoint_id: str = "") -> CatalogEntry:
    def config(component: str) -> Mapping[str, Any]:
        module = getattr(pipeline, component, None)
        return {"_class_name": type(module).__name__, **getattr(module, "config", {})}

    entry = {
        **propose(call_of(case.name), config, endpoint_id),
        "weights": {"directory": "/srv/x"},
    }
    small = {n: v for n, v in case.arguments(WISHES[0]).items() if n.startswith("_")}
    if small:  # switches that keep the case tiny
        entry["options"] = {**entry["options"], "fixed": small}
    return build_stored(BUILDER, StoredEntry(endpoint_id or "house/x", entry), strict=True)


@cache
def call_of(name: str) -> PipelineCall:
    """What ``read_call`` says, which asks another process about modular pipelines."""
    if not name.endswith(MODULAR):
        return read_call(name, INDEXES.get(name))
    try:
        return as_call(name, modular_call(name))
    except ValueError as error:
        raise Misconfigured(f"{name}: {error}") from error


def refusal(case: Case) -> str | None:
    """Why no endpoint is derived from the class; None if one is."""
    try:
        propose(call_of(case.name), lambda _: {})
    except Misconfigured as error:
        return error.message
    return None


def run_request(case: Case, pipeline: Any, engine: Engine, endpoint_id: str = "") -> Product:
    """What a request to the derived endpoint delivers that asks for what the case does."""
    request = prepare_request(
        entry_of(case, pipeline, endpoint_id), case.arguments(WISHES[0]), pipeline
    )
    result = engine.submit(view=request.call.view, **request.call.arguments).result(300)
    tickets = [
        UploadTicket(f"key-{n}", f"http://x/{n}", media_type, 10**8)
        for n, media_type in enumerate(request.types)
    ]
    generated = GenerationResult(result, 1.0, 1, Scratch())
    return request.family.deliver(request.endpoint, request.call, generated, tickets)


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to run."""

    endpoint: Endpoint
    family: Family
    call: GenerationCall
    types: Sequence[str]  # of the files that it makes


def prepare_request(entry: CatalogEntry, arguments: Mapping[str, Any], pipeline: Any) -> Prepared:
    """The request to the derived endpoint of ``entry`` that asks for a call with ``arguments``."""
    family: Family = load_families(FAMILIES)[entry.endpoint.family]
    endpoint = replace(entry.endpoint, options={**entry.endpoint.options, "dtype": "float32"})
    body, files = request_of(endpoint, arguments)
    # Tiny models make smaller images than requests may ask for.
    sizes = {name: body.pop(name) for name in ("image_size", "video_size") if name in body}
    checked, warnings = entry.schema.validate(body)
    assert not warnings, warnings
    checked |= sizes
    if "duration" in checked:
        checked["num_frames"] = _first(arguments, NUMBERS_OF_FRAMES)
    call = family.prepare(endpoint, {**checked, **files}, pipeline, 1)
    return Prepared(endpoint, family, call, entry.schema.media_types(checked))


def request_of(
    endpoint: Endpoint, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Input that asks for a call with ``arguments``, with URLs in place of files; and the files."""
    files: dict[str, Any] = {}
    body: dict[str, Any] = {"seed": 1}
    for name, declared in declared_inputs(endpoint).items():
        if declared.unused or declared.refused or declared.by_family:
            continue
        value = _given(declared, arguments)
        if value is None and declared.required and declared.type in IMAGE_TYPES:
            value = AS[declared.type](arguments.get("image") or inputs.image(WISHES[0], 64))
        if value is None:
            continue
        if declared.fields:
            files[name] = value
            body[name] = [_named(declared, item) for item in value]
        elif declared.is_file:
            files[name] = value
            body[name] = [URL] * len(value) if isinstance(value, list) else URL
        else:
            body[name] = value
    return body, files


def _given(declared: DeclaredInput, arguments: Mapping[str, Any]) -> Any:
    """Value of a field that asks for what the arguments do; None: they do not say."""
    match declared.type:
        case InputType.SIZE if None not in (sides := [arguments.get(side) for side in SIDES]):
            return dict(zip(SIDES, sides, strict=True))
        case InputType.FRAMES:
            return _first(arguments, NUMBERS_OF_FRAMES)
        case InputType.SECONDS:
            return _first(arguments, (*LENGTHS, "audio_end_in_s"))
        case InputType.OBJECTS:
            return [
                _item(declared, item) for item in arguments.get(declared.argument) or ()
            ] or None
    value = arguments.get(declared.argument)
    return None if value is None or declared.type not in AS else AS[declared.type](value)


def _item(declared: DeclaredInput, value: Any) -> dict[str, Any]:
    """Item of a request that asks for an object of a call. One image is no video."""
    own = {}
    for name, field in declared.fields.items():
        content = getattr(value, field.argument, None)
        if field.is_file and isinstance(content, list) != (field.type is InputType.VIDEO):
            content = content if field.type is InputType.AUDIO else None
        if content is not None:
            own[name] = AS[field.type](content)
    return own


def _named(declared: DeclaredInput, item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: URL if declared.fields[name].is_file else item[name] for name in item}


def _video(value: Any) -> Any:
    return _Video(value) if isinstance(value, list) else plain_file(InputKind.VIDEO)


SIDES = ("width", "height")


class _Video:
    """Replacement for an ``engine.media`` video: frames of a case."""

    fps = Fraction(8)

    def __init__(self, frames: Sequence[Image.Image]) -> None:
        self._frames = [_image(frame) for frame in frames]
        self.size = self._frames[0].size

    def frames(self, width: int, height: int, _fps: Any, most: int) -> list[Image.Image]:
        return [frame.resize((width, height)) for frame in self._frames[:most]]


def _first(arguments: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _image(value: Any) -> Image.Image:
    if isinstance(value, torch.Tensor):
        pixels = value.reshape(-1, *value.shape[-3:])[0].clamp(0, 1).permute(1, 2, 0).numpy()
        value = Image.fromarray((pixels.squeeze() * 255).astype(np.uint8))
    return value.convert("RGB")


def _one(value: Any) -> Any:
    return _several(value)[0]


AS: Mapping[InputType, Callable[[Any], Any]] = {
    InputType.TEXT: _one,
    InputType.INTEGER: _one,
    InputType.LAYERS: _one,
    InputType.NUMBER: _one,
    InputType.BOOLEAN: _one,
    InputType.TEXTS: _several,
    InputType.INTEGERS: list,
    InputType.NUMBERS: list,
    InputType.ROWS: list,
    InputType.IMAGE: lambda value: _image(_one(value)),
    InputType.IMAGES: lambda value: [_image(image) for image in _several(value)],
    InputType.MASK: lambda value: _image(_one(value)).convert("L"),
    InputType.VIDEO: _video,
    InputType.AUDIO: lambda _: plain_file(InputKind.AUDIO),
}
"""Type of a field → its value from that of an argument."""
