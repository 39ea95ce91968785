"""Sections about whole images, from embeddings of a prompt to values between 0 and 1 on the device,
with the settings of recipes. Text encoders are left out: they take some hundredths of a second, and
their outputs are cached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, distance, text_of
from benchmarks.gpu.section import Facts
from benchmarks.real_sizes import sdxl, sdxl_call
from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.memory.layout import lay_out
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.quantized import require_products
from serve_app.domain.endpoint import BY_DEVICE, Recipe

AIMS: Mapping[str, float] = {
    "dev": 3.3,
    "dev, 8 bits": 2.1,
    "dev, 8 bits, FirstBlockCache": 1.4,
    "schnell": 0.52,
    "schnell, 8 bits": 0.38,
    "sdxl": 1.0,
}
"""Seconds of an image at most, on an H200, by arithmetic."""

MERGED_AIM = 4.0  # images a second of SDXL at 512², merged by eight, against one by one

CACHE = {"name": "FirstBlockCache", "threshold": 0.08}  # `acceleration: regular` of FLUX's entries

FLUX = {"dev": (28, 512), "schnell": (4, 256)}
"""Steps and text tokens. Schnell is measured with the weights of dev, which has one small layer
more."""

LAYOUT: Any = {"attention": BY_DEVICE, "channels_last": True}  # of FLUX's recipes
NAME = "measured"


def whole_flux(bench: Bench) -> Iterator[Facts]:
    """FLUX.1 at 1024² in bfloat16, as recipes of large devices have it today: not compiled."""
    yield from _flux(bench, Recipe(48, "bfloat16", **LAYOUT))


def whole_flux_8_bits(bench: Bench) -> Iterator[Facts]:
    """FLUX.1 at 1024² with products in 8 bits and compiled blocks."""
    yield from _flux(bench, Recipe(48, "float8-dynamic", compile=True, **LAYOUT))


def _flux(bench: Bench, recipe: Recipe) -> Iterator[Facts]:
    bench.drop_models()  # sections choose attention and precision of the one that they share
    try:
        with Engine(device=bench.device, max_batch=1) as engine:
            yield add(engine, bench.flux(), recipe, lambda: bench.flux_call(1024, 1, 0))
            bits = ", 8 bits" if recipe.precision == "float8-dynamic" else ""
            yield from flux_images(bench, engine, bits)
    finally:
        bench.drop_models()


def add(
    engine: Engine, pipeline: Any, recipe: Recipe, warm_up: Callable[[], Mapping[str, Any]]
) -> Facts:
    """Add the pipeline as a load does it, and return the seconds."""
    require_products(recipe, engine.accelerator)
    began = time.perf_counter()
    placed_by(recipe, pipeline).apply(engine.accelerator)
    lay_out(pipeline, engine.accelerator, recipe)
    placed_s = time.perf_counter() - began
    if recipe.compile:
        engine.precompile(pipeline, warm_up)
    engine.add_placed(NAME, pipeline)
    compile_s = time.perf_counter() - began - placed_s
    seconds = {"place_s": round(placed_s, 2), "compile_s": round(compile_s, 2)}
    return {"precision": recipe.precision, "compiled": recipe.compile, **seconds}


def flux_images(bench: Bench, engine: Engine, computed: str) -> Iterator[Facts]:
    """Seconds of images of FLUX.1 that was added to the engine. ``computed``: how, in words."""
    plain: dict[str, torch.Tensor] = {}
    for name, cache in (("dev", None), ("schnell", None), ("dev", CACHE)):
        steps, tokens = FLUX[name]
        steps = min(steps, 4) if bench.tiny else steps
        call = bench.flux_call(1024, steps, 0, tokens) | {"output_type": "pt"}
        image = f"{name}{computed}{', FirstBlockCache' if cache else ''}"
        options = GenerationOptions(step_cache=cache)

        def draw(call: dict[str, Any] = call, options: GenerationOptions = options) -> Any:
            given: dict[str, Any] = call | {"generator": torch.Generator("cpu").manual_seed(0)}
            return engine.submit(pipeline=NAME, options=options, **given).result()[0]

        try:
            made = draw()
            facts = {"steps": steps, **bench.timed(draw, 2)}
        except Exception as error:
            yield {"image": image, "left_out": text_of(error)}
            continue
        if cache is not None and name in plain:
            facts["distance"] = distance(made, plain[name])
        plain.setdefault(name, made)
        yield {"image": image, **facts, **_aim(image, facts["s"])}


def _aim(image: str, seconds: float) -> Facts:
    aim = AIMS.get(image.replace(", compiled", ""))
    return {} if aim is None else {"aim_s": aim, "is_reached": seconds <= aim}


def whole_sdxl(bench: Bench) -> Iterator[Facts]:
    """SDXL of 30 steps at 1024² alone, and at 512² merged by eight against one by one; as recipes
    have it, and with its forwards recorded as graphs."""
    for graphs in (False, True):
        with bench.made_here():
            pipeline = sdxl(tiny=bench.tiny)
        pipeline.set_progress_bar_config(disable=True)
        recipe = Recipe(24, "bfloat16", graphs=graphs, channels_last=True)
        with Engine(device=bench.device, max_batch=8, limit_rows=False) as engine:
            yield {"graphs": graphs, **add(engine, pipeline, recipe, dict[str, Any])}
            yield from _sdxl_images(bench, engine, pipeline, graphs=graphs)
        del pipeline
        bench.free()


def _sdxl_images(bench: Bench, engine: Engine, pipeline: Any, *, graphs: bool) -> Iterator[Facts]:
    alone_s = 0.0
    for side, count in ((1024, 1), (512, 1), (512, 8)):
        with bench.made_here():
            call = dict(sdxl_call(pipeline, 32 if bench.tiny else side))
        call |= {"num_inference_steps": 2 if bench.tiny else 30, "output_type": "pt"}

        def draw(call: dict[str, Any] = call, count: int = count) -> None:
            running = [
                engine.submit(pipeline=NAME, **call, generator=torch.Generator().manual_seed(seed))
                for seed in range(count)
            ]
            for each in running:
                each.result()

        draw()
        figures = bench.timed(draw, 2)
        facts: dict[str, Any] = {"graphs": graphs, "side": side, "images": count, **figures}
        if side == 1024:
            facts |= _aim("sdxl", figures["s"])
        elif count == 1:
            alone_s = figures["s"]
        else:
            gained = round(count * alone_s / figures["s"], 2)
            facts |= {"times": gained, "aim": MERGED_AIM, "is_reached": gained >= MERGED_AIM}
        yield facts
