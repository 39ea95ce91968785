"""Proxies: modules that look like a pipeline's own and pass calls to the engine.

A proxy is an instance of a dynamic subclass of the real module's class and shares the real module's
``__dict__``, so ``isinstance``, ``.config``, ``.dtype``, parameters and hooks are the real ones.
Inside a generation it counts its calls. If it is a denoiser's proxy, each call suspends the
generation instead of computing; ``loop/encoders.py`` answers the others. Operations that would
change the denoiser for all generations are blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from greenlet import getcurrent, greenlet
from torch import nn
from torch.nn.functional import layer_norm
from transformers import CLIPTextModel

from deployments.engine.interception.components import ComponentKind, is_autoencoder
from deployments.engine.interception.lazy_tensor import fetch_tensors
from deployments.engine.interception.step_caches import CacheContext
from serve_app.domain.errors import SnapshotRefused

# Lookup of the device and dtype of a pipeline's components without checking every module.
# diffusers looks for offloading and casting hooks in all modules of all components, six times in
# a call of Flux, with `hasattr`, which takes about a microsecond for a module without hooks. That
# is a twentieth of a small model's generation, during which no other one makes a step. This
# module looks into the modules' dictionaries instead, which takes a thirtieth of that time. If
# there is any hook, diffusers' own lookup is used.

_HOOKS = ("_diffusers_hook", "_hf_hook")  # attributes of diffusers and of accelerate


def is_hooked(modules: Iterable[nn.Module]) -> bool:
    """Return whether any module has a hook that may change its device for computing."""
    return any(hook in vars(module) for module in modules for hook in _HOOKS)


def looks_into_every_module(real_class: type, name: str) -> bool:
    """Return whether its property ``name``, device or dtype, is the one of diffusers' models."""
    return getattr(real_class, name, None) is getattr(ModelMixin, name)


def device_of(module: Any, modules: Iterable[nn.Module]) -> Any:
    """Device of a diffusers model with the submodules ``modules``; equal to ``module.device``."""
    first = next(module.parameters(), None)
    return module.device if first is None or is_hooked(modules) else first.device


def dtype_of(module: Any, modules: Iterable[nn.Module]) -> Any:
    """Dtype of a diffusers model, equal to ``module.dtype``; see ``device_of``."""
    first = next(module.parameters(), None)
    if first is None or not first.is_floating_point() or is_hooked(modules):
        return module.dtype
    if getattr(module, "_keep_in_fp32_modules", None):  # the first parameter may stay float32
        return module.dtype
    return first.dtype


@cache
def class_of_copies(real_class: type) -> type:
    """Class of a generation's copy of a pipeline of ``real_class``.

    It differs only in how it looks up its execution device.
    """
    real: Any = getattr(real_class, "_execution_device", None)
    if real is not getattr(DiffusionPipeline, "_execution_device"):  # noqa: B009 (it is private)
        return real_class

    def execution_device(self: Any) -> Any:
        parts = [value for value in vars(self).values() if isinstance(value, nn.Module)]
        hooked = any(is_hooked(part.modules()) for part in parts)
        return real.__get__(self) if hooked else self.device

    return type(
        real_class.__name__,
        (real_class,),
        {
            "_execution_device": property(execution_device),
            "__module__": real_class.__module__,
            "__qualname__": real_class.__qualname__,
            "__doc__": real_class.__doc__,
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class ComponentCall:
    """Call of a pipeline's component, for which its generation is suspended."""

    module: Any  # the real module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    cache: CacheContext | None = None  # the pipeline's cache context around the call
    component: str = ""  # the pipeline's name for the module
    part: ComponentKind = ComponentKind.DENOISER
    method: str = "__call__"  # the called method of the module
    content: Hashable = None  # equal for bit-equal outputs; None: unknown
    frames_left: int = 0  # for a chunk: video frames left, including its own; 0: not a chunk.
    # For audio, tiles.
    frames: int = 0  # for a decoded chunk: frames of the whole, if progress is to be reported

    @property
    def is_step(self) -> bool:
        """Return whether it is one of many steps: a denoiser call, or a chunk of video or audio."""
        return self.part is ComponentKind.DENOISER or self.frames_left > 0

    @property
    def function(self) -> Callable[..., Any]:
        return self.module if self.method == "__call__" else getattr(self.module, self.method)

    def compute(self) -> Any:
        return self.function(*self.arguments, **self.keywords)


class FrameLookup:
    """Passed to a suspended generation in place of an answer.

    The generation runs ``find`` at its suspended call, among its own frames, and suspends again.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._found: Any = None
        self._failed = ""

    def run(self) -> None:
        try:
            self._found = self._find()
        except Exception as error:
            # Not the error itself: its traceback would keep the pipeline's frames alive.
            self._failed = str(error) or type(error).__name__

    def result(self) -> Any:
        """Return the result. Raises ``SnapshotRefused`` if ``find`` raised."""
        if self._failed:
            raise SnapshotRefused(self._failed)
        return self._found


class GenerationGreenlet(greenlet):
    """Coroutine of a generation's pipeline call. Its parent is the engine's loop."""

    def __init__(
        self,
        run: Callable[[], Any],
        parent: greenlet,
        answer: Callable[[ComponentCall], Any],
        compute_whole: Callable[[ComponentCall], Any],
        *,
        read_only: bool = False,
    ) -> None:
        """``answer``: computes the call of a module that is not a denoiser.

        ``compute_whole``: computes it without suspending the generation. ``read_only``: its
        components keep their precision.
        """
        super().__init__(run, parent)
        self.read_only = read_only
        self.answer = answer
        self.compute_whole = compute_whole
        self.calls: Counter[str] = Counter()  # calls of each component, by name
        self.submodules: dict[str, Sequence[Any]] = {}  # submodules of each component, by name
        self.cache: CacheContext | None = None

    def suspend(self, call: ComponentCall) -> Any:
        """Pass ``call`` to the engine; return its output, or raise what the engine throws in."""
        parent = self.parent
        if parent is None:  # only a main greenlet has no parent
            raise RuntimeError("A generation runs outside of an engine.")
        answer = parent.switch(call)
        while isinstance(answer, FrameLookup):
            answer.run()
            answer = parent.switch(answer)
        return answer

    def look_up(self, find: Callable[[], Any]) -> Any:
        """For the engine: call ``find`` inside the suspended generation and return its result."""
        lookup = FrameLookup(find)
        self.switch(lookup)
        return lookup.result()


def proxy_for(module: Any, name: str, *, suspends: bool) -> Any:
    """Create a proxy for ``module``, the pipeline's component ``name``.

    ``suspends``: it is a denoiser. A proxy has no state of a generation, so all generations share
    it.
    """
    proxy_ = object.__new__(_proxy_class(type(module)))
    # Bypasses `nn.Module.__setattr__`, which would look for parameters in assigned values.
    object.__setattr__(proxy_, "__dict__", module.__dict__)
    object.__setattr__(proxy_, "real_module", module)
    object.__setattr__(proxy_, "component", name)
    object.__setattr__(proxy_, "suspends", suspends)
    object.__setattr__(proxy_, "usual_dtype", getattr(module, "dtype", None))
    return proxy_


def let_suspend(proxy: Any) -> None:
    """Treat the proxy's module as a denoiser from now on."""
    object.__setattr__(proxy, "suspends", True)


@cache
def _proxy_class(real_class: type) -> type:
    # The slots are outside of the shared ``__dict__``.
    body: dict[str, Any] = {
        "__slots__": ("component", "real_module", "suspends", "usual_dtype"),
        "__call__": _call,
        "modules": _modules,
        "__module__": real_class.__module__,
    }
    if hasattr(real_class, "cache_context"):
        body |= {"cache_context": _cache_context, "_reset_stateful_cache": _reset_own_caches}
    if is_autoencoder(real_class):
        methods = [name for name in _CODES if hasattr(real_class, name)]
        body |= {name: _intercepted_method(getattr(real_class, name)) for name in methods}
        body["to"] = _to
    if issubclass(real_class, CLIPTextModel):
        body["text_model"] = property(_text_model)
    for name, find in (("device", device_of), ("dtype", dtype_of)):
        if looks_into_every_module(real_class, name):
            body[name] = _cached_lookup(name, find)
    return type(real_class.__name__, (real_class,), body)


def _call(self: Any, *arguments: Any, **keywords: Any) -> Any:
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        return self.real_module(*arguments, **keywords)
    current.calls[self.component] += 1
    arguments, keywords = fetch_tensors(arguments), fetch_tensors(keywords)
    call = ComponentCall(self.real_module, arguments, keywords, current.cache, self.component)
    return current.suspend(call) if self.suspends else current.answer(call)


def _to(self: Any, *arguments: Any, **keywords: Any) -> Any:
    """Move or cast the module. SDXL in float16 upcasts its autoencoder for each decoding."""
    current = getcurrent()
    if not (isinstance(current, GenerationGreenlet) and current.read_only):
        self.real_module.to(*arguments, **keywords)
    return self


def _modules(self: Any, *arguments: Any, **keywords: Any) -> Iterator[Any]:
    """Iterate over the submodules, cached per generation.

    Pipelines look for hooks in all modules of all components, six times in a call of Flux, while
    other generations wait.
    """
    if arguments or keywords or (submodules := _submodules(self)) is None:
        return self.real_module.modules(*arguments, **keywords)
    return iter(submodules)


def _submodules(self: Any) -> Sequence[Any] | None:
    """All submodules of the real module; None outside of a generation."""
    current = getcurrent()
    if not isinstance(current, GenerationGreenlet):
        return None
    if (submodules := current.submodules.get(self.component)) is None:
        submodules = current.submodules[self.component] = tuple(self.real_module.modules())
    return submodules


def _cached_lookup(name: str, find: Callable[[Any, Sequence[Any]], Any]) -> property:
    """Property ``name``, computed by ``find`` from the real module and its submodules."""

    def value(self: Any) -> Any:
        submodules = _submodules(self)
        real = self.real_module
        return getattr(real, name) if submodules is None else find(real, submodules)

    return property(value)  # pyrefly: ignore[bad-return]


def _intercepted_method(real: Callable[..., Any]) -> Callable[..., Any]:
    """Replacement for a method that computes, which passes the call to the engine."""
    name = real.__name__

    @wraps(real)
    def intercepted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        own = self.real_module
        if not isinstance(current, GenerationGreenlet):
            return getattr(own, name)(*arguments, **keywords)
        arguments, keywords = fetch_tensors(arguments), fetch_tensors(keywords)
        arguments = tuple(_in_dtype(argument, self.dtype) for argument in arguments)
        call = ComponentCall(own, arguments, keywords, component=self.component, method=name)
        # A module that the pipeline has upcast must be restored before others call it.
        upcast = self.dtype != self.usual_dtype
        return current.compute_whole(call) if upcast else current.answer(call)

    return intercepted


class _TextModel:
    """Inner model of a CLIP text encoder. diffusers 0.42 takes its last norm after ``clip_skip``,
    which transformers 5.23 has in the encoder itself."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def final_layer_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        """The norm where ``hidden`` is: a recipe may keep the encoder elsewhere."""
        norm = self._encoder.final_layer_norm
        weight, bias = (value.to(hidden.device) for value in (norm.weight, norm.bias))
        return layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps)


def _text_model(self: Any) -> Any:
    children = dict(self.real_module.named_children())
    return _TextModel(children.get("text_model", self.real_module))


def _in_dtype(value: Any, dtype: Any) -> Any:
    """Return 16-bit latents or images in the autoencoder's 16 bits; everything else as it is.

    SDXL passes float16 to an autoencoder that a recipe loads in bfloat16, and converts nothing.
    """
    halves = (torch.float16, torch.bfloat16)
    if isinstance(value, torch.Tensor) and {value.dtype, dtype} == {*halves}:
        return value.to(dtype)
    return value


@contextmanager
def _cache_context(self: Any, name: str, **more: Any) -> Generator[None]:
    """Store the context for the call, which enters it under the generation's own name."""
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


def _reset_own_caches(self: Any, *arguments: Any, **keywords: Any) -> None:
    """Reset caches outside of a generation only: inside, others' caches must not be reset."""
    if not isinstance(getcurrent(), GenerationGreenlet):
        self.real_module._reset_stateful_cache(*arguments, **keywords)  # noqa: SLF001


_CODES = ("encode", "decode")
