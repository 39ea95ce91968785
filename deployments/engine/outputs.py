"""What modules return: tensors in tuples, lists, dicts and the dataclasses of their libraries, and
objects that hold some."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import DynamicCache


class CannotCopy(Exception):
    """There is something in it that is neither a tensor nor a plain value."""


def copied(output: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    if dataclasses.is_dataclass(output):
        fields = dataclasses.fields(output)
        return type(output)(**{each.name: copied(getattr(output, each.name)) for each in fields})
    if isinstance(output, Mapping):
        return type(output)({key: copied(each) for key, each in output.items()})  # pyright: ignore[reportCallIssue]
    if isinstance(output, list | tuple):
        return type(output)(copied(each) for each in output)
    if output is None or isinstance(output, bool | int | float | str):
        return output
    if (held := held_in(output)) is not None:
        return refilled(output, copied(held))
    raise CannotCopy(type(output).__name__)


def size_of(output: Any) -> int:
    """Bytes of its tensors."""
    if isinstance(output, torch.Tensor):
        return output.numel() * output.element_size()
    if dataclasses.is_dataclass(output):
        return sum(size_of(getattr(output, each.name)) for each in dataclasses.fields(output))
    if isinstance(output, Mapping):
        return sum(map(size_of, output.values()))
    if isinstance(output, list | tuple):
        return sum(map(size_of, output))
    return size_of(held_in(output) or ())


Held = list[dict[str, torch.Tensor]]


def held_in(box: Any) -> Held | None:
    """The tensors of an object that holds some, one with a row per row each; None where it is of
    no known kind. Language models return what they would need to write on, autoencoders a
    distribution."""
    parts = _parts(box)
    return None if parts is None else [_tensors(part) for part in parts]


def refilled(box: Any, held: Held) -> Any:
    """Another object like ``box`` that holds these."""
    new = copy.copy(box)
    if isinstance(new, DynamicCache):
        new.layers = [copy.copy(layer) for layer in new.layers]
    for part, tensors in zip(_parts(new) or (), held, strict=True):
        vars(part).update(tensors)
    return new


def _parts(box: Any) -> list[Any] | None:
    if isinstance(box, DynamicCache):
        return list(box.layers)
    kind = type(box)
    if kind.__module__.startswith(_AUTOENCODERS) and kind.__name__.endswith("Distribution"):
        return [box]
    return None


def _tensors(part: Any) -> dict[str, torch.Tensor]:
    """But single numbers, which are of all rows."""
    return {
        name: each
        for name, each in vars(part).items()
        if isinstance(each, torch.Tensor) and each.ndim
    }


_AUTOENCODERS = "diffusers.models.autoencoders."
