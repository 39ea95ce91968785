"""Section about the decoders of image autoencoders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2

from benchmarks.gpu.bench import Bench, distance, text_of
from benchmarks.gpu.section import Facts
from benchmarks.real_sizes import image_vae
from deployments.engine.merging.compile import compile_decoder

SIDE = 1024


def decode(bench: Bench) -> Iterator[Facts]:
    """A decode at 1024² in bfloat16: as written, with channels last, and compiled."""
    for name in ("FLUX.2", "FLUX.1"):
        with bench.made_here():
            vae: Any = _autoencoder(bench, name).eval()
            latents = torch.randn(1, vae.config.latent_channels, *[_side(bench)] * 2)
        with torch.no_grad():
            yield from _decode(bench, name, vae, latents)
        bench.free()


def _decode(bench: Bench, name: str, vae: Any, latents: torch.Tensor) -> Iterator[Facts]:
    expected = vae.decode(latents)[0]
    yield {"of": name, "by": "as written", **bench.timed(lambda: vae.decode(latents))}
    vae.to(memory_format=torch.channels_last)
    facts = {"distance": distance(vae.decode(latents)[0], expected)}
    figures = bench.timed(lambda: vae.decode(latents))
    yield {"of": name, "by": "channels last", **facts, **figures}
    if name == "FLUX.1":
        yield {"of": name, "by": "compiled", **_compiled(bench, vae, latents, expected)}


def _side(bench: Bench) -> int:
    return 4 if bench.tiny else SIDE // 8


def _autoencoder(bench: Bench, name: str) -> Any:
    if name == "FLUX.1":
        return image_vae(16, tiny=bench.tiny, scaling_factor=1.0)
    small: dict[str, Any] = {
        "block_out_channels": (16, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    return AutoencoderKLFlux2(**(small if bench.tiny else {}))


def _compiled(bench: Bench, vae: Any, latents: torch.Tensor, expected: torch.Tensor) -> Facts:
    began = time.perf_counter()
    try:
        compile_decoder(SimpleNamespace(vae=vae))
        image = vae.decode(latents)[0]
        bench.synchronize()
    except Exception as error:
        return {"left_out": text_of(error)}
    compile_s = round(time.perf_counter() - began, 2)
    figures = bench.timed(lambda: vae.decode(latents))
    return {"compile_s": compile_s, "distance": distance(image, expected), **figures}
