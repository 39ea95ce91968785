"""Section about the decoder of an image autoencoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, distance, text_of
from benchmarks.gpu.section import Facts
from benchmarks.real_sizes import image_vae
from deployments.engine.merging.compile import compile_decoder

SIDE = 1024


def decode(bench: Bench) -> Iterator[Facts]:
    """A decode of FLUX.1 at 1024² in bfloat16: as written, and compiled."""
    with bench.made_here():
        vae: Any = image_vae(16, tiny=bench.tiny, scaling_factor=1.0).eval()
        latents = torch.randn(1, vae.config.latent_channels, *[_side(bench)] * 2)
    with torch.no_grad():
        expected = vae.decode(latents)[0]
        yield {"by": "as written", **bench.measure_time(lambda: vae.decode(latents))}
        yield {"by": "compiled", **_compiled(bench, vae, latents, expected)}


def _side(bench: Bench) -> int:
    return 4 if bench.tiny else SIDE // 8


def _compiled(bench: Bench, vae: Any, latents: torch.Tensor, expected: torch.Tensor) -> Facts:
    began = time.perf_counter()
    try:
        compile_decoder(SimpleNamespace(vae=vae))
        image = vae.decode(latents)[0]
        bench.synchronize()
    except Exception as error:
        return {"left_out": text_of(error)}
    compile_s = round(time.perf_counter() - began, 2)
    figures = bench.measure_time(lambda: vae.decode(latents))
    return {"compile_s": compile_s, "distance": distance(image, expected), **figures}
