"""Input of the warm-up generation of loaded weights: one step, with plain files if the task takes
any. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.engine.media.input import InputKind
from deployments.families.base import WarmsUp
from deployments.families.image_io import Size
from deployments.families.options import KINDS_OF_FILES, required_files
from serve_app.domain.endpoint import Endpoint
from serve_app.options.inputs import DeclaredInput, InputType, declared_inputs

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

WARM_UP_DEFAULTS = {"prompt": "a lighthouse", "num_inference_steps": 1}

GREY = (128, 128, 128)
SIDES = Size(832, 480)  # of the input image or video


def warm_up_input(endpoint: Endpoint, **family: Any) -> Mapping[str, Any]:
    """Warm-up input. ``family`` overrides the entry's defaults with what the family needs."""
    # Full strength: with only one step, any lower strength would leave no step at all.
    short = {**WARM_UP_DEFAULTS, "strength": 1.0}
    values = {
        **_field_values(endpoint),
        **endpoint.defaults,
        **family,
        **short,
        **plain_files(endpoint),
    }
    renamed = {
        name: values[usual]
        for name, field in declared_inputs(endpoint).items()
        if (usual := field.usual_name) in values
    }
    return values | renamed


def plain_files(endpoint: Endpoint) -> Mapping[str, Any]:
    """Files without content for the fields that every input of the endpoint has."""
    return {
        name: [plain_file(file.kind)] * file.least if file.many else plain_file(file.kind)
        for name, file in required_files(endpoint).items()
    }


def _field_values(endpoint: Endpoint) -> Mapping[str, Any]:
    """Values of the fields that the entry declares: their defaults, or the least that is valid."""
    return {
        name: _LEAST[field.type](field) if field.required else field.default
        for name, field in declared_inputs(endpoint).items()
        if not field.is_file and (field.required or field.default is not None)
    }


_LEAST: Mapping[InputType, Callable[[DeclaredInput], Any]] = {
    InputType.TEXT: lambda field: field.choices[0] if field.choices else WARM_UP_DEFAULTS["prompt"],
    InputType.INTEGER: lambda field: int(field.least or 1),
    InputType.NUMBER: lambda field: field.least or 1.0,
    InputType.BOOLEAN: lambda _: False,
    InputType.TEXTS: lambda field: [WARM_UP_DEFAULTS["prompt"]] * int(field.least or 1),
    InputType.INTEGERS: lambda field: [int(field.item_least or 1)] * int(field.least or 1),
    InputType.NUMBERS: lambda field: [field.item_least or 1.0] * int(field.least or 1),
    InputType.ROWS: lambda field: [[field.item_least or 0.0] * field.columns],
    InputType.OBJECTS: lambda field: [_least_object(field)],
}


def _least_object(declared: DeclaredInput) -> Mapping[str, Any]:
    """Object with the fields that it must have, of those that exclude each other the first."""
    needed = {name for name, field in declared.fields.items() if field.required}
    return {
        name: plain_file(KINDS_OF_FILES[field.type]) if field.is_file else _LEAST[field.type](field)
        for name, field in declared.fields.items()
        if name in needed | {*declared.one_of[:1]}
    }


def short_call(family: WarmsUp, endpoint: Endpoint, pipeline: Any) -> Mapping[str, Any]:
    """Arguments of a family's warm-up call."""
    call = family.warm_up(endpoint, pipeline)
    return call.arguments if call.view is None else {**call.arguments, "view": call.view}


def plain_file(kind: InputKind) -> Any:
    """File without content of a kind, as inputs have it after decoding."""
    files: Mapping[InputKind, Callable[[], Any]] = {
        InputKind.IMAGE: _grey,
        InputKind.MASK: lambda: _grey().convert("L"),
        InputKind.VIDEO: _Still,
        InputKind.AUDIO: _Silence,
    }
    return files[kind]()


def _grey(size: Size = SIDES) -> Image:
    from PIL import Image  # noqa: PLC0415

    return Image.new("RGB", (size.width, size.height), GREY)


class _Still:
    """Replacement for an ``engine.media`` video: a still grey video."""

    size = (SIDES.width, SIDES.height)
    fps = Fraction(16)

    def frames(self, width: int, height: int, _fps: Fraction, most: int) -> list[Image]:
        return [_grey(Size(width, height))] * most


class _Silence:
    """Replacement for an ``engine.media`` audio: silence."""

    def samples(self, rate: int, channels: int, most_s: float) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415

        return np.zeros((channels, round(rate * min(most_s, 1.0))), np.float32)
