"""Adapters (LoRA) that are part of an endpoint: added into the weights once, when they are loaded.

What a generation costs stays the same, and nothing needs to be switched between generations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.engine.adapter import LowRank, layer_of, read_adapter


def merge_adapter(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Add the adapter in ``file`` to ``pipeline``, in any layout that diffusers reads for it.

    ``Misconfigured`` when it is for another model or is no plain LoRA, ``WeightsUnavailable`` when
    the file cannot be read. In both cases the pipeline is unchanged.
    """
    for name, pair in read_adapter(pipeline, file).items():
        # One by one: together they would be as large as the model, in 32 bits.
        _merge(layer_of(pipeline, name, file), pair, scale)


def _merge(layer: Any, pair: LowRank, scale: float) -> None:
    weight = layer.weight
    # In 32 bits: an adapter's share may be less than what half of them can tell apart.
    addition = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
    addition = addition.reshape(weight.shape).to(weight.device)
    weight.data = (weight.float() + scale * pair.factor * addition).to(weight.dtype)
