"""Arguments of a module call, by name."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Arguments bound to the parameter names of a method.

    Omitted arguments stay omitted: the module itself decides what its defaults mean.
    """

    named: dict[str, Any]  # in the order of the signature
    positional: int  # number of positional arguments; wrappers of ``forward`` expect them as such
    signature: inspect.Signature

    def with_values(self, named: Mapping[str, Any]) -> CallArguments:
        return CallArguments(dict(named), self.positional, self.signature)

    def call(self, function: Callable[..., Any]) -> Any:
        """Call ``function`` with the arguments, positional or by keyword as they were passed."""
        places: list[Any] = []
        keywords: dict[str, Any] = {}
        for name, value in self.named.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                places += value
            elif kind is inspect.Parameter.VAR_KEYWORD:
                keywords |= value
            elif len(places) < self.positional:
                places.append(value)
            else:
                keywords[name] = value
        return function(*places, **keywords)

    def main(self) -> Any:
        """First argument: by convention the tensor to compute on, which has the rows."""
        return next(iter(self.named.values()), None)


def bind(
    module: Any,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    method: str = "__call__",
) -> CallArguments:
    """Bind the arguments of a call. Raises ``TypeError`` when the method does not accept them."""
    signature = _signature(type(module), "forward" if method == "__call__" else method)
    named = signature.bind(*arguments, **keywords).arguments
    return CallArguments(named, len(arguments), signature)


@cache
def _signature(kind: type, method: str) -> inspect.Signature:
    """Signature of the class's method; hooks may have wrapped the instance's ``forward``."""
    signature = inspect.signature(getattr(kind, method))
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def tensors_in(value: Any) -> Iterator[Any]:
    """Iterate over all tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def map_tensors(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Apply ``change`` to every tensor in nested containers."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(change, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(change, item) for item in value)
    return value


# Digests that show whether tensors of several generations have equal contents.


@dataclass(frozen=True, slots=True)
class _DigestEntry:
    tensor: weakref.ref[torch.Tensor]
    version: int
    digest: bytes


class ContentDigests:
    """Cache of digests of tensors, valid while the tensor lives and is not written to.

    Pipelines pass the same position tensor at every step, and reading a tensor on a GPU waits for
    the device.
    """

    def __init__(self) -> None:
        self._known: dict[int, _DigestEntry] = {}

    def of(self, tensor: torch.Tensor) -> bytes:
        """Digest that is equal for equal shape, dtype and bytes."""
        version = version_of(tensor)
        known = self._known.get(id(tensor))
        if known is not None and known.tensor() is tensor and known.version == version:
            return known.digest
        digest = digest_of(tensor)
        if version is not None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[id(tensor)] = _DigestEntry(weakref.ref(tensor), version, digest)
        return digest


def version_of(tensor: torch.Tensor) -> int | None:
    """Counter of writes to the tensor; None where torch does not count (inference mode)."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001


def versions_in(value: Any) -> list[int | None]:
    """Counters of writes to the tensors of nested containers; they change with any write."""
    return [version_of(tensor) for tensor in tensors_in(value)]


def digest_of(tensor: torch.Tensor) -> bytes:
    """Digest that is equal for equal shape, dtype and bytes."""
    hashed = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    hashed.update(bytes_of(tensor).numpy().data)
    return hashed.digest()


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Contents as uint8 [bytes] on the CPU, in logical element order. numpy has no bfloat16."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    # A single number may have a stride of 0: it counts as contiguous but cannot be viewed.
    return flat.copy_(tensor.detach().reshape(-1)).view(torch.uint8)


_MAX_KNOWN = 4096


# Module outputs: tensors in tuples, lists, dicts, dataclasses of the libraries, and objects.


class CannotCopy(Exception):
    """Output that contains something other than tensors and plain values."""


def copy_output(output: Any) -> Any:
    """Copy an output with its tensors. Raises ``CannotCopy`` when it contains other objects."""
    return rebuilt(torch.clone, output)


def rebuilt(change: Callable[[torch.Tensor], Any], output: Any) -> Any:
    """Build an output of the same classes from ``change`` of each tensor, in a fixed order.

    Raises ``CannotCopy`` when ``output`` contains other objects than tensors and plain values.
    """
    if isinstance(output, torch.Tensor):
        return change(output)
    if dataclasses.is_dataclass(output):
        fields = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
        return type(output)(**{name: rebuilt(change, field) for name, field in fields.items()})
    if isinstance(output, Mapping):
        kind: Any = type(output)
        return kind({key: rebuilt(change, item) for key, item in output.items()})
    if isinstance(output, list | tuple):
        return type(output)(rebuilt(change, item) for item in output)
    if output is None or isinstance(output, bool | int | float | str):
        return output
    if (content := held_in(output)) is not None:
        return refill(output, rebuilt(change, content))
    raise CannotCopy(type(output).__name__)


Held = list[dict[str, torch.Tensor]]


def held_in(box: Any) -> Held | None:
    """Tensors of an object that holds some, one row per row each; None for an unknown class.

    Language models return their cache for continuing the text, autoencoders return a distribution.
    """
    parts = _parts(box)
    return None if parts is None else [_tensors(part) for part in parts]


def refill(box: Any, contents: Held) -> Any:
    """Copy of ``box`` that holds other tensors."""
    new = copy.copy(box)
    if isinstance(new, DynamicCache):
        new.layers = [copy.copy(layer) for layer in new.layers]
    for part, tensors in zip(_parts(new) or (), contents, strict=True):
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
    """Tensors without single numbers, which belong to all rows."""
    return {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor) and value.ndim
    }


_AUTOENCODERS = "diffusers.models.autoencoders."
