"""Detection of a pipeline's denoisers: the components that it calls at each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

DENOISERS = ("transformer", "transformer_2", "unet")
"""Attributes that hold the denoiser in most diffusers pipelines."""

LANGUAGE_MODEL = "model"
"""Attribute that holds the denoiser in diffusers' pipelines of text, a model of transformers."""


class KnownDenoisers:
    """Denoisers by pipeline class: a guess first, then what counted calls have shown.

    A component that was once called at least as often as there were steps stays a denoiser.
    """

    def __init__(self) -> None:
        self._found: dict[type, set[str]] = {}

    def is_denoiser(self, kind: type, name: str, module: torch.nn.Module) -> bool:
        """Return whether a component is a denoiser.

        ``name`` has a dot when the component belongs to a pipeline inside the pipeline.
        """
        return looks_like_denoiser(name, module) or name in self._found.get(kind, ())

    def record_calls(self, kind: type, calls: Mapping[str, int], steps: int) -> frozenset[str]:
        """Record an ended generation of ``steps`` steps; return the denoisers among ``calls``.

        ``calls``: how often each component was called.
        """
        if steps < _FEWEST_STEPS:
            return frozenset()
        denoisers = frozenset(name for name, count in calls.items() if count >= steps)
        self._found.setdefault(kind, set()).update(denoisers)
        return denoisers


def modules_of(pipeline: Any, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Components of the pipeline and of pipelines inside it, whose names have a dot."""
    # Any callable may be added as a pipeline, including objects without attributes.
    for name, component in getattr(pipeline, "__dict__", {}).items():
        if isinstance(component, torch.nn.Module):
            yield prefix + name, component
        elif isinstance(component, DiffusionPipeline):
            yield from modules_of(component, f"{prefix}{name}.")


def is_of_transformers(module: Any) -> bool:
    """Return whether it is from transformers, such as a text encoder.

    Such modules are not denoisers, however often they are called: a language model that generates
    text calls itself for each token.
    """
    return type(module).__module__.startswith("transformers.")


def looks_like_denoiser(name: str, module: Any) -> bool:
    """Return whether it looks like a denoiser, by its name or by its module in diffusers.

    That includes ControlNets, priors and motion modules, and excludes autoencoders. Text encoders
    are from transformers.
    """
    if name.rpartition(".")[2] in DENOISERS or name == LANGUAGE_MODEL:
        return True
    kind = type(module)
    return kind.__module__.startswith(_CALLED_IN_STEPS)


_CALLED_IN_STEPS = (
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "diffusers.models.controlnets",
)
_FEWEST_STEPS = 3  # with a negative prompt, a text encoder is called twice


# Kinds of components whose calls suspend a generation.


class ComponentKind(StrEnum):
    DENOISER = "denoiser"
    ENCODER = "encoder"  # of text, or of images that take the place of text
    AUTOENCODER = "autoencoder"


def part_of(module: Any, method: str) -> ComponentKind | None:
    """Kind of a call of a component that is not a denoiser; None: it is not suspended."""
    if method != "__call__":
        return ComponentKind.AUTOENCODER
    return ComponentKind.ENCODER if is_plain_encoder(module) else None


def is_autoencoder(kind: type) -> bool:
    """Return whether diffusers defines the class as an autoencoder."""
    return kind.__module__.startswith("diffusers.models.autoencoders.")


def is_plain_encoder(module: Any) -> bool:
    """Return whether it is a transformers model as it was loaded, in evaluation mode.

    It has no LoRAs or hooks: these have state that pipelines change around a call.
    """
    return (
        is_of_transformers(module)
        and not module.training
        and not hasattr(module, "peft_config")
        and not module._forward_hooks  # noqa: SLF001
        and not module._forward_pre_hooks  # noqa: SLF001
    )
