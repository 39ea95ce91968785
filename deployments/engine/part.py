"""The kinds of components that suspend a generation when its pipeline calls them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from deployments.engine.denoisers import is_of_transformers


class Part(StrEnum):
    DENOISER = "denoiser"
    ENCODER = "encoder"  # of texts, or of pictures that take the place of texts
    AUTOENCODER = "autoencoder"


def part_of(module: Any, method: str) -> Part | None:
    """Of a call of a component that is no denoiser. None: it runs in one go."""
    if method != "__call__":
        return Part.AUTOENCODER
    return Part.ENCODER if is_plain_encoder(module) else None


def is_autoencoder(kind: type) -> bool:
    """Whether diffusers defines it as one."""
    return kind.__module__.startswith("diffusers.models.autoencoders.")


def is_plain_encoder(module: Any) -> bool:
    """One of transformers' models as it was loaded: no adapters or hooks, which have a state of
    their own that pipelines change around a call, and nothing random."""
    return (
        is_of_transformers(module)
        and not module.training
        and not hasattr(module, "peft_config")
        and not module._forward_hooks  # noqa: SLF001
        and not module._forward_pre_hooks  # noqa: SLF001
    )
