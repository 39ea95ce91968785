"""Sections about the device: ceilings, the cost of counting memory, and a failed recording."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.bench import Bench, text_of
from benchmarks.gpu.section import Facts
from deployments.engine.accelerator.selection import accelerator_for


def machine(bench: Bench) -> Iterator[Facts]:
    """Ceilings that the other figures are to be seen beside, and the cost of memory's accounts."""
    yield {"ceiling": "product in bfloat16", "tflops": _product_tflops(bench)}
    yield {"ceiling": "copy on the device, read and written", "gb_s": _copy_gb_s(bench)}
    memory = accelerator_for(bench.device).memory

    def measure() -> None:
        with memory.measure():
            pass

    calls: dict[str, Callable[[], object]] = {"free": memory.free, "measured": measure}
    for name, call in calls.items():
        count = 200
        began = time.perf_counter()
        for _ in range(count):
            call()
        yield {"call": name, "us": round((time.perf_counter() - began) / count * 1e6, 2)}


def _product_tflops(bench: Bench) -> float:
    side = 256 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device).to(torch.bfloat16) for _ in range(2))
    bench.measure_time(lambda: a @ b, 2)
    return round(2 * side**3 / bench.measure_time(lambda: a @ b, 5)["s"] / 1e12, 3)


def _copy_gb_s(bench: Bench) -> float:
    size = 2**20 if bench.tiny else 2**32
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.measure_time(lambda: target.copy_(source), 2)
    return round(2 * size / bench.measure_time(lambda: target.copy_(source), 5)["s"] / 1e9, 1)


def failed_recording(bench: Bench) -> Iterator[Facts]:
    """What works after a recording of a graph that failed on purpose: torch's own, and ours."""
    accelerator = accelerator_for(bench.device)
    there = torch.zeros(8, device=bench.device)

    def wait() -> None:
        there.add(1).sum().item()

    pool = accelerator.graph_pool()
    assert pool is not None
    try:
        pool.record(wait)
        yield {"recording": "did not fail"}
    except RuntimeError as error:
        yield {"recording": text_of(error)}
    works: dict[str, Callable[[], object]] = {
        "torch.randn": lambda: torch.randn(1, device=bench.device).item(),
        "page-locked copy": lambda: there.cpu().pin_memory().to(bench.device).sum().item(),
        "recording": lambda: _recorded(bench, there),
        "has_failed": accelerator.has_failed,
    }
    for name, work in works.items():
        try:
            yield {"after it": name, "works": True, "answer": work()}
        except RuntimeError as error:
            yield {"after it": name, "works": False, "error": text_of(error)}


def _recorded(bench: Bench, there: torch.Tensor) -> float:
    pool = accelerator_for(bench.device).graph_pool()
    assert pool is not None
    graph, total = pool.record(lambda: there.add(2).sum())
    graph.replay()
    return total.item()
