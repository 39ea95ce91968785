"""Mistakes in entries of the catalogue: places and sentences, with the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Place = tuple[str | int, ...]
"""Path of a value: keys, and indexes of lists."""

UNKNOWN_KEY = "extra_forbidden"  # pydantic's type of the error

OPTIONS_OF_FAMILIES = frozenset(
    {
        "adapter",
        "adapters",
        "arguments",
        "artifacts_field",
        "audio_format",
        "dtype",
        "dtypes",
        "fixed",
        "guidance_rescale",
        "images",
        "max_sequence_length",
        "media_type",
        "multiple",
        "native_size",
        "pipeline",
        "solver",
        "step_cache",
        "task",
        "tiling",
        "unless_empty",
        "video",
        "video_format",
    }
)
"""Keys of ``options`` that a built-in family, or a schema, reads."""

BUILT_IN_FAMILIES = frozenset({"audio", "flux", "flux2", "generic", "sdxl", "video"})
"""Other families are an operator's own code, which reads any options."""


def mistakes_of(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[Place, str]]:
    """Place and sentence of each mistake that ``model`` has found.

    Unknown keys first: `famly` is the reason that `family` is missing.
    """
    found = error.errors(include_url=False)
    for each in sorted(found, key=lambda each: each["type"] != UNKNOWN_KEY):
        place = each["loc"]
        if each["type"] == UNKNOWN_KEY:
            yield place, unknown_key(str(place[-1]), _keys_at(model, place[:-1]))
        else:
            yield place, each["msg"]


def unknown_options(family: str, options: Iterable[str]) -> Iterator[tuple[Place, str]]:
    """Place and sentence of each option that the family does not read, and would ignore."""
    if family not in BUILT_IN_FAMILIES:
        return
    for name in options:
        if name not in OPTIONS_OF_FAMILIES:
            yield ("options", name), unknown_key(name, OPTIONS_OF_FAMILIES)


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Sentence about an unknown key, with the nearest known one, or all of them."""
    keys = sorted(known)
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    rest = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(keys)}"
    return f"unknown key `{name}`; {rest}"


def _keys_at(model: type[BaseModel], place: Place) -> Iterator[str]:
    """Keys of the object at ``place`` inside a ``model``."""
    for part in place:
        field = _fields(model).get(str(part))
        if field is not None:  # otherwise an index, or a key of a mapping
            model = next(_models_in(field.annotation), model)
    yield from _fields(model)


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Fields of ``model`` by their keys in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
