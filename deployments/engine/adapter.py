"""Adapters (LoRA) that are part of an endpoint: added into the weights once, when they are loaded.

What a generation costs stays the same, and nothing needs to be switched between generations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from serve_app.domain.errors import Misconfigured, WeightsUnavailable

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def merge_adapter(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Add the adapter in ``file`` to ``pipeline``, in any layout that diffusers reads for it.

    ``Misconfigured`` when it is for another model or is no plain LoRA, ``WeightsUnavailable`` when
    the file cannot be read. In both cases the pipeline is unchanged.
    """
    merges = [
        _Merge(_layer(pipeline, name, file), *pair)
        for name, pair in _pairs(_read(pipeline, file), file).items()
    ]
    for merge in merges:
        merge.check(file)
    for merge in merges:  # one by one: together they would be as large as the model, in 32 bits
        merge.apply(scale)


@dataclass(frozen=True, slots=True)
class _Merge:
    layer: Any  # linear or convolution
    down: Tensor  # [rank, in, …]
    up: Tensor  # [out, rank, …]; of a convolution with a kernel of one
    factor: float  # by which their product counts

    def check(self, file: Path) -> None:
        weight, rank = self.layer.weight, self.down.shape[0]
        fits = (
            self.down.shape[1:] == weight.shape[1:]
            and self.up.shape[0] == weight.shape[0]
            and self.up[0].numel() == rank
        )
        if not fits:
            raise Misconfigured(
                f"The adapter {file} is for a model of another size: {tuple(self.up.shape)} and "
                f"{tuple(self.down.shape)} do not make {tuple(weight.shape)}."
            )

    def apply(self, scale: float) -> None:
        weight = self.layer.weight
        # In 32 bits: an adapter's share may be less than what half of them can tell apart.
        addition = self.up.float().flatten(1) @ self.down.float().flatten(1)
        addition = addition.reshape(weight.shape).to(weight.device)
        weight.data = (weight.float() + scale * self.factor * addition).to(weight.dtype)


def _read(pipeline: Any, file: Path) -> dict[str, Tensor]:
    """In diffusers' own names, ``component.layer.lora_A.weight``, with ``….alpha`` beside them."""
    if not hasattr(pipeline, "lora_state_dict"):
        raise Misconfigured(f"{type(pipeline).__name__} takes no adapter ({file}).")
    try:
        given = load_file(file)
    except (OSError, SafetensorError) as error:
        raise WeightsUnavailable(f"The adapter {file} cannot be read: {error}") from error
    unet = getattr(pipeline, "unet", None)
    try:
        found = pipeline.lora_state_dict(
            given, unet_config=unet.config if unet is not None else None, return_alphas=True
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise Misconfigured(f"The adapter {file} is of no layout that is known: {error}") from error
    state, alphas = found if isinstance(found, tuple) else (found, None)
    named: dict[str, Any] = {**state, **(alphas or {})}
    return convert_unet_state_dict_to_peft(named)


def _pairs(state: Mapping[str, Any], file: Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Layer → the rest of its ``_Merge``."""
    alphas = {
        name.removesuffix(".alpha").partition(".lora_A")[0]: float(value)
        for name, value in state.items()
        if name.endswith(".alpha")
    }
    names = {name.removesuffix(_DOWN) for name in state if name.endswith(_DOWN)}
    expected = {f"{name}{end}" for name in names for end in (_DOWN, _UP)}
    odd = {name for name in state if not name.endswith(".alpha")} ^ expected
    if odd or not names:
        raise Misconfigured(f"The adapter {file} is no plain LoRA: {', '.join(sorted(odd)[:3])}.")
    pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in names:
        down, up = state[f"{name}{_DOWN}"], state[f"{name}{_UP}"]
        rank = down.shape[0]
        pairs[name] = (down, up, alphas.get(name, rank) / rank)
    return pairs


def _layer(pipeline: Any, name: str, file: Path) -> Any:
    component, _, path = name.partition(".")
    try:
        layer = getattr(pipeline, component).get_submodule(path)
    except AttributeError as error:
        raise Misconfigured(
            f"The adapter {file} is for another model: "
            f"this {type(pipeline).__name__} has no {name}."
        ) from error
    if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
        raise Misconfigured(f"The adapter {file} changes {name}, a {type(layer).__name__}.")
    return layer
