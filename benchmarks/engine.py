"""What merging brings, and what the engine costs alone: ratios within one run.

    python -m benchmarks.engine [--generations 8] [--rounds 3] [--threads 2] [--side 128]

The demo Flux on the CPU, with other prompts, seeds and step counts. Each round measures in turns,
so that whatever else the machine does meets all of them: plain diffusers one after the other, the
engine one after the other, the engine all at once without merging and with. What is compared are
the medians of the rounds; only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights

DEMO = Path(__file__).parents[1] / "deployments" / "demo" / "flux"
PROMPTS = ("a red circle", "a small blue square", "a green star above a pink heart", "a cyan disc")
STEPS = (4, 8, 12, 6, 10, 4, 16, 5)


def wish(number: int, side: int) -> dict[str, Any]:
    """Arguments of a generation; makes a new random generator each time."""
    return {
        "prompt": PROMPTS[number % len(PROMPTS)],
        "num_inference_steps": STEPS[number % len(STEPS)],
        "width": side,
        "height": side,
        "generator": torch.Generator().manual_seed(number),
        "max_sequence_length": 32,
        "output_type": "pt",
    }


def one_by_one(pipeline: Any, count: int, side: int) -> None:
    for number in range(count):
        pipeline(**wish(number, side))


def through(engine: Engine, count: int, side: int, *, at_once: bool) -> None:
    running = []
    for number in range(count):
        running.append(engine.submit(**wish(number, side)))
        if not at_once:
            running[-1].result()
    for generation in running:
        generation.result()


def measure(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, taken in turns after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(durations) for name, durations in taken.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pipeline = load_pipeline(Weights(str(DEMO)))
    pipeline.set_progress_bar_config(disable=True)
    count, side = options.generations, options.side
    single = Engine(pipeline, max_batch=1, max_generations=count, threads=options.threads)
    # Otherwise a burst is merged only as far as single requests gain.
    merging = Engine(pipeline, max_batch=count, threads=options.threads, limit_rows=False)
    with single, merging:
        seconds = measure(
            {
                "plain diffusers, one by one": lambda: one_by_one(pipeline, count, side),
                "the engine, one by one": lambda: through(single, count, side, at_once=False),
                "the engine, all at once, interleaved": lambda: through(
                    single, count, side, at_once=True
                ),
                "the engine, all at once, merged": lambda: through(
                    merging, count, side, at_once=True
                ),
            },
            options.rounds,
        )
        counts = merging.counts()
    steps = sum(STEPS[number % len(STEPS)] for number in range(count))
    plain = seconds["plain diffusers, one by one"]
    print(
        f"{count} generations, {steps} steps, {side} px, {options.threads} threads, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    for name, duration in seconds.items():
        print(f"{name:<40} {count / duration:7.2f} images/s {plain / duration:6.2f} x plain")
    calls = counts["merged_calls"] + counts["single_calls"]
    print(f"merged: {counts['merged_calls'] / calls:.0%} of {calls} calls")
    print(f"calls per forward: {dict(sorted(counts['batch_sizes'].items()))}")


if __name__ == "__main__":
    main()
