"""Requests that come together: merged into one forward, against as many as gain something.

    python -m benchmarks.bursts [--requests 8] [--steps 28] [--side 768] [--rounds 3] [--threads 1]

The demo Flux on the CPU at a size at which a forward of eight takes about eight times one of a
single request, as FLUX.1 at 1024 px on a GPU. Merged, all requests end with the last. Limited by
the measured seconds of forwards, they end one after the other, and the last no later. The first
burst of each engine does not count: it measures. Each round measures in turns; only the ratios mean
anything. Seconds are this process's CPU seconds, also for the engine, because the machine may be
busy. For the engine, a minute passes between two bursts, or it would take them for a demand that
needs larger forwards.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.engine import DEMO, PROMPTS
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights


@dataclass(frozen=True, slots=True)
class Burst:
    mean_s: float  # from submit to result
    last_s: float


class Clock:
    """Clock of this process's CPU seconds, which can be moved on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.process_time() + self.ahead_s


def burst(engine: Engine, options: argparse.Namespace) -> Burst:
    began = time.process_time()
    ended: list[float] = []
    running = [engine.submit(**wish(number, options)) for number in range(options.requests)]
    for generation in running:
        generation.add_done_callback(lambda _: ended.append(time.process_time() - began))
    for generation in running:
        generation.result()
    return Burst(statistics.mean(ended), max(ended))


def wish(number: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[number % len(PROMPTS)],
        "num_inference_steps": options.steps,
        "width": options.side,
        "height": options.side,
        "generator": torch.Generator().manual_seed(number),
        "max_sequence_length": 32,
        "output_type": "latent",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=768, help="pixels")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pipeline = load_pipeline(Weights(str(DEMO)))
    pipeline.set_progress_bar_config(disable=True)
    clock = Clock()
    most, threads = options.requests, options.threads
    merging = Engine(pipeline, monotonic=clock, max_batch=most, threads=threads, limit_rows=False)
    limited = Engine(pipeline, monotonic=clock, max_batch=most, threads=threads)
    bursts: dict[str, list[Burst]] = {"merged": [], "limited": []}
    with merging, limited:
        engines = {"merged": merging, "limited": limited}
        for number in range(options.rounds + 1):
            for name, engine in engines.items():
                measured = burst(engine, options)
                clock.ahead_s += 60
                if number:
                    bursts[name].append(measured)
        sizes = {name: dict(engine.counts()["batch_sizes"]) for name, engine in engines.items()}
        times = limited.forward_times()
    print(
        f"{options.requests} requests, {options.steps} steps, {options.side} px, {options.threads} "
        f"threads, load average {os.getloadavg()[0]:.1f}"
    )
    means = {name: statistics.median(run.mean_s for run in of) for name, of in bursts.items()}
    lasts = {name: statistics.median(run.last_s for run in of) for name, of in bursts.items()}
    for name in bursts:
        print(
            f"{name:<8} mean {means[name]:6.2f} s ({means[name] / means['merged']:.2f} x), "
            f"last {lasts[name]:6.2f} s ({lasts[name] / lasts['merged']:.2f} x), "
            f"calls per forward: {dict(sorted(sizes[name].items()))}"
        )
    for signature in times:
        seconds = {calls: round(duration, 4) for calls, duration in signature.seconds.items()}
        print(f"seconds by calls: {seconds}, knee {signature.knee}")


if __name__ == "__main__":
    main()
