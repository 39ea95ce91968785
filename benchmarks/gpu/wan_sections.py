"""Section about Wan 2.1 14B."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from benchmarks.gpu.bench import Bench, text_of
from benchmarks.gpu.section import Facts

FRAMES, HEIGHT, WIDTH = 21, 60, 104
"""Latents of 81 frames of 832 x 480 pixels."""


def wan_14b_step(bench: Bench) -> Iterator[Facts]:
    """A forward for 81 frames at 480p, by attention."""
    bench.drop_models()
    sizes: dict[str, Any] = (
        {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
        if bench.tiny
        else {}  # the class's defaults are the 14B
    )
    with bench.made_here():
        denoiser: Any = WanTransformer3DModel(**sizes).eval()
        shape = (2, 4, 4) if bench.tiny else (FRAMES, HEIGHT, WIDTH)
        named = {
            "hidden_states": torch.randn(1, 16, *shape),
            "timestep": torch.tensor([500.0], dtype=torch.float32),
            "encoder_hidden_states": torch.randn(1, 512, 4096),
        }
    try:
        for backend in ("native", "_native_cudnn"):
            try:
                denoiser.set_attention_backend(backend)
                with torch.no_grad():
                    denoiser(**named)
                    figures = bench.timed(lambda: denoiser(**named), 1)
                yield {"size": "480p", "attention": backend, **figures}
            except Exception as error:
                yield {"size": "480p", "attention": backend, "left_out": text_of(error)}
    finally:
        denoiser.set_attention_backend("native")
