"""Sections about several models on one device, and about weights and snapshots on their way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import torch

from benchmarks.gpu.bench import RESULT_S, Bench
from benchmarks.gpu.section import Facts
from benchmarks.loading import Discrete
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.accelerator.transfer import Transfer
from deployments.engine.engine import Engine
from deployments.engine.memory.placement import placed_by
from deployments.engine.memory.warm import WarmTier, WeightPlaces
from deployments.engine.snapshot.format import Snapshot
from tests.engine.gate import together

SHARE = 0.8  # of the host's memory, for warm weights


def in_turns(bench: Bench) -> Iterator[Facts]:
    """FLUX and SDXL on one device, alone and at the same time; then a snapshot of FLUX, and the
    generation that goes on from it."""
    yield from _in_turns(bench, bench.flux(), bench.sdxl())
    bench.free()


def _in_turns(bench: Bench, flux: Any, sdxl: Any) -> Iterator[Facts]:
    steps, side = 4 if bench.tiny else 8, 1024

    def calls(name: str, count: int = 3) -> list[dict[str, Any]]:
        if name == "flux":
            chosen = bench.flux_calls(count, side, steps)
        else:
            chosen = [bench.sdxl_call(sdxl, side, steps, seed) for seed in range(count)]
        return [{**call, "pipeline": name, "deterministic": True} for call in chosen]

    with Engine(device=bench.device, max_batch=1) as engine:
        engine.add("flux", flux)
        engine.add("sdxl", sdxl)
        alone: dict[str, list[torch.Tensor]] = {}
        for name in ("flux", "sdxl"):
            together(engine, calls(name, 1), RESULT_S)
            began = time.perf_counter()
            alone[name] = [result[0] for result in together(engine, calls(name), RESULT_S)]
            yield {"model": name, "images": 3, "s": round(time.perf_counter() - began, 4)}
        mixed = [call for pair in zip(calls("flux"), calls("sdxl"), strict=True) for call in pair]
        began = time.perf_counter()
        images = [result[0] for result in together(engine, mixed, RESULT_S)]
        took_s = round(time.perf_counter() - began, 4)
        expected = [image for pair in zip(*alone.values(), strict=True) for image in pair]
        same = all(map(torch.equal, images, expected))
        yield {"model": "flux and sdxl in turns", "images": 6, "s": took_s, "same_bits": same}
        yield from _resumed(bench, engine, calls("flux", 1)[0], alone["flux"][0], steps // 2)


def _resumed(
    bench: Bench, engine: Engine, call: dict[str, Any], whole: torch.Tensor, step: int
) -> Iterator[Facts]:
    """Seconds and bytes of a snapshot, and whether what goes on from it has the same bits."""
    requested: list[Future[Snapshot]] = []

    def on_progress(progress: Any) -> None:
        if progress.step >= step and not requested and generations:
            requested.append(generations[0].request_snapshot())

    generations: list[Any] = []
    generations.append(engine.submit(on_progress=on_progress, **call))
    generations[0].result(RESULT_S)
    began = time.perf_counter()
    content = requested[0].result(RESULT_S).to_bytes()
    bytes_s = round(time.perf_counter() - began, 4)
    before = engine.counts()["single_calls"]
    again = bench.flux_call(1024, call["num_inference_steps"], 0)
    began = time.perf_counter()
    image = engine.submit(pipeline="flux", deterministic=True, snapshot=content, **again).result(
        RESULT_S
    )[0]
    yield {
        "snapshot_mb": round(len(content) / 1e6, 3),
        "to_bytes_s": bytes_s,
        "resumed_s": round(time.perf_counter() - began, 4),
        "steps_left": engine.counts()["single_calls"] - before,
        "same_bits": torch.equal(image, whole),
    }


def warm_to_hot(bench: Bench) -> Iterator[Facts]:
    """FLUX.1's denoiser and decoder from the device to host memory and back, as evicted weights go
    and return, against copies alone: bytes a second."""
    pipeline: Any = bench.flux()
    placement = placed_by(None, pipeline)
    size = placement.device_bytes
    accelerator = _accelerator(bench, size)
    tier, places = WarmTier(accelerator, SHARE), WeightPlaces(placement.resident)
    try:
        began = time.perf_counter()
        if not tier.keep("flux", pipeline, placement, places, size):
            yield {"left_out": "The host has too little free memory."}
            return
        took = time.perf_counter() - began
        yield {"way": "hot to warm, with locking", **_rate(took, size), "gb": round(size / 1e9, 2)}
        warm = tier.take("flux")
        assert warm is not None
        yield from _returns(bench, accelerator, warm)
    finally:
        tier.release("flux")
        del pipeline, placement, places
        bench.drop_models()


def _accelerator(bench: Bench, size: int) -> Accelerator:
    """The GPU, or memory that stands for one's."""
    return accelerator_for(bench.device) if bench.on_gpu else Discrete(2 * size)


def _returns(bench: Bench, accelerator: Accelerator, warm: Any) -> Iterator[Facts]:
    size = sum(len(slab.host) for slab in warm.slabs)
    returned = bench.measure_time(lambda: warm.apply(accelerator), 2)
    yield {"way": "warm to hot", **_rate(returned["s"], size)}
    sources = [slab.host for slab in warm.slabs]
    targets = [accelerator.allocate(torch.empty_like(host, device="meta")) for host in sources]

    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source, non_blocking=True)

    yield {"way": "copies alone", **_rate(bench.measure_time(copy, 2)["s"], size)}


def _rate(seconds: float, size: int) -> dict[str, float]:
    return {"s": round(seconds, 4), "gb_s": round(size / max(seconds, 1e-9) / 1e9, 3)}


def copies_beside_forwards(bench: Bench) -> Iterator[Facts]:
    """Seconds of a load, of an adapter's copies and of a delivery: idle, and beside forwards that
    another thread queues. In the same stream, they wait for the queue."""
    works = _copies(bench)
    for name, work in works.items():
        work()
        yield {"work": name, "beside": "nothing", **bench.measure_time(work, 2)}
    for name, work in works.items():
        yield {"work": name, "beside": "forwards", **_beside(bench, work)}


def _copies(bench: Bench) -> dict[str, Callable[[], None]]:
    """The copies to measure, by name."""
    accelerator = accelerator_for(bench.device)
    side, count = (64, 4) if bench.tiny else (3072, 40)
    layers = [torch.nn.Linear(side, side, bias=False).to(torch.bfloat16) for _ in range(count)]
    low_rank = [torch.randn(16, side).to(torch.bfloat16) for _ in range(count * 5)]

    def load_beside() -> None:
        copies = [torch.nn.Linear(1, 1, bias=False) for _ in layers]
        for copy, layer in zip(copies, layers, strict=True):
            copy.weight = torch.nn.Parameter(layer.weight.detach(), requires_grad=False)
        with Transfer(accelerator, "weights") as transfer:
            transfer.move(copies)

    def load_here() -> None:
        for layer in layers:
            layer.weight.detach().to(bench.device)

    def adapters() -> None:
        for part in low_rank:
            part.to(bench.device)

    def deliver() -> None:
        image = torch.rand(1, 3, 16 * side // 48, 16 * side // 48, device=bench.device)
        accelerator.to_host(image.mul(255).to(torch.uint8)).ready()

    works = {"load": load_here, "load, own stream": load_beside, "adapters": adapters}
    return works | {"delivery": deliver}


def _beside(bench: Bench, work: Callable[[], object]) -> dict[str, float]:
    stop, busy = threading.Event(), threading.Event()
    problems: list[BaseException] = []
    pipeline = bench.flux()
    queued = 0

    def compute() -> None:
        nonlocal queued
        try:
            with torch.no_grad():
                while not stop.is_set():
                    pipeline(**bench.flux_call(1024, 4, 1))
                    queued += 1
                    if queued == 2:
                        busy.set()  # the device's queue is full
        except BaseException as error:
            problems.append(error)
        finally:
            busy.set()

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        busy.wait()
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
    finally:
        stop.set()
        thread.join()
    if problems:
        raise problems[0]
    return {"s": round(took, 5)}
