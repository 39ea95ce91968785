"""Sections of the second run: SDXL by step, and a step of Wan 14B."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, arguments_of, text_of
from benchmarks.gpu.section import Facts


def sdxl_by_step(bench: Bench) -> Iterator[Facts]:
    """A forward of SDXL with guidance: as written, compiled, and as a CUDA graph of our own."""
    from benchmarks.real_sizes import sdxl, sdxl_call  # noqa: PLC0415

    for side in (1024, 512):
        with bench.made_here():
            pipeline = sdxl(tiny=bench.tiny)
            call = dict(sdxl_call(pipeline, 32 if bench.tiny else side))
        pipeline.set_progress_bar_config(disable=True)
        unet: Any = pipeline.unet
        with torch.no_grad():
            named, given = _unet_call(
                unet,
                lambda p=pipeline, c=call: p(**c, num_inference_steps=1, output_type="latent"),
            )

            def forward(unet: Any = unet, given: Any = given, named: Any = named) -> Any:
                return unet(*given, **named)[0]

            right = forward().float()
            yield {"side": side, "by": "as written", **bench.timed(forward)}
            if bench.on_gpu:
                try:
                    replay, output = _graph(forward)
                    replay()
                    bench.synchronize()
                    differs = float((output.float() - right).abs().max())
                    figures = bench.timed(replay)
                    yield {"side": side, "by": "graph", "differs": differs, **figures}
                    del replay, output
                except Exception as error:
                    yield {"side": side, "by": "graph", "left_out": text_of(error)}
            began = time.perf_counter()
            try:
                unet.compile_repeated_blocks(dynamic=False)
                differs = float((forward().float() - right).abs().max())
                compile_s = round(time.perf_counter() - began, 2)
                figures = bench.timed(forward)
                what = {"side": side, "by": "compiled", "compile_s": compile_s}
                yield {**what, "differs": differs, **figures}
            except Exception as error:
                yield {"side": side, "by": "compiled", "left_out": text_of(error)}
        del pipeline, unet
        bench.free()


def _unet_call(unet: Any, work: Callable[[], object]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Keyword and positional arguments of the last call of ``unet`` in ``work()``."""
    seen: list[tuple[Any, ...]] = []
    hook = unet.register_forward_pre_hook(lambda _module, given: seen.append(given))
    try:
        named = arguments_of(unet, work)
    finally:
        hook.remove()
    return named, seen[-1]


def _graph(forward: Callable[[], Any]) -> tuple[Callable[[], object], torch.Tensor]:
    """Replay of ``forward`` with the same input tensors, and the tensor that it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch asks: warm, and not in the default stream
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward()
    return graph.replay, output


def wan_14b_step(bench: Bench) -> Iterator[Facts]:
    """A forward of Wan 2.1 14B for 81 frames at 480p and 720p, by attention."""
    from diffusers import WanTransformer3DModel  # noqa: PLC0415

    sizes: dict[str, Any] = (
        {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
        if bench.tiny
        else {}  # the class's defaults are the 14B
    )
    with bench.made_here():
        denoiser: Any = WanTransformer3DModel(**sizes).eval()
    yield {"parameters": sum(each.numel() for each in denoiser.parameters())}
    shapes = {"480p": (21, 60, 104), "720p": (21, 90, 160)}
    for name, shape in shapes.items():
        frames, height, width = (2, 4, 4) if bench.tiny else shape
        with bench.made_here():
            named = {
                "hidden_states": torch.randn(1, 16, frames, height, width),
                "timestep": torch.tensor([500.0], dtype=torch.float32),
                "encoder_hidden_states": torch.randn(1, 512, 4096),
            }
        for backend in ("native", "_native_cudnn", "_native_flash", "_flash_3"):
            try:
                denoiser.set_attention_backend(backend)
                with torch.no_grad():
                    denoiser(**named)
                    figures = bench.timed(lambda named=named: denoiser(**named), 2)
                yield {"size": name, "attention": backend, **figures}
            except Exception as error:
                yield {"size": name, "attention": backend, "left_out": text_of(error)}
        denoiser.set_attention_backend("native")
