"""Log of a generation's calls: where it can be resumed, and the form of each denoiser output.

A snapshot needs it: a resumed generation runs up to the same call, and each earlier call returns a
placeholder of the same form as the original output.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from deployments.engine.interception.components import ComponentKind
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.arguments import CannotCopy, copy_output, tensors_in

Form = Any
"""Structure of an output as JSON: shapes, dtypes and containers, without the numbers."""


class CallLog:
    """Answered calls of one generation."""

    def __init__(self, keep_bytes: int = 0) -> None:
        """``keep_bytes``: limit for kept outputs, on their device.

        If the outputs exceed the limit, or if it is 0, none are kept.
        """
        self.calls: list[tuple[str, Form]] = []  # (component name, form of the output)
        self.outputs: list[Any] | None = [] if keep_bytes else None
        self._left = keep_bytes
        # Autoencoder methods called since the last denoiser call; None before the first one.
        self._coded: frozenset[str] | None = None

    def add(self, call: ComponentCall, output: Any) -> None:
        """Record an answered call, and the form of its output if it is a denoiser's."""
        self.pass_over(call)
        if call.part is not ComponentKind.DENOISER:
            return
        self.calls.append((call.component, form_of(output)))
        if self.outputs is None:
            return
        self._left -= sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(output))
        if self._left < 0:
            self.outputs = None
            return
        try:
            self.outputs.append(copy_output(output))  # pipelines may write into the original
        except CannotCopy:
            self.outputs = None

    def pass_over(self, call: ComponentCall) -> None:
        """Record that a call was answered, without its output."""
        if call.part is ComponentKind.DENOISER:
            self._coded = frozenset()
        elif self._coded is not None and (name := name_of(call)):
            self._coded |= {name}

    def is_resume_point(self, call: ComponentCall) -> bool:
        """Return whether ``call`` can be found again by the denoiser calls before it.

        Resume points are the calls of denoisers, and after each the first call of the autoencoder.
        """
        if call.part is ComponentKind.DENOISER:
            return True
        name = name_of(call)
        return bool(name) and self._coded is not None and name not in self._coded


def name_of(call: ComponentCall) -> str:
    """Name of a resume point in a snapshot.

    It is empty for a denoiser call, which is identified by its number, and for text encoder calls
    and chunks, which are not resume points.
    """
    coded = call.part is ComponentKind.AUTOENCODER and call.method != "__call__"
    return f"{call.component}.{call.method}" if coded else ""


def form_of(output: Any, depth: int = 0) -> Form:
    """Return the form of ``output``: ``{"opaque": class}`` for an unknown class."""
    if isinstance(output, torch.Tensor):
        return {"shape": list(output.shape), "dtype": str(output.dtype).removeprefix("torch.")}
    if output is None or isinstance(output, bool | int | float | str):
        return output
    kind = type(output)
    if kind in {tuple, list}:
        return {kind.__name__: [form_of(item, depth + 1) for item in output]}
    if kind is dict:
        return {"dict": [[key, form_of(item, depth + 1)] for key, item in output.items()]}
    if kind.__module__.startswith(_OF_DIFFUSERS) and depth < _DEEPEST:
        return {
            "of": [kind.__module__, kind.__qualname__],
            "fields": {name: form_of(field, depth + 1) for name, field in vars(output).items()},
        }
    return {"opaque": f"{kind.__module__}.{kind.__qualname__}"}


def placeholder(form: Form, device: str) -> Any:
    """Build an output of zeros with this form.

    Raises ``ValueError`` or ``TypeError`` for an invalid form.
    """
    match form:
        case {"shape": shape, "dtype": str(name)}:
            dtype = getattr(torch, name, None)
            if not isinstance(dtype, torch.dtype):
                raise TypeError(f"{name} is not a tensor dtype.")
            return torch.zeros(shape, dtype=dtype, device=device)
        case {"tuple": items}:
            return tuple(placeholder(item, device) for item in items)
        case {"list": items}:
            return [placeholder(item, device) for item in items]
        case {"dict": items}:
            return {key: placeholder(item, device) for key, item in items}
        case {"of": [str(module), str(name)], "fields": fields}:
            values = {name: placeholder(field, device) for name, field in fields.items()}
            return _instantiate(module, name, values)
        case Mapping():
            raise ValueError(f"{form} is not the form of an output.")
        case _:
            return form


def _instantiate(module: str, name: str, fields: Mapping[str, Any]) -> Any:
    """Create an instance without calling its constructor, except for outputs that are dictionaries.

    A snapshot is untrusted input, so it can only name classes that diffusers' models define.
    """
    if not module.startswith(_OF_DIFFUSERS):
        raise TypeError(f"{module}.{name} is not an output of a diffusers model.")
    kind: Any = getattr(importlib.import_module(module), name)
    if issubclass(kind, dict):
        return kind(**fields)
    instance = object.__new__(kind)
    vars(instance).update(fields)
    return instance


_OF_DIFFUSERS = ("diffusers.models.", "diffusers.utils.")
_DEEPEST = 8  # an output that contains itself has no form
