"""What a module was called with, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Arguments bound to the names that the method gives them. Those that were left out stay out:
    a default means what the module means by it."""

    named: dict[str, Any]  # in the order of the signature
    positional: int  # so many were given by their place; wrappers of ``forward`` look for the rest
    signature: inspect.Signature

    def with_values(self, named: Mapping[str, Any]) -> CallArguments:
        return CallArguments(dict(named), self.positional, self.signature)

    def call(self, function: Callable[..., Any]) -> Any:
        """``function``'s output for them, given as they were."""
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
        """The first argument: by convention what is computed on, and what has the rows."""
        return next(iter(self.named.values()), None)


def bind(
    module: Any,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    method: str = "__call__",
) -> CallArguments:
    """``TypeError`` when the method does not take them."""
    signature = _signature(type(module), "forward" if method == "__call__" else method)
    named = signature.bind(*arguments, **keywords).arguments
    return CallArguments(named, len(arguments), signature)


@cache
def _signature(kind: type, method: str) -> inspect.Signature:
    """Of the class, because hooks may have wrapped the instance's own ``forward``."""
    signature = inspect.signature(getattr(kind, method))
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def tensors_in(value: Any) -> Iterator[Any]:
    """All tensors in nested containers."""
    import torch  # noqa: PLC0415

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
