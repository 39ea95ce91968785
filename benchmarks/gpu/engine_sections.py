"""Sections about the denoiser and the engine, with FLUX.1 [dev] and SDXL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, arguments_of, distance, repeated, text_of
from benchmarks.gpu.section import Facts

ROWS = (1, 2, 4, 8)
ATTENTION = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3", "sage")
WITHOUT_ROWS = ("txt_ids", "img_ids")
COUNTS = ("forwards", "merged_calls", "single_calls", "batch_sizes", "not_merged")


def forward_by_rows(bench: Bench) -> Iterator[Facts]:
    """Seconds of a forward by rows and attention: where another row stops to gain."""
    denoiser = bench.flux().transformer
    try:
        for side in (1024, 512):
            yield from _by_rows(bench, denoiser, side)
    finally:
        # The last one that any model was given holds for those that are made later.
        denoiser.set_attention_backend("native")


def _by_rows(bench: Bench, denoiser: Any, side: int) -> Iterator[Facts]:
    with torch.no_grad():
        call = bench.flux_call(side, 1, 1)
        named = arguments_of(denoiser, lambda: bench.flux()(**call))
    for backend in ATTENTION:
        try:
            denoiser.set_attention_backend(backend)
            with torch.no_grad():
                denoiser(**named)
        except Exception as error:  # packages and devices without it
            yield {"side": side, "attention": backend, "left_out": text_of(error)}
            continue
        for rows in ROWS[: 2 if bench.tiny else 4]:
            many = repeated(named, rows, WITHOUT_ROWS)
            with torch.no_grad():
                denoiser(**many)
                figures = bench.timed(lambda many=many: denoiser(**many))
            per_row = round(figures["s"] / rows, 6)
            yield {
                "side": side,
                "attention": backend,
                "rows": rows,
                **figures,
                "s_per_row": per_row,
            }


def alone_and_merged(bench: Bench) -> Iterator[Facts]:
    """Alone the same bits as plain diffusers, merged within rounding, and what the engine costs."""
    from deployments.engine.engine import Engine  # noqa: PLC0415

    pipeline = bench.flux()
    steps = 2 if bench.tiny else 4
    with torch.no_grad():
        plain = [pipeline(**bench.flux_call(512, steps, seed))[0] for seed in (1, 2)]
        alone_s = bench.timed(lambda: pipeline(**bench.flux_call(512, steps, 1)), 2)
    yield {"plain": alone_s}
    with Engine(
        pipeline, device=bench.device, max_batch=8, verify_merges=True, limit_rows=False
    ) as engine:

        def run(count: int, **more: Any) -> list[torch.Tensor]:
            running = [
                engine.submit(**bench.flux_call(512, steps, seed), **more)
                for seed in range(1, count + 1)
            ]
            return [each.result()[0] for each in running]

        (alone,) = run(1, deterministic=True)
        yield {"alone_same_bits": torch.equal(alone, plain[0])}
        both = run(2)
        yield {"merged_distance": [distance(a, b) for a, b in zip(both, plain, strict=True)]}
        for count in (1, 8):
            run(count)
            yield {"engine": count, **bench.timed(lambda count=count: run(count), 2)}
        counts = engine.counts()
        yield {name: counts[name] for name in COUNTS if name in counts}


def out_of_memory(bench: Bench) -> Iterator[Facts]:
    """A real one, with eight rows: batches are made smaller and no request is lost."""
    from deployments.engine.engine import Engine  # noqa: PLC0415

    pipeline = bench.flux()
    with Engine(pipeline, device=bench.device, max_batch=8, limit_rows=False) as engine:
        engine.submit(**bench.flux_call(1024, 1, 0)).result()
        for left_gb in (4.0, 2.0):
            free = torch.cuda.mem_get_info()[0]
            taken = torch.empty(
                max(0, free - int(left_gb * 1e9)), dtype=torch.uint8, device=bench.device
            )
            running = [engine.submit(**bench.flux_call(1024, 2, seed)) for seed in range(8)]
            ended = []
            for each in running:
                try:
                    each.result(90)
                    ended.append("succeeded")
                except Exception as error:
                    ended.append(text_of(error))
            del taken
            bench.free()
            counts = engine.counts()
            yield {"left_gb": left_gb, "ended": ended, **{n: counts[n] for n in COUNTS[3:]}}


def compiled_blocks(bench: Bench) -> Iterator[Facts]:
    """Compiled blocks, with dynamic sizes as recipes do it and with fixed ones: seconds to compile,
    seconds a step, and graphs."""
    from torch._dynamo.utils import counters  # noqa: PLC0415

    from benchmarks.gpu.whole_sections import NAME, flux_images  # noqa: PLC0415
    from deployments.engine.engine import Engine  # noqa: PLC0415
    from deployments.engine.merging.compile import compile_regions  # noqa: PLC0415

    steps = 2 if bench.tiny else 8
    for dynamic in (True, False):
        bench.drop_models()
        torch.compiler.reset()
        counters.clear()
        pipeline = bench.flux()
        began = time.perf_counter()
        with Engine(device=bench.device, max_batch=4, limit_rows=False) as engine:
            if dynamic:
                compile_regions(pipeline)
                engine.precompile(pipeline, lambda: bench.flux_call(1024, 1, 1))
            else:
                pipeline.transformer.compile_repeated_blocks(dynamic=False)
                with torch.no_grad():
                    pipeline(**bench.flux_call(1024, 1, 1))
            bench.synchronize()
            what = {"dynamic": dynamic}
            yield {**what, "compile_s": round(time.perf_counter() - began, 2)}
            engine.add_placed(NAME, pipeline)

            def run(side: int, count: int, engine: Engine = engine) -> None:
                running = [
                    engine.submit(pipeline=NAME, **bench.flux_call(side, steps, seed))
                    for seed in range(count)
                ]
                for each in running:
                    each.result()

            for side, count in ((1024, 1), (1024, 4), (512, 1)) if dynamic else ((1024, 1),):
                run(side, count)
                figures = bench.timed(lambda side=side, count=count: run(side, count), 2)
                graphs = counters["stats"]["unique_graphs"]
                per_step = round(figures["s"] / steps, 6)
                case = {**what, "side": side, "generations": count}
                yield {**case, "step_s": per_step, "graphs": graphs}
            if dynamic:
                yield from flux_images(bench, engine, ", compiled")


def graphs(bench: Bench) -> Iterator[Facts]:
    """A step of SDXL by the engine, with its forwards as written and recorded as graphs: seconds,
    bytes of the graphs, and what differs."""
    from benchmarks.real_sizes import sdxl  # noqa: PLC0415
    from deployments.engine.engine import Engine  # noqa: PLC0415
    from deployments.engine.merging.compile import record_graphs  # noqa: PLC0415

    bench.drop_models()
    with bench.made_here():
        pipeline = sdxl(tiny=bench.tiny)
    pipeline.set_progress_bar_config(disable=True)
    steps = 2 if bench.tiny else 8
    plain: dict[tuple[int, int], torch.Tensor] = {}
    for recorded in (False, True):
        if recorded:
            record_graphs(pipeline)
        with Engine(
            pipeline, device=bench.device, max_batch=8, verify_merges=False, limit_rows=False
        ) as engine:
            for side, count in ((512, 1), (512, 2), (512, 8), (1024, 1)):
                calls = [_sdxl_call(bench, pipeline, side, steps, seed) for seed in range(count)]

                def run(calls: list[dict[str, Any]] = calls, engine: Engine = engine) -> Any:
                    running = [
                        engine.submit(**each, generator=torch.Generator().manual_seed(seed))
                        for seed, each in enumerate(calls)
                    ]
                    made = [each.result()[0] for each in running]
                    return made[0]

                made = run()
                run()  # enough forwards to be recorded
                figures = bench.timed(run, 2)
                case = {"side": side, "generations": count, "graphs": recorded}
                facts = {**case, "step_s": round(figures["s"] / steps, 6), **figures}
                if recorded:
                    known = engine._loop._graphs  # noqa: SLF001
                    facts["replays"] = known.replays
                    facts["gb"] = known.size / 1e9
                    facts["distance"] = distance(made, plain[side, count])
                plain.setdefault((side, count), made)
                yield facts
    del pipeline
    bench.free()


def _sdxl_call(bench: Bench, pipeline: Any, side: int, steps: int, seed: int) -> dict[str, Any]:
    from benchmarks.real_sizes import sdxl_call  # noqa: PLC0415

    with bench.made_here():
        torch.manual_seed(seed)
        call = dict(sdxl_call(pipeline, 32 if bench.tiny else side))
    return {**call, "num_inference_steps": steps, "output_type": "latent"}
