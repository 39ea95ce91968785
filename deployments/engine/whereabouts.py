"""Where a pipeline's components compute, and in what type, told without asking every module.

diffusers looks for the hooks of offloading and of casts in all modules of all components, six times
in a call of Flux, with `hasattr`; a module takes about a microsecond to say that it has none. That
is a twentieth of a small model's generation, in which no other one makes a step. Here the modules'
dictionaries are looked at instead, which takes a thirtieth of that, and where there is any hook,
diffusers is asked as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

_HOOKS = ("_diffusers_hook", "_hf_hook")  # attributes of diffusers and of accelerate


def is_hooked(modules: Iterable[nn.Module]) -> bool:
    """Whether any of them has what may say that it computes elsewhere than its weights lie."""
    return any(hook in vars(module) for module in modules for hook in _HOOKS)


def asks_every_module(real_class: type, name: str) -> bool:
    """Whether its property ``name``, device or dtype, is the one that diffusers' models have."""
    return getattr(real_class, name, None) is getattr(ModelMixin, name)


def device_of(module: Any, modules: Iterable[nn.Module]) -> Any:
    """Of a model of diffusers, of which ``modules`` are all; the same as ``module.device``."""
    first = next(module.parameters(), None)
    return module.device if first is None or is_hooked(modules) else first.device


def dtype_of(module: Any, modules: Iterable[nn.Module]) -> Any:
    """As ``device_of``; the same as ``module.dtype``."""
    first = next(module.parameters(), None)
    if first is None or not first.is_floating_point() or is_hooked(modules):
        return module.dtype
    if getattr(module, "_keep_in_fp32_modules", None):  # the first may be one that stays float32
        return module.dtype
    return first.dtype


@cache
def class_of_copies(real_class: type) -> type:
    """The class of a generation's copy of a pipeline of ``real_class``: the same, but for how it
    finds where it computes."""
    real: Any = getattr(real_class, "_execution_device", None)
    if real is not getattr(DiffusionPipeline, "_execution_device"):  # noqa: B009 (it is private)
        return real_class

    def execution_device(self: Any) -> Any:
        parts = [each for each in vars(self).values() if isinstance(each, nn.Module)]
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
