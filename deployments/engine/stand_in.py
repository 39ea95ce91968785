"""Stand-ins: modules that look like a denoiser and hand each call to the engine.

A stand-in is an instance of a dynamic subclass of the real module's class and shares the real
module's ``__dict__``, so ``isinstance``, ``.config``, ``.dtype``, parameters and hooks are the real
ones. Only ``__call__`` differs: inside a generation it suspends the generation instead of
computing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from greenlet import getcurrent, greenlet


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """A call that a suspended generation waits for."""

    module: Any  # the real denoiser
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def key(self) -> Hashable:
        """The batch key: calls with equal keys go through the same module.

        Only that is told apart as yet, because every forward serves one call; what may share a
        forward is narrower.
        """
        return id(self.module)

    def run(self) -> Any:
        """The real denoiser's output."""
        return self.module(*self.arguments, **self.keywords)


class GenerationGreenlet(greenlet):
    """The coroutine that a generation's pipeline call runs in. Its parent is the engine's loop."""

    def suspend(self, call: DenoiserCall) -> Any:
        """Hand ``call`` to the engine; returns its output, or raises what the engine throws in."""
        parent = self.parent
        if parent is None:  # only a main greenlet has none
            raise RuntimeError("A generation runs outside of an engine.")
        return parent.switch(call)


def stand_in_for(module: Any) -> Any:
    """A stand-in for ``module``. It holds no state, so all generations share one."""
    twin = object.__new__(_stand_in_class(type(module)))
    # Past `nn.Module.__setattr__`, which would look for parameters in what is assigned.
    object.__setattr__(twin, "__dict__", module.__dict__)
    object.__setattr__(twin, "real_module", module)
    return twin


@cache
def _stand_in_class(real_class: type) -> type:
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        if isinstance(current, GenerationGreenlet):
            return current.suspend(DenoiserCall(self.real_module, arguments, keywords))
        return self.real_module(*arguments, **keywords)

    # A slot lies outside of the shared ``__dict__``.
    body = {"__slots__": ("real_module",), "__call__": call, "__module__": real_class.__module__}
    return type(real_class.__name__, (real_class,), body)
