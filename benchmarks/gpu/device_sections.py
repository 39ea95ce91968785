"""Sections about the device itself: memory calls, decoding, products in 8 bits, pinned memory."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, text_of
from benchmarks.gpu.section import Facts


def machine(bench: Bench) -> Iterator[Facts]:
    """Versions, and the cost of the calls by which memory is counted."""
    yield {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name() if bench.on_gpu else platform.processor() or "CPU",
        "total_gb": torch.cuda.mem_get_info()[1] / 1e9 if bench.on_gpu else None,
    }
    from deployments.engine.accelerator.selection import accelerator_for  # noqa: PLC0415

    accelerator = accelerator_for(bench.device)
    yield {"model_name": accelerator.model_name(), "driver": accelerator.driver()}
    torch.empty(1, device=bench.device)

    def measured() -> None:
        with accelerator.memory.measured():
            pass

    calls: dict[str, Callable[[], object]] = {
        "free": accelerator.memory.free,
        "total": accelerator.memory.total,
        "measured": measured,
    }
    for name, call in calls.items():
        count = 200
        began = time.perf_counter()
        for _ in range(count):
            call()
        yield {"call": name, "us": round((time.perf_counter() - began) / count * 1e6, 2)}


def decode(bench: Bench) -> Iterator[Facts]:
    """FLUX's decoder by dtype and layout."""
    from benchmarks.real_sizes import image_vae  # noqa: PLC0415

    for side in (1024, 512):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                with bench.made_here(dtype):
                    vae: Any = image_vae(16, tiny=bench.tiny, scaling_factor=1.0)
                    latents = torch.randn(1, 16, *[4 if bench.tiny else side // 8] * 2)
                vae.to(memory_format=layout)
                with torch.no_grad():
                    vae.decode(latents)
                    figures = bench.timed(lambda v=vae, z=latents: v.decode(z))
                yield {"decode": side, "dtype": str(dtype), "layout": str(layout), **figures}


SHAPES = ((4608, 3072, 3072), (4608, 3072, 9216), (4608, 3072, 12288), (4608, 15360, 3072))
"""Rows, inner and outer size of FLUX's products at 1024² with 512 text tokens."""


def scaled_products(bench: Bench) -> Iterator[Facts]:
    """Products in float8 with a scale for each row, against bfloat16 and against casting weights
    each time, with their error."""
    float8 = torch.float8_e4m3fn
    largest = torch.finfo(float8).max
    for rows, inner, outer in [(64, 32, 48)] if bench.tiny else SHAPES:
        generator = torch.Generator(bench.device).manual_seed(0)
        x, w = (
            torch.randn(*shape, generator=generator, device=bench.device).to(torch.bfloat16)
            for shape in ((rows, inner), (outer, inner))
        )
        scale_w = w.abs().amax(1, keepdim=True).float() / largest
        w8 = (w / scale_w).to(float8)

        def scaled(x: Any = x, w8: Any = w8, scale_w: Any = scale_w) -> torch.Tensor:
            scale = (x.abs().amax(1, keepdim=True).float() / largest).clamp(min=1e-12)
            return torch._scaled_mm(  # noqa: SLF001 it has no public name
                *((x / scale).to(float8), w8.t()),
                scale_a=scale,
                scale_b=scale_w.t().contiguous(),
                out_dtype=torch.bfloat16,
            )

        def layerwise(x: Any = x, w8: Any = w8) -> torch.Tensor:
            return x @ w8.to(torch.bfloat16).t()

        def plain(x: Any = x, w: Any = w) -> torch.Tensor:
            return x @ w.t()

        right = plain().float()
        for name, work in {"bfloat16": plain, "scaled": scaled, "layerwise": layerwise}.items():
            facts: dict[str, Any] = {"product": [rows, inner, outer], "by": name}
            try:
                if name == "scaled":
                    error = (work().float() - right).norm() / right.norm()
                    facts["error"] = round(float(error), 5)
                figures = bench.timed(work, 9)
                flops = 2 * rows * inner * outer
                yield {**facts, **figures, "tflops": round(flops / figures["s"] / 1e12, 2)}
            except Exception as error:  # devices and versions without it
                yield {**facts, "error": text_of(error)}


def pinned_memory(bench: Bench) -> Iterator[Facts]:
    """Bytes and seconds of page-locked memory: torch's allocator against one registered buffer."""
    import psutil  # noqa: PLC0415

    from deployments.engine.accelerator.pinned import PinnedBuffer  # noqa: PLC0415
    from deployments.engine.accelerator.selection import accelerator_for  # noqa: PLC0415

    count, like = 12, torch.empty(5120, 13824, dtype=torch.bfloat16)  # a layer of Wan 14B
    wanted = count * like.numel() * like.element_size()
    yield {"wanted_gb": round(wanted / 1e9, 3), "free_gb": psutil.virtual_memory().available / 1e9}
    for name, lock in {
        "each tensor": lambda: [like.pin_memory() for _ in range(count)],
        "one buffer": lambda: PinnedBuffer(wanted, accelerator_for(bench.device)),
    }.items():
        before, began = psutil.virtual_memory().available, time.perf_counter()
        held = lock()
        took = before - psutil.virtual_memory().available
        yield {"pinned": name, "gb": took / 1e9, "s": round(time.perf_counter() - began, 3)}
        del held
        bench.free()


def copies_beside_forwards(bench: Bench) -> Iterator[Facts]:
    """Seconds of a load, of an adapter's copies and of a delivery: idle, and beside forwards that
    another thread queues. In the same stream, they wait for the queue."""
    works = _copies(bench)
    pipeline = bench.flux()
    for name, work in works.items():
        work()
        yield {"work": name, "beside": "nothing", **bench.timed(work, 2)}
    for name, work in works.items():
        yield {"work": name, "beside": "forwards", **_beside(bench, pipeline, work)}


def _copies(bench: Bench) -> dict[str, Callable[[], None]]:
    """The copies to measure, by name."""
    from deployments.engine.accelerator.selection import accelerator_for  # noqa: PLC0415
    from deployments.engine.accelerator.transfer import Transfer  # noqa: PLC0415

    accelerator = accelerator_for(bench.device)
    side = 64 if bench.tiny else 3072
    count = 4 if bench.tiny else 40
    layers = [torch.nn.Linear(side, side, bias=False) for _ in range(count)]
    for each in layers:
        each.to(torch.bfloat16)
    low_rank = [torch.randn(16, side).to(torch.bfloat16) for _ in range(count * 5)]

    def load_here() -> None:
        for each in layers:
            each.weight.detach().to(bench.device)

    def load_beside() -> None:
        copies = [torch.nn.Linear(1, 1, bias=False) for _ in layers]
        for copy, each in zip(copies, layers, strict=True):
            copy.weight = torch.nn.Parameter(each.weight.detach(), requires_grad=False)
        with Transfer(accelerator, "weights") as transfer:
            transfer.move(copies)

    def adapters() -> None:
        for each in low_rank:
            each.to(bench.device)

    def deliver() -> None:
        image = torch.rand(1, 3, 16 * side // 48, 16 * side // 48, device=bench.device)
        accelerator.to_host(image.mul(255).to(torch.uint8)).ready()

    works = {"load": load_here, "load, own stream": load_beside, "adapters": adapters}
    return works | {"delivery": deliver}


def _beside(bench: Bench, pipeline: Any, work: Callable[[], object]) -> dict[str, float]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def busy() -> None:
        try:
            with torch.no_grad():
                while not stop.is_set():
                    pipeline(**bench.flux_call(1024, 4, 1))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        time.sleep(0.2 if bench.tiny else 1.5)  # until the queue is full
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
    return {"s": round(took, 5)}
