"""Sections about SDXL, whose time may go into launching kernels."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import RESULT_S, Bench, distance
from benchmarks.gpu.section import Facts
from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import compile_regions, record_graphs

CASES = ((512, 8, 10), (512, 1, 10), (1024, 1, 30))
"""Pixels of a side, images at once, and steps."""

WAYS = ("as written", "graphs", "compiled, graphs")


def graphs(bench: Bench) -> Iterator[Facts]:
    """Images of SDXL: by the engine, with forwards recorded as graphs, with those of compiled
    blocks, and by plain diffusers."""
    bench.drop_models()
    torch.compiler.reset()
    pipeline = bench.sdxl()
    plain: dict[tuple[int, int], torch.Tensor] = {}
    for way in WAYS:
        if way == "graphs":
            record_graphs(pipeline)
        options: Any = {"max_batch": 8, "verify_merges": False, "limit_rows": False}
        with Engine(pipeline, device=bench.device, **options) as engine:
            if way == "compiled, graphs":
                began = time.perf_counter()
                compile_regions(pipeline)
                engine.precompile(pipeline, lambda: bench.sdxl_call(pipeline, 1024, 1, 0))
                yield {"compile_s": round(time.perf_counter() - began, 2)}
            for side, count, usual in CASES:
                steps = 4 if bench.tiny else usual
                image, figures = _images(bench, engine, pipeline, (side, count, steps))
                facts = {"by": way, "side": side, "images": count, "steps": steps, **figures}
                if way != "as written":
                    known = engine._loop._graphs  # noqa: SLF001
                    facts |= {"replays": known.replays, "gb": known.size / 1e9}
                    facts["distance"] = distance(image, plain[side, count])
                plain.setdefault((side, count), image)
                yield facts
            if way == "as written":
                steps = 4 if bench.tiny else CASES[-1][2]
                plainly = _by_diffusers(bench, pipeline, steps)
                yield {"by": "diffusers", "side": 1024, "images": 1, "steps": steps, **plainly}


def _by_diffusers(bench: Bench, pipeline: Any, steps: int) -> dict[str, float]:
    with torch.no_grad():
        pipeline(**bench.sdxl_call(pipeline, 1024, 1, 0))
        return bench.measure_time(lambda: pipeline(**bench.sdxl_call(pipeline, 1024, steps, 0)), 1)


def _images(
    bench: Bench, engine: Engine, pipeline: Any, case: tuple[int, int, int]
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The first image of several, and the seconds of all."""
    side, count, steps = case

    def calls(length: int = steps) -> list[dict[str, Any]]:
        return [bench.sdxl_call(pipeline, side, length, seed) for seed in range(count)]

    if count > 1:
        results, figures = bench.measure_merged(engine, calls)
        return results[0][0], figures

    def draw() -> torch.Tensor:
        return engine.submit(**calls()[0]).result(RESULT_S)[0]

    draw()  # enough forwards to be recorded
    image = draw()
    return image, bench.measure_time(draw, 2)


def loras(bench: Bench) -> Iterator[Facts]:
    """Eight images at 512² in common forwards: without LoRAs, and with four mixed in them."""
    from benchmarks.loras import random_lora  # noqa: PLC0415

    bench.drop_models()
    pipeline = bench.sdxl()
    steps, count, number = 2 if bench.tiny else 10, 8, 4
    options: Any = {"max_batch": count, "verify_merges": False, "limit_rows": False}
    with (
        tempfile.TemporaryDirectory(prefix="darkroom-gpu-") as folder,
        Engine(pipeline, device=bench.device, **options) as engine,
    ):
        files = [
            random_lora(Path(folder) / f"{seed}.safetensors", pipeline.unet, 16, seed, "unet")
            for seed in range(number)
        ]
        mixed = [Lora(file) for file in files]

        def calls(chosen: list[Lora]) -> list[dict[str, Any]]:
            return [
                bench.sdxl_call(pipeline, 512, steps, seed)
                | {"loras": [chosen[seed % number]] if chosen else []}
                for seed in range(count)
            ]

        for lora in mixed:  # loaded before, so that the generations meet
            call = bench.sdxl_call(pipeline, 512, 1, 0)
            engine.submit(loras=[lora], **call).result(RESULT_S)
        for chosen in ([], mixed):
            _, figures = bench.measure_merged(engine, lambda chosen=chosen: calls(chosen))
            yield {"loras": len(chosen), "images": count, **figures}
