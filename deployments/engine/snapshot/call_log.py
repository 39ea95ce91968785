"""Which denoiser calls a generation has made, and what kind of output each gave.

A snapshot needs it: a resumed generation runs up to the same call, and gets for each call before
something that looks like its output.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from deployments.engine.call_arguments import tensors_in
from deployments.engine.outputs import CannotCopy, copied

Form = Any
"""JSON: the shapes, types and containers of an output, without the numbers."""


class CallLog:
    def __init__(self, keep_bytes: int = 0) -> None:
        """``keep_bytes``: of outputs to keep, where they are; above that, or with 0, none are."""
        self.calls: list[tuple[str, Form]] = []  # the component's name, and what it gave
        self.outputs: list[Any] | None = [] if keep_bytes else None
        self._left = keep_bytes

    def add(self, component: str, output: Any) -> None:
        self.calls.append((component, form_of(output)))
        if self.outputs is None:
            return
        self._left -= sum(each.numel() * each.element_size() for each in tensors_in(output))
        if self._left < 0:
            self.outputs = None
            return
        try:
            self.outputs.append(copied(output))  # pipelines may write into what they get
        except CannotCopy:
            self.outputs = None


def form_of(output: Any, depth: int = 0) -> Form:
    """``{"opaque": class}`` where it is of no known kind."""
    if isinstance(output, torch.Tensor):
        return {"shape": list(output.shape), "dtype": str(output.dtype).removeprefix("torch.")}
    if output is None or isinstance(output, bool | int | float | str):
        return output
    kind = type(output)
    if kind in {tuple, list}:
        return {kind.__name__: [form_of(each, depth + 1) for each in output]}
    if kind is dict:
        return {"dict": [[key, form_of(each, depth + 1)] for key, each in output.items()]}
    if kind.__module__.startswith(_OF_DIFFUSERS) and depth < _DEEPEST:
        return {
            "of": [kind.__module__, kind.__qualname__],
            "fields": {name: form_of(each, depth + 1) for name, each in vars(output).items()},
        }
    return {"opaque": f"{kind.__module__}.{kind.__qualname__}"}


def filled(form: Form, device: str) -> Any:
    """An output of that form, of zeros. ``ValueError``, ``TypeError`` for what is no form."""
    match form:
        case {"shape": shape, "dtype": str(name)}:
            dtype = getattr(torch, name, None)
            if not isinstance(dtype, torch.dtype):
                raise TypeError(f"{name} is no type of tensors.")
            return torch.zeros(shape, dtype=dtype, device=device)
        case {"tuple": items}:
            return tuple(filled(each, device) for each in items)
        case {"list": items}:
            return [filled(each, device) for each in items]
        case {"dict": items}:
            return {key: filled(each, device) for key, each in items}
        case {"of": [str(module), str(name)], "fields": fields}:
            values = {name: filled(each, device) for name, each in fields.items()}
            return _made(module, name, values)
        case Mapping():
            raise ValueError(f"{form} is no form of an output.")
        case _:
            return form


def _made(module: str, name: str, fields: Mapping[str, Any]) -> Any:
    """Without calling its constructor, but for outputs, which are dictionaries as well. A snapshot
    comes from outside: it can only name what the models of diffusers define."""
    if not module.startswith(_OF_DIFFUSERS):
        raise TypeError(f"{module}.{name} is no output of a model of diffusers.")
    kind: Any = getattr(importlib.import_module(module), name)
    if issubclass(kind, dict):
        return kind(**fields)
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


_OF_DIFFUSERS = ("diffusers.models.", "diffusers.utils.")
_DEEPEST = 8  # an output that holds itself has no form
