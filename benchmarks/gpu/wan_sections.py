"""Section about Wan 2.1 14B."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import RESULT_S, Bench
from benchmarks.gpu.section import Facts
from benchmarks.real_sizes import wan, wan_call
from deployments.engine.engine import Engine

STEPS = 2


def wan_14b_step(bench: Bench) -> Iterator[Facts]:
    """Steps of 81 frames at 480p, without guidance, by diffusers and by the engine."""
    bench.drop_models()
    with bench.made_here():
        pipeline: Any = wan(tiny=bench.tiny, large=True)
    pipeline.set_progress_bar_config(disable=True)

    def call(steps: int) -> dict[str, Any]:
        with bench.made_here():
            embeddings = dict(wan_call(pipeline, tiny=bench.tiny))
        del embeddings["negative_prompt_embeds"]
        generator = torch.Generator("cpu").manual_seed(0)
        return embeddings | {
            "guidance_scale": 1.0,
            "num_inference_steps": steps,
            "generator": generator,
            "output_type": "latent",
        }

    with torch.no_grad():
        pipeline(**call(1))
        plain = bench.measure_time(lambda: pipeline(**call(STEPS)), 1)
    yield {"by": "diffusers", "steps": STEPS, **plain}
    with Engine(pipeline, device=bench.device, max_batch=1) as engine:
        engine.submit(**call(1)).result(RESULT_S)
        figures = bench.measure_time(lambda: engine.submit(**call(STEPS)).result(RESULT_S), 1)
        yield {"by": "engine", "steps": STEPS, **figures}
