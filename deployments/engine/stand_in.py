"""Stand-ins: modules that look like a pipeline's own and hand calls to the engine.

A stand-in is an instance of a dynamic subclass of the real module's class and shares the real
module's ``__dict__``, so ``isinstance``, ``.config``, ``.dtype``, parameters and hooks are the real
ones. Inside a generation it counts its calls, and if it stands for a denoiser, each suspends the
generation instead of computing; ``codec.py`` says which others do. What would change the denoiser
for everybody is kept from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from greenlet import getcurrent, greenlet

from deployments.engine.part import Part, is_autoencoder
from deployments.engine.step_caches import CacheContext
from deployments.engine.whereabouts import asks_every_module, device_of, dtype_of
from serve_app.domain.errors import SnapshotRefused


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """A call that a suspended generation waits for."""

    module: Any  # the real one
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    cache: CacheContext | None = None  # what the pipeline said about it
    component: str = ""  # the pipeline's name for the module
    part: Part = Part.DENOISER
    method: str = "__call__"  # of the module, that was called
    content: Hashable = None  # equal: the output is, bit for bit; None: that cannot be told
    ahead: int = 0  # of a chunk of a clip: frames left to take, its own among them; 0: none.
    # Of a sound, tiles.
    frames: int = 0  # of a chunk that is decoded: those of the whole, if that is to be told

    @property
    def is_step(self) -> bool:
        """One of many that its generation takes: of a denoiser, or a chunk of a clip."""
        return self.part is Part.DENOISER or self.ahead > 0

    @property
    def function(self) -> Callable[..., Any]:
        return self.module if self.method == "__call__" else getattr(self.module, self.method)

    def compute(self) -> Any:
        return self.function(*self.arguments, **self.keywords)


class Look:
    """Given to a suspended generation in place of an answer: it runs ``find`` where it stands,
    among its own frames, and is suspended again."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._found: Any = None
        self._failed = ""

    def look(self) -> None:
        try:
            self._found = self._find()
        except Exception as error:
            # Not the error itself: its traceback would keep the pipeline's frames.
            self._failed = str(error) or type(error).__name__

    def found(self) -> Any:
        """``SnapshotRefused`` where ``find`` raised."""
        if self._failed:
            raise SnapshotRefused(self._failed)
        return self._found


class GenerationGreenlet(greenlet):
    """The coroutine that a generation's pipeline call runs in. Its parent is the engine's loop."""

    def __init__(
        self, run: Callable[[], Any], parent: greenlet, answer: Callable[[DenoiserCall], Any]
    ) -> None:
        """``answer``: what a call of a module that is no denoiser gives."""
        super().__init__(run, parent)
        self.answer = answer
        self.calls: Counter[str] = Counter()  # of each component, by name
        self.walked: dict[str, Sequence[Any]] = {}  # the modules in each component, by its name
        self.cache: CacheContext | None = None

    def suspend(self, call: DenoiserCall) -> Any:
        """Hand ``call`` to the engine; returns its output, or raises what the engine throws in."""
        parent = self.parent
        if parent is None:  # only a main greenlet has none
            raise RuntimeError("A generation runs outside of an engine.")
        answer = parent.switch(call)
        while isinstance(answer, Look):
            answer.look()
            answer = parent.switch(answer)
        return answer

    def look(self, find: Callable[[], Any]) -> Any:
        """For the engine, while it is suspended: what ``find`` returns, called in its place."""
        look = Look(find)
        self.switch(look)
        return look.found()


def stand_in_for(module: Any, name: str, *, suspends: bool) -> Any:
    """A stand-in for ``module``, the pipeline's component ``name``. ``suspends``: it is a denoiser.
    It has no state of a generation's, so all generations share one."""
    twin = object.__new__(_stand_in_class(type(module)))
    # Past `nn.Module.__setattr__`, which would look for parameters in what is assigned.
    object.__setattr__(twin, "__dict__", module.__dict__)
    object.__setattr__(twin, "real_module", module)
    object.__setattr__(twin, "component", name)
    object.__setattr__(twin, "suspends", suspends)
    object.__setattr__(twin, "usual_dtype", getattr(module, "dtype", None))
    return twin


def let_suspend(stand_in: Any) -> None:
    """From now on it stands for a denoiser."""
    object.__setattr__(stand_in, "suspends", True)


@cache
def _stand_in_class(real_class: type) -> type:
    # The slots lie outside of the shared ``__dict__``.
    body: dict[str, Any] = {
        "__slots__": ("component", "real_module", "suspends", "usual_dtype"),
        "__call__": _call,
        "modules": _modules,
        "__module__": real_class.__module__,
    }
    if hasattr(real_class, "cache_context"):
        body |= {"cache_context": _cache_context, "_reset_stateful_cache": _keep_caches}
    if is_autoencoder(real_class):
        methods = [name for name in _CODES if hasattr(real_class, name)]
        body |= {name: _handing_over(getattr(real_class, name)) for name in methods}
    for name, find in (("device", device_of), ("dtype", dtype_of)):
        if asks_every_module(real_class, name):
            body[name] = _whereabouts(name, find)
    return type(real_class.__name__, (real_class,), body)


def _call(self: Any, *arguments: Any, **keywords: Any) -> Any:
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        return self.real_module(*arguments, **keywords)
    current.calls[self.component] += 1
    call = DenoiserCall(self.real_module, arguments, keywords, current.cache, self.component)
    return current.suspend(call) if self.suspends else current.answer(call)


def _modules(self: Any, *arguments: Any, **keywords: Any) -> Iterator[Any]:
    """Walked once in a generation: pipelines look for hooks in all modules of all components, six
    times in a call of Flux, and other generations wait meanwhile."""
    if arguments or keywords or (walked := _walked(self)) is None:
        return self.real_module.modules(*arguments, **keywords)
    return iter(walked)


def _walked(self: Any) -> Sequence[Any] | None:
    """All modules of the real one; None outside of a generation."""
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        return None
    if (walked := current.walked.get(self.component)) is None:
        walked = current.walked[self.component] = tuple(self.real_module.modules())
    return walked


def _whereabouts(name: str, find: Callable[[Any, Sequence[Any]], Any]) -> property:
    """``find``: what the property ``name`` is, of the real module and all that are in it."""

    def told(self: Any) -> Any:
        walked = _walked(self)
        real = self.real_module
        return getattr(real, name) if walked is None else find(real, walked)

    return property(told)


def _handing_over(real: Callable[..., Any]) -> Callable[..., Any]:
    """In place of a method that computes."""
    name = real.__name__

    @wraps(real)
    def handed_over(self: Any, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        own = self.real_module
        # What a pipeline has upcast is to be as usual again before anybody else calls it.
        if not isinstance(current, GenerationGreenlet) or self.dtype != self.usual_dtype:
            return getattr(own, name)(*arguments, **keywords)
        return current.answer(
            DenoiserCall(own, arguments, keywords, component=self.component, method=name)
        )

    return handed_over


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


_CODES = ("encode", "decode")
