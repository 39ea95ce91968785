"""Sections about FLUX.1 [dev], from embeddings of a prompt to latents or an image on the device.
Text encoders are left out: they take some hundredths of a second, and their outputs are cached.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from benchmarks.gpu.bench import RESULT_S, Bench, arguments_of, distance, repeat_rows, text_of
from benchmarks.gpu.section import Facts
from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.memory.layout import lay_out
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.quantized import require_products
from serve_app.domain.endpoint import Recipe
from tests.engine.gate import together

ROWS = (1, 2, 4, 8)
WITHOUT_ROWS = ("txt_ids", "img_ids")
CACHE = {"name": "FirstBlockCache", "threshold": 0.08}  # `acceleration: regular` of FLUX's entries

DEV, SCHNELL = (28, 512), (4, 256)
"""Steps and text tokens. Schnell is measured with the weights of dev, which has one small layer
more."""

NAME = "measured"


def alone_and_merged(bench: Bench) -> Iterator[Facts]:
    """Alone the same bits as plain diffusers, merged within rounding, and what the engine costs."""
    pipeline = bench.flux()
    side, steps, count = 512, 2 if bench.tiny else 4, 8
    with torch.no_grad():
        plain = [pipeline(**call)[0] for call in bench.flux_calls(count, side, steps)]
        work = bench.measure_time(lambda: pipeline(**bench.flux_call(side, steps, 0)), 2)
    yield {"by": "diffusers", "images": 1, **work}
    with torch.no_grad():
        batch = _batched(bench.flux_calls(count, side, steps))
        pipeline(**batch)
        work = bench.measure_time(lambda: pipeline(**batch), 2)
    yield {"by": "diffusers, a batch", "images": count, **work}
    options: Any = {"max_batch": count, "verify_merges": True, "limit_rows": False}
    with Engine(pipeline, device=bench.device, **options) as engine:

        def alone(**more: Any) -> torch.Tensor:
            return engine.submit(**bench.flux_call(side, steps, 0), **more).result(RESULT_S)[0]

        yield {"alone_same_bits": torch.equal(alone(deterministic=True), plain[0].cpu())}
        yield {"by": "engine", "images": 1, **bench.measure_time(alone, 2)}
        results, figures = bench.measure_merged(
            engine, lambda: bench.flux_calls(count, side, steps)
        )
        yield {"by": "engine, merged", "images": count, **figures}
        pairs = zip(results, plain, strict=True)
        distances = [distance(result[0], own.cpu()) for result, own in pairs]
        yield {"merged_distance": max(distances), "not_merged": engine.counts()["not_merged"]}


def _batched(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """One call of diffusers for all."""
    stacked = {name: torch.cat([call[name] for call in calls]) for name in EMBEDDINGS}
    return {**calls[0], **stacked, "generator": [call["generator"] for call in calls]}


EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds")


def forward_by_rows(bench: Bench) -> Iterator[Facts]:
    """Seconds of a forward by rows: where another row stops to gain."""
    denoiser = bench.flux().transformer
    for side in (1024, 512):
        with torch.no_grad():
            call = bench.flux_call(side, 1, 1)
            named = arguments_of(denoiser, lambda call=call: bench.flux()(**call))
            for count in ROWS[:2] if bench.tiny else ROWS:
                many = repeat_rows(named, count, WITHOUT_ROWS)
                denoiser(**many)
                figures = bench.measure_time(lambda many=many: denoiser(**many), 2)
                per_row = round(figures["s"] / count, 6)
                yield {"side": side, "rows": count, **figures, "s_per_row": per_row}


def compiled(bench: Bench) -> Iterator[Facts]:
    """FLUX.1 in bfloat16 at 1024²: as written, and with compiled blocks, whose images are compared,
    and for which nothing may be compiled again."""
    from torch._dynamo.utils import counters  # noqa: PLC0415

    bench.drop_models()  # sections choose attention and precision of the one that they share
    torch.compiler.reset()
    counters.clear()
    try:
        pipeline = bench.flux()
        with Engine(device=bench.device, max_batch=1) as engine:
            yield add(engine, pipeline, Recipe(48, "bfloat16"), bench)
            as_written, facts = _image(bench, engine, DEV)
            yield {"image": "dev", "by": "as written", **facts}
            yield {"image": "schnell", "by": "as written", **_image(bench, engine, SCHNELL)[1]}
        recipe = Recipe(48, "bfloat16", compile=True)
        with Engine(device=bench.device, max_batch=4, limit_rows=False) as engine:
            yield add(engine, pipeline, recipe, bench)
            graphs = counters["stats"]["unique_graphs"]
            image, facts = _image(bench, engine, DEV)
            facts["distance"] = distance(image, as_written)
            yield {"image": "dev", "by": "compiled", **facts}
            yield {"image": "schnell", "by": "compiled", **_image(bench, engine, SCHNELL)[1]}
            steps = 2 if bench.tiny else 4
            _, figures = bench.measure_merged(
                engine, lambda: _named(bench.flux_calls(4, 512, steps)), 1
            )
            yield {"images": 4, "side": 512, "steps": steps, "by": "compiled, merged", **figures}
            again = counters["stats"]["unique_graphs"] - graphs
            counts = engine.counts()["not_merged"]
            yield {"graphs": graphs, "compiled_again": again, "not_merged": counts}
    finally:
        bench.drop_models()


def eight_bits(bench: Bench) -> Iterator[Facts]:
    """FLUX.1 at 1024² with products in float8 and compiled blocks, against bfloat16 as written, and
    that against diffusers before and after it: a card that has become warm is slower."""
    bench.drop_models()
    torch.compiler.reset()
    try:
        pipeline = bench.flux()
        yield {"image": "dev", "by": "diffusers", **_diffusers_image(bench)}
        with Engine(device=bench.device, max_batch=1) as engine:
            add(engine, pipeline, Recipe(48, "bfloat16"), bench)
            as_written, facts = _image(bench, engine, DEV, times=1)
            yield {"image": "dev", "by": "as written", **facts}
        yield {"image": "dev", "by": "diffusers, after it", **_diffusers_image(bench)}
        recipe = Recipe(48, "float8-dynamic", compile=True)
        with Engine(device=bench.device, max_batch=1) as engine:
            yield add(engine, pipeline, recipe, bench)
            for name, size, cache in (
                ("dev", DEV, None),
                ("dev, FirstBlockCache", DEV, CACHE),
                ("schnell", SCHNELL, None),
            ):
                image, facts = _image(bench, engine, size, cache=cache)
                if size is DEV:
                    facts["distance"] = distance(image, as_written)
                yield {"image": name, "by": "float8, compiled", **facts}
    finally:
        bench.drop_models()


def add(engine: Engine, pipeline: Any, recipe: Recipe, bench: Bench) -> Facts:
    """Add FLUX as a load does it, compiled before the first call, and return the seconds."""
    require_products(recipe, engine.accelerator)
    began = time.perf_counter()
    placed_by(recipe, pipeline).apply(engine.accelerator)
    lay_out(pipeline, engine.accelerator, recipe)
    placed_s = time.perf_counter() - began
    if recipe.compile:
        engine.precompile(pipeline, lambda: bench.flux_call(1024, 1, 0))
    engine.add_placed(NAME, pipeline)
    compile_s = time.perf_counter() - began - placed_s
    seconds = {"place_s": round(placed_s, 2), "compile_s": round(compile_s, 2)}
    return {"precision": recipe.precision, "compiled": recipe.compile, **seconds}


def _image_call(bench: Bench, size: tuple[int, int]) -> dict[str, Any]:
    steps, tokens = size
    return bench.flux_call(1024, min(steps, 4) if bench.tiny else steps, 0, tokens) | {
        "output_type": "pt"
    }


def _diffusers_image(bench: Bench) -> dict[str, Any]:
    """Seconds of an image by plain diffusers."""
    pipeline = bench.flux()
    with torch.no_grad():
        pipeline(**bench.flux_call(1024, 1, 0) | {"output_type": "pt"})
        return bench.measure_time(lambda: pipeline(**_image_call(bench, DEV)), 1)


def _image(
    bench: Bench,
    engine: Engine,
    size: tuple[int, int],
    *,
    cache: Mapping[str, Any] | None = None,
    times: int = 2,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """An image of FLUX that was added to the engine, and its seconds."""
    options = GenerationOptions(step_cache=cache)

    def draw() -> torch.Tensor:
        call = _image_call(bench, size)
        return engine.submit(pipeline=NAME, options=options, **call).result(RESULT_S)[0]

    image = draw()
    return image, bench.measure_time(draw, times)


def _named(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**call, "pipeline": NAME} for call in calls]


def out_of_memory(bench: Bench) -> Iterator[Facts]:
    """A real one, with eight rows: batches are made smaller and no request is lost."""
    pipeline = bench.flux()
    with Engine(pipeline, device=bench.device, max_batch=8, limit_rows=False) as engine:
        engine.submit(**bench.flux_call(1024, 1, 0)).result(RESULT_S)
        for left_gb in (4.0, 2.0):
            bench.free()  # what torch has cached would serve, too
            free = torch.cuda.mem_get_info()[0]
            size = max(0, free - int(left_gb * 1e9))
            taken = torch.empty(size, dtype=torch.uint8, device=bench.device)
            before, began = engine.counts()["batch_sizes"], time.perf_counter()
            error = ""
            try:
                together(engine, bench.flux_calls(8, 1024, 2), RESULT_S)
            except Exception as problem:
                error = text_of(problem)
            took_s = round(time.perf_counter() - began, 2)
            del taken
            bench.free()
            after = engine.counts()["batch_sizes"]
            sizes = {size: count - before.get(size, 0) for size, count in after.items()}
            yield {"left_gb": left_gb, "s": took_s, "batch_sizes": sizes, "error": error}
