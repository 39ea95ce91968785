"""Stand-ins: modules that look like a pipeline's own and hand calls to the engine.

A stand-in is an instance of a dynamic subclass of the real module's class and shares the real
module's ``__dict__``, so ``isinstance``, ``.config``, ``.dtype``, parameters and hooks are the real
ones. Inside a generation it counts its calls, and if it stands for a denoiser, each suspends the
generation instead of computing. What would change the denoiser for everybody is kept from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from greenlet import getcurrent, greenlet

from deployments.engine.step_caches import CacheContext


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """A call that a suspended generation waits for."""

    module: Any  # the real denoiser
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    cache: CacheContext | None = None  # what the pipeline said about it


class GenerationGreenlet(greenlet):
    """The coroutine that a generation's pipeline call runs in. Its parent is the engine's loop."""

    def __init__(
        self, run: Callable[[], Any], parent: greenlet, encode: Callable[..., Any]
    ) -> None:
        """``encode``: computes a module that is no denoiser, of its arguments."""
        super().__init__(run, parent)
        self.encode = encode
        self.calls: Counter[str] = Counter()  # of each component, by name
        self.cache: CacheContext | None = None

    def suspend(self, call: DenoiserCall) -> Any:
        """Hand ``call`` to the engine; returns its output, or raises what the engine throws in."""
        parent = self.parent
        if parent is None:  # only a main greenlet has none
            raise RuntimeError("A generation runs outside of an engine.")
        return parent.switch(call)


def stand_in_for(module: Any, name: str, *, suspends: bool) -> Any:
    """A stand-in for ``module``, the pipeline's component ``name``. ``suspends``: it is a denoiser.
    It has no state of a generation's, so all generations share one."""
    twin = object.__new__(_stand_in_class(type(module)))
    # Past `nn.Module.__setattr__`, which would look for parameters in what is assigned.
    object.__setattr__(twin, "__dict__", module.__dict__)
    object.__setattr__(twin, "real_module", module)
    object.__setattr__(twin, "component", name)
    object.__setattr__(twin, "suspends", suspends)
    return twin


def let_suspend(stand_in: Any) -> None:
    """From now on it stands for a denoiser."""
    object.__setattr__(stand_in, "suspends", True)


@cache
def _stand_in_class(real_class: type) -> type:
    # The slots lie outside of the shared ``__dict__``.
    body: dict[str, Any] = {
        "__slots__": ("component", "real_module", "suspends"),
        "__call__": _call,
        "__module__": real_class.__module__,
    }
    if hasattr(real_class, "cache_context"):
        body |= {"cache_context": _cache_context, "_reset_stateful_cache": _keep_caches}
    return type(real_class.__name__, (real_class,), body)


def _call(self: Any, *arguments: Any, **keywords: Any) -> Any:
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        return self.real_module(*arguments, **keywords)
    current.calls[self.component] += 1
    if not self.suspends:
        return current.encode(self.real_module, arguments, keywords)
    return current.suspend(DenoiserCall(self.real_module, arguments, keywords, current.cache))


@contextmanager
def _cache_context(self: Any, name: str, **more: Any) -> Generator[None]:
    """Remembered for the call, which enters it with the generation's own name."""
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        with self.real_module.cache_context(name, **more):
            yield
        return
    before, current.cache = current.cache, CacheContext(name, more)
    try:
        yield
    finally:
        current.cache = before


def _keep_caches(self: Any, *arguments: Any, **keywords: Any) -> None:
    """Outside of a generation as the real one. Inside, the others' caches are not to be reset."""
    if not isinstance(getcurrent(), GenerationGreenlet):
        self.real_module._reset_stateful_cache(*arguments, **keywords)  # noqa: SLF001
