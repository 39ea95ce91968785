"""Tells whether a call is the same one again: of the same pipeline, with the same arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from deployments.engine.content import digest_of


def of_pipeline(pipeline: Any) -> str:
    """Equal for pipelines of one class whose components have the same classes and configurations.
    Weights are not read."""
    hashed = hashlib.sha256(_name(pipeline).encode())
    for name, component in sorted(getattr(pipeline, "__dict__", {}).items()):
        if config := getattr(component, "config", None):
            told = config.to_dict() if hasattr(config, "to_dict") else config
            hashed.update(f"{name}{_name(component)}{_told(told)}".encode())
    return hashed.hexdigest()


def of_arguments(arguments: Mapping[str, Any]) -> str:
    """Equal for calls that ask for the same. Of a random generator its seed counts, not how often
    it was used; of functions and objects that cannot be read, their class."""
    return hashlib.sha256(_content(arguments).encode()).hexdigest()


def _told(config: Mapping[str, Any]) -> str:
    """Without what changes from load to load, such as where it was loaded from."""
    has = {str(key): str(config[key]) for key in config if str(key)[0] != "_"}
    return str(sorted(has.items()))


def _content(value: Any) -> str:
    for kinds, told in _KINDS:
        if isinstance(value, kinds):
            return f"{_name(value)}({told(value)})"
    return _name(value)


def _items(values: Any) -> str:
    return ",".join(map(_content, values))


def _entries(mapping: Mapping[Any, Any]) -> str:
    return ",".join(_sorted_entries(mapping))


def _sorted_entries(mapping: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted(mapping, key=str):
        yield f"{key!r}:{_content(mapping[key])}"


def _picture(picture: Image) -> str:
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()
    return f"{picture.mode} {picture.size} {pixels}"


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


_KINDS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    ((str, bytes, bool, int, float, type(None), torch.dtype, torch.device, PurePath), repr),
    (torch.Tensor, lambda tensor: digest_of(tensor).hex()),
    (torch.Generator, lambda generator: f"{generator.device} {generator.initial_seed()}"),
    (np.ndarray, lambda array: f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"),
    (Image, _picture),
    (Mapping, _entries),
    ((list, tuple), _items),
)
