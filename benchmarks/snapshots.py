"""What snapshots cost the generations that they are taken of.

    python -m benchmarks.snapshots [--pairs 5] [--steps 20] [--interval 10] [--families flux wan …]

A generation with a snapshot before every second step and one without any, in turns, each by the CPU
time of the whole process: taking it on the engine's thread, and making bytes of it on another, as
replicas do. (Uploading is not in it.) The difference is a small number out of two large ones, so
both parts are measured by themselves as well, by the time of their threads. A replica takes one in
``--interval`` seconds; the share is that of one snapshot in as much time of the generation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.pipelines import DEMO
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loop import run
from serve_app.domain.endpoint import Weights
from serve_app.domain.progress import Progress, Stage


@dataclass(frozen=True, slots=True)
class Case:
    weights: str
    arguments: Mapping[str, Any]


CASES: Mapping[str, Case] = {
    "flux": Case("flux", {"width": 128, "height": 128, "num_images_per_prompt": 4}),
    "sdxl": Case("sdxl", {"width": 128, "height": 128, "num_images_per_prompt": 4}),
    "wan": Case("wan", {"width": 64, "height": 64, "num_frames": 17, "guidance_scale": 1.0}),
    "wan, 5 times as long": Case(
        "wan", {"width": 64, "height": 64, "num_frames": 81, "guidance_scale": 1.0}
    ),
    "wan, large": Case(
        "wan", {"width": 128, "height": 128, "num_frames": 81, "guidance_scale": 1.0}
    ),
    "stable-audio": Case("stable-audio", {"audio_end_in_s": 1.5, "guidance_scale": 3.0}),
}


@dataclass
class Spent:
    """CPU seconds."""

    with_them: list[float] = field(default_factory=list)  # a generation of the process
    without: list[float] = field(default_factory=list)
    taking: list[float] = field(default_factory=list)  # of the engine's thread, one snapshot
    writing: list[float] = field(default_factory=list)  # of another's, to bytes
    size: int = 0  # bytes


class Asks:
    """Asks for a snapshot before every second step, and has it written on a thread."""

    def __init__(self, spent: Spent, threads: ThreadPoolExecutor) -> None:
        self._spent = spent
        self._threads = threads
        self._known = threading.Event()
        self._generation: Any = None
        self._writing: list[Any] = []

    def watch(self, generation: Any) -> None:
        self._generation = generation
        self._known.set()

    def __call__(self, progress: Progress) -> None:
        if progress.stage is Stage.DENOISING and progress.step % 2:
            self._known.wait()
            snapshot = self._generation.request_snapshot()
            self._writing.append(self._threads.submit(self._write, snapshot))

    def finish(self) -> None:
        for future in self._writing:
            future.result()

    def _write(self, asked: Any) -> None:
        snapshot = asked.result()
        began = time.thread_time()
        self._spent.size = len(snapshot.to_bytes())
        self._spent.writing.append(time.thread_time() - began)


def measure(case: Case, pairs: int, steps: int) -> Spent:
    spent = Spent()
    pipeline = load_pipeline(Weights(str(DEMO / case.weights)))
    with (
        ThreadPoolExecutor(1) as threads,
        timed_taking(spent),
        Engine(pipeline, threads=1) as engine,
    ):
        for number in range(-1, pairs):
            for way in (True, False) if number % 2 else (False, True):
                seconds = _generation(engine, case, steps, Asks(spent, threads) if way else None)
                if number >= 0:
                    (spent.with_them if way else spent.without).append(seconds)
    return spent


def _generation(engine: Engine, case: Case, steps: int, asks: Asks | None) -> float:
    began = time.process_time()
    generation = engine.submit(
        prompt="a red circle moving left",
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
        on_progress=asks,
        deterministic=True,
        **case.arguments,
    )
    if asks is not None:
        asks.watch(generation)
    generation.result()
    if asks is not None:
        asks.finish()
    return time.process_time() - began


class timed_taking:  # noqa: N801  # reads as a statement
    """While it lasts, what takes snapshots is timed."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._take: Callable[..., Any] = run.capture

    def __enter__(self) -> None:
        def timed(*positional: Any, **named: Any) -> Any:
            began = time.thread_time()
            taken = self._take(*positional, **named)
            self._spent.taking.append(time.thread_time() - began)
            return taken

        run.capture = timed

    def __exit__(self, *_: object) -> None:
        run.capture = self._take


def show(name: str, spent: Spent, steps: int, interval_s: float) -> None:
    without, with_them = map(statistics.median, (spent.without, spent.with_them))
    taking, writing = map(statistics.median, (spent.taking, spent.writing))
    print(
        f"{name:22} {without:7.2f} s without, {with_them:7.2f} s with {steps // 2} of them "
        f"({with_them / without - 1:+.1%}); each {taking * 1e3:6.2f} ms of the engine's thread, "
        f"{writing * 1e3:6.2f} ms of another, {spent.size / 2**20:6.2f} MiB: "
        f"{(taking + writing) / interval_s:.3%} of {interval_s:g} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--interval", type=float, default=10.0)
    parser.add_argument("--families", nargs="*", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name in options.families:
        show(
            name,
            measure(CASES[name], options.pairs, options.steps),
            options.steps,
            options.interval,
        )


if __name__ == "__main__":
    main()
