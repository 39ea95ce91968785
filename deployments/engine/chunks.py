"""Clips that an autoencoder takes in chunks, so that the others step in between.

The call runs in its generation on a copy of the autoencoder: what it remembers from chunk to chunk
lies on the copy, so clips that are decoded in turns do not mix. The copy's inner decoder or encoder
suspends the generation for each chunk. The weights are the same.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from greenlet import getcurrent

from deployments.engine.part import Part
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet

CHUNKED = frozenset(
    {
        "AutoencoderKLWan",
        "AutoencoderKLCogVideoX",
        "AutoencoderKLHunyuanVideo",
        "AutoencoderKLLTXVideo",
    }
)
"""Those of which it is known that they change nothing but themselves on the way."""


def in_chunks(call: DenoiserCall) -> bool:
    """Whether it is of a clip, by an autoencoder that can be copied: one that comes in to be called
    may be sent away between two chunks."""
    inner = _INNER.get(call.method)
    if inner is None or type(call.module).__name__ not in CHUNKED:
        return False
    hooked = hasattr(call.module, "_hf_hook") or hasattr(call.module, "_diffusers_hook")
    given = [*call.arguments, *call.keywords.values()][:1]
    return not hooked and any(_is_clip(each) for each in given)


def computed(call: DenoiserCall) -> Any:
    """The output of ``call``; inside of the generation, which is suspended at each chunk."""
    inner = _INNER[call.method]
    twin = copy.copy(call.module)
    twin._modules = dict(twin._modules)  # noqa: SLF001
    twin._modules[inner] = _Chunks.of(getattr(call.module, inner), f"{call.component}.{inner}")  # noqa: SLF001
    return getattr(twin, call.method)(*call.arguments, **call.keywords)


class _Chunks:
    """What is added to the class of an inner module."""

    real_module: Any
    component: str

    @staticmethod
    def of(module: Any, component: str) -> Any:
        """It looks like ``module``, and suspends the generation where that would compute."""
        twin = object.__new__(_class_of(type(module)))
        object.__setattr__(twin, "__dict__", {**vars(module)})
        object.__setattr__(twin, "real_module", module)
        object.__setattr__(twin, "component", component)
        return twin

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        if not isinstance(current, GenerationGreenlet):
            return self.real_module(*arguments, **keywords)
        return current.suspend(
            DenoiserCall(
                self.real_module,
                arguments,
                keywords,
                component=self.component,
                part=Part.AUTOENCODER,
            )
        )


@cache
def _class_of(real: type) -> type:
    return type(real.__name__, (_Chunks, real), {"__module__": real.__module__})


def _is_clip(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 5 and value.shape[2] > 1


_INNER = {"encode": "encoder", "decode": "decoder"}
