"""Which components of a pipeline are its denoisers: those that it calls again at each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

DENOISERS = ("transformer", "transformer_2", "unet")
"""Attributes under which most diffusers pipelines keep what they call in each step."""


class KnownDenoisers:
    """A guess first, and what counting the calls of ended generations has shown, per class of
    pipeline. A component that was once called as often as there were steps stays a denoiser."""

    def __init__(self) -> None:
        self._found: dict[type, set[str]] = {}

    def is_denoiser(self, kind: type, name: str, module: torch.nn.Module) -> bool:
        """``name`` has a dot where the component is one of a pipeline inside the pipeline."""
        return looks_like_one(name, module) or name in self._found.get(kind, ())

    def learn(self, kind: type, calls: Mapping[str, int], steps: int) -> frozenset[str]:
        """The components of ``calls`` (how often each was called in one generation of ``steps``
        steps) that are denoisers."""
        if steps < _FEWEST_STEPS:
            return frozenset()
        found = frozenset(name for name, count in calls.items() if count >= steps)
        self._found.setdefault(kind, set()).update(found)
        return found


def modules_of(pipeline: Any, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Its components, and those of pipelines inside of it, whose names have a dot."""
    # Whatever can be called with arguments may be added, also what has no attributes.
    for name, component in getattr(pipeline, "__dict__", {}).items():
        if isinstance(component, torch.nn.Module):
            yield prefix + name, component
        elif isinstance(component, DiffusionPipeline):
            yield from modules_of(component, f"{prefix}{name}.")


def is_of_transformers(module: Any) -> bool:
    """Text encoders and the like. They are no denoisers, however often they are called: a language
    model that writes calls itself for each word."""
    return type(module).__module__.startswith("transformers.")


def looks_like_one(name: str, module: Any) -> bool:
    """By its name, or because diffusers defines it and it is no autoencoder: ControlNets, priors,
    motion modules. Text encoders are of transformers."""
    if name.rpartition(".")[2] in DENOISERS:
        return True
    kind = type(module)
    return kind.__module__.startswith(_CALLED_IN_STEPS)


_CALLED_IN_STEPS = (
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "diffusers.models.controlnets",
)
_FEWEST_STEPS = 3  # a text encoder is called twice where a prompt and a negative one are given
