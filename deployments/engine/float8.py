"""Weights stored in eight bits, and computed with in the dtype that they were loaded in.

diffusers' layerwise casting: a layer's weights are cast when it runs, and back after it. It takes
no package besides torch, and halves the memory; the arithmetic is not faster.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import apply_layerwise_casting
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from diffusers.models.modeling_utils import ModelMixin

STORED = torch.float8_e4m3fn
LEAST_SHARE = 0.05
"""A component with less of the pipeline's weights is left as it is: little would be saved."""

_TIED = "lm_head"  # often the same tensor as the embeddings


def store_in_float8(pipeline: Any) -> None:
    """Cast the weights of the large components; autoencoders, whose errors are seen, keep theirs.

    For once, after loading and before the pipeline is used.
    """
    modules = {
        name: each for name, each in vars(pipeline).items() if isinstance(each, torch.nn.Module)
    }
    sizes = {name: _parameters(module) for name, module in modules.items()}
    for name, module in modules.items():
        if sizes[name] >= LEAST_SHARE * sum(sizes.values()) and not hasattr(module, "decode"):
            _store(module)


def _store(module: Any) -> None:
    if isinstance(module, ModelMixin):
        module.enable_layerwise_casting(storage_dtype=STORED, compute_dtype=module.dtype)
        return
    # A text encoder, of transformers. Its `dtype` is that of its first parameter, an embedding,
    # and pipelines cast to it. What it asks to be kept in 32 bits is also what its code looks at
    # outside of the layer, such as `wo` in T5, which would get its input cast to eight bits.
    delicate = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    apply_layerwise_casting(
        module,
        storage_dtype=STORED,
        compute_dtype=module.dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, *delicate, _TIED),
        skip_modules_classes=(torch.nn.Embedding,),
    )


def _parameters(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())
