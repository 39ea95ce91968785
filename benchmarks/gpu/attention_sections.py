"""Section about the kernels of torch's attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.bench import Bench, text_of
from benchmarks.gpu.section import Facts

SHAPES: Mapping[str, tuple[int, int, int]] = {
    "FLUX 1024²": (24, 4608, 128),
    "FLUX 512²": (24, 1536, 128),
    "SDXL 1024²": (10, 4096, 64),
    "Wan 14B, 81 frames of 480p": (40, 32760, 128),
}
"""Heads, tokens, and size of a head."""

KERNELS: Mapping[str, SDPBackend | None] = {
    "torch's choice": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

CALLS = 4
"""Timed together: one is shorter than what a clock of the host tells apart."""


def attention(bench: Bench) -> Iterator[Facts]:
    """Seconds of attention by kernel, with a mask too: whether another one than torch's choice is
    faster. Tokens stand before heads in memory, as diffusers has them."""
    for of, (heads, tokens, size) in SHAPES.items():
        count = 16 if bench.tiny else tokens
        with bench.made_here():
            tensors = [torch.randn(1, count, heads, size).transpose(1, 2) for _ in range(3)]
            mask = torch.ones(1, 1, 1, count, dtype=torch.bool)
        mask[..., : count // 16] = False
        for masked in (False, True) if tokens < 5000 else (False,):
            for name, kernel in KERNELS.items():
                case = {"of": of, "kernel": name, "masked": masked}
                yield {**case, **_attention(bench, tensors, kernel, mask if masked else None)}


def _attention(
    bench: Bench, tensors: list[torch.Tensor], kernel: SDPBackend | None, mask: torch.Tensor | None
) -> Facts:
    def run() -> None:
        for _ in range(CALLS):
            scaled_dot_product_attention(*tensors, attn_mask=mask)

    try:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            run()
            figures = bench.measure_time(run)
    except RuntimeError as error:  # devices and masks that it does not take
        return {"left_out": text_of(error)}
    return {"s": round(figures["s"] / CALLS, 7)}
