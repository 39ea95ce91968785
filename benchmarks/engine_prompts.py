"""What it brings that text encoders and autoencoders share forwards: new prompts, few steps.

    python -m benchmarks.engine_prompts [--generations 8] [--rounds 5] [--steps 2]

The demo Flux on the CPU. No prompt comes twice, so none is remembered. In turns: plain
diffusers one by one, the engine one by one, the engine all at once. Only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from typing import Any

import torch

from benchmarks.engine import DEMO, measure
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights

COLOURS = ("red", "blue", "green", "pink", "cyan", "yellow")
SHAPES = ("circle", "square", "star", "heart")
PROMPTS = [
    f"a {colour} {shape} above a {other} {below}"
    for colour, other, shape, below in product(COLOURS, COLOURS, SHAPES, SHAPES)
]


def wish(prompt: str, steps: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "num_inference_steps": steps,
        "width": 128,
        "height": 128,
        "generator": torch.Generator().manual_seed(len(prompt)),
        "max_sequence_length": 32,
        "output_type": "pt",
    }


def through(engine: Engine, wishes: Sequence[dict[str, Any]], *, at_once: bool) -> None:
    running = []
    for call in wishes:
        running.append(engine.submit(**call))
        if not at_once:
            running[-1].result()
    for generation in running:
        generation.result()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipeline = load_pipeline(Weights(str(DEMO)))
    pipeline.set_progress_bar_config(disable=True)
    prompts: Iterator[str] = cycle(PROMPTS)

    def wishes() -> list[dict[str, Any]]:
        return [wish(next(prompts), options.steps) for _ in range(options.generations)]

    def plain() -> None:
        for call in wishes():
            pipeline(**call)

    with Engine(pipeline, max_batch=options.generations, threads=1) as engine:
        seconds = measure(
            {
                "plain diffusers, one by one": plain,
                "the engine, one by one": lambda: through(engine, wishes(), at_once=False),
                "the engine, all at once": lambda: through(engine, wishes(), at_once=True),
            },
            options.rounds,
        )
        counts = engine.counts()
    print(f"{options.generations} new prompts, load average {os.getloadavg()[0]:.1f}")
    for name, duration in seconds.items():
        ratio = seconds["plain diffusers, one by one"] / duration
        print(f"{name:<40} {options.generations / duration:7.2f} images/s {ratio:6.2f} x plain")
    for part in ("encoders", "autoencoders"):
        print(f"{part}, calls per forward: {dict(sorted(counts[part]['batch_sizes'].items()))}")


if __name__ == "__main__":
    main()
