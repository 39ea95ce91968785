"""Sections of the second run: SDXL by step, a step of Wan 14B, and 20 GB of weights loaded."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Facts, arguments_of, text_of


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


def load_safetensors(bench: Bench) -> Iterator[Facts]:
    """20 GB of random weights, from the disk to the device: bytes a second of each way, beside
    those of reading alone and of a copy in memory."""
    with tempfile.TemporaryDirectory(prefix="darkroom-gpu-") as folder:
        began = time.perf_counter()
        paths = _written(Path(folder), tiny=bench.tiny)
        size = sum(path.stat().st_size for path in paths)
        written_s = time.perf_counter() - began
        yield {"gb": round(size / 1e9, 2), "write_gb_s": round(size / written_s / 1e9, 3)}
        for name, work in _ways_to_load(bench).items():
            for cached in (False, True):
                yield {"way": name, "cached": cached, **_loaded(bench, work, paths, cached=cached)}
    source = torch.empty(2**20 if bench.tiny else 2**30, dtype=torch.uint8).fill_(1)
    target = torch.empty_like(source).fill_(2)
    figures = bench.timed(lambda: target.copy_(source))
    yield {"way": "copy in memory", "gb_s": round(source.numel() / figures["s"] / 1e9, 3)}


def _written(folder: Path, *, tiny: bool) -> list[Path]:
    from safetensors.torch import save_file  # noqa: PLC0415

    files, layers, side = (2, 2, 64) if tiny else (10, 20, 7072)  # 20 × 100 MB in a file
    paths = [folder / f"{number}.safetensors" for number in range(files)]
    for number, path in enumerate(paths):
        generator = torch.Generator().manual_seed(number)
        one = torch.randn(side, side, generator=generator).to(torch.bfloat16)
        save_file({str(layer): one + layer for layer in range(layers)}, path)
    return paths


def _ways_to_load(bench: Bench) -> dict[str, Callable[[Path], object]]:
    """Ways to load one file, by name."""
    from safetensors.torch import load_file  # noqa: PLC0415

    block = bytearray(8 * 2**20)

    def read(path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass

    def by_the_host(path: Path) -> None:
        for each in load_file(path).values():
            each.to(bench.device)

    return {
        "read alone": read,
        "through host memory": by_the_host,
        "to the device": lambda path: load_file(path, device=bench.device),
        "own transfer": lambda path: _transfer(bench, path),
    }


def _loaded(
    bench: Bench, work: Callable[[Path], object], paths: list[Path], *, cached: bool
) -> Facts:
    if not cached:
        _forget_pages(paths)
    bench.synchronize()
    began = time.perf_counter()
    try:
        for path in paths:
            work(path)
        bench.synchronize()
    except Exception as error:
        return {"left_out": text_of(error)}
    took = time.perf_counter() - began
    bench.free()
    size = sum(path.stat().st_size for path in paths)
    return {"s": round(took, 3), "gb_s": round(size / took / 1e9, 3)}


def _transfer(bench: Bench, path: Path) -> None:
    """As a replica places weights: read into host memory, then through page-locked buffers."""
    from safetensors.torch import load_file  # noqa: PLC0415

    from deployments.engine.accelerator.selection import accelerator_for  # noqa: PLC0415
    from deployments.engine.accelerator.transfer import Transfer  # noqa: PLC0415

    module = torch.nn.Module()
    for name, each in load_file(path).items():
        module.register_buffer(f"w{name}", each)
    with Transfer(accelerator_for(bench.device), "weights") as transfer:
        transfer.move([module])


def _forget_pages(paths: list[Path]) -> None:
    """Ask the system to drop the files' pages, so that the disk is read."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
