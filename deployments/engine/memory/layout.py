"""Layout of loaded weights, and the attention kernels of denoisers, as device and recipe say."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.default_dtype import TURNS
from deployments.engine.interception.components import DENOISERS
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured


def lay_out(pipeline: Any, accelerator: Accelerator, recipe: Recipe | None = None) -> None:
    """Choose layout and attention for the device, in place.

    A CPU convolves images faster in the channels-last layout: the demo Flux's decoder takes a third
    to a half less time, and its outputs agree within 1e-5. Video autoencoders need another layout,
    and stay as loaded.

    Raises ``Misconfigured`` for attention that is unknown or needs a package that is not there.
    """
    if accelerator.capabilities.channels_last:
        for component in vars(pipeline).values():
            if isinstance(component, AutoencoderKL):
                autoencoder: Any = component
                autoencoder.to(memory_format=torch.channels_last)
    if recipe is not None and recipe.attention:
        set_attention(pipeline, recipe.attention)


def set_attention(pipeline: Any, name: str) -> None:
    """Let the denoisers of ``pipeline`` compute attention by diffusers' backend ``name``.

    Raises ``Misconfigured`` if there is no such backend, if it needs a package that is not
    installed, or if it would download code.
    """
    known = {backend.value for backend in AttentionBackendName}
    if name not in known or name.endswith("_hub"):
        usable = sorted(value for value in known if not value.endswith("_hub"))
        reason = "downloads code when it is first used" if name in known else "is unknown"
        raise Misconfigured(
            f"The attention `{name}` of a recipe {reason}. Use one of {', '.join(usable)}, or "
            "leave it out."
        )
    registry: Any = _AttentionBackendRegistry
    before = registry._active_backend  # noqa: SLF001
    with TURNS.change():
        try:
            for component in DENOISERS:
                module: Any = getattr(pipeline, component, None)
                if hasattr(module, "set_attention_backend"):
                    module.set_attention_backend(name)
        except (RuntimeError, ValueError, ImportError) as error:
            raise Misconfigured(
                f"The attention `{name}` of a recipe cannot be used: {error}"
            ) from error
        finally:
            # diffusers also makes it the default of the process, which is for all other models.
            registry.set_active_backend(before)
