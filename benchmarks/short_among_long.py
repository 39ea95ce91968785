"""How long short requests wait while long ones run: the engine against one after the other.

    python -m benchmarks.short_among_long [--pipeline wide|flux|sdxl] [--long 50] [--short 4]

There is always one long generation, the next is submitted when the last has ended. Short ones come
meanwhile, `--per-long` in the time that a long one takes alone, whether or not the last have ended.
One after the other means plain diffusers behind a queue: who came first is drawn first. The engine
has its weights laid out as a replica lays them. Both get the same requests at the same times, in
turns.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.pipelines import arguments, pipeline_of
from deployments.engine.engine import Engine
from deployments.engine.memory.layout import lay_out

Submit = Callable[[Mapping[str, Any]], Any]
"""Begins one; what it returns has ``result`` and ``add_done_callback``."""

LONG_ALONE = "long ones alone, plain"
QUEUE = "plain, one after the other"
ENGINE = "the engine"


@dataclass
class Latencies:
    """Seconds from submit to the end."""

    short: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    pipeline: str
    long_steps: int
    short_steps: int
    longs: int  # in a turn, one after the other
    every_s: float  # on average, between two short ones; 0: there are none

    def wish(self, number: int, steps: int) -> dict[str, Any]:
        return arguments(self.pipeline, f"a red circle above {number} blue squares", steps, number)

    def turn(self, submit: Submit) -> Latencies:
        """One measurement."""
        taken = Latencies()
        ended = threading.Event()
        client = threading.Thread(target=self._long_ones, args=(submit, taken, ended))
        client.start()
        pauses = random.Random(1)
        running: list[Any] = []
        while self.every_s and not ended.wait(self.every_s * pauses.uniform(0.5, 1.5)):
            running.append(_begin(submit, self.wish(len(running), self.short_steps), taken.short))
        client.join()
        for generation in running:
            generation.result()
        return taken

    def _long_ones(self, submit: Submit, taken: Latencies, ended: threading.Event) -> None:
        try:
            for number in range(self.longs):
                _begin(submit, self.wish(number, self.long_steps), taken.long).result()
        finally:
            ended.set()


def _begin(submit: Submit, wish: Mapping[str, Any], taken: list[float]) -> Any:
    began = time.perf_counter()
    running = submit(wish)
    running.add_done_callback(lambda _: taken.append(time.perf_counter() - began))
    return running


def show(of: Mapping[str, Sequence[Latencies]]) -> None:
    """All turns together."""
    print(f"{'':30}{'short p50 s':>12}{'p95 s':>8}{'long mean s':>13}")
    for name, turns in of.items():
        short = [latency for turn in turns for latency in turn.short]
        row = f"{'–':>12}{'–':>8}"
        if short:
            row = f"{statistics.median(short):12.2f}{_p95(short):8.2f}"
        print(f"{name:30}{row}{_long(turns):13.2f}   {len(short)} short ones")
    queue, engine = (
        _p95([latency for turn in of[name] for latency in turn.short]) for name in (QUEUE, ENGINE)
    )
    against_queue, against_alone = (
        _long(of[ENGINE]) / _long(of[name]) for name in (QUEUE, LONG_ALONE)
    )
    print(f"p95 of the short ones: {queue / engine:.1f} x lower through the engine")
    print(
        f"long ones: {against_queue:.2f} x what they take among short ones in the queue, "
        f"{against_alone:.2f} x what they take alone"
    )


def _p95(of: Sequence[float]) -> float:
    return statistics.quantiles(of, n=100)[94]


def _long(turns: Sequence[Latencies]) -> float:
    return statistics.mean(latency for turn in turns for latency in turn.long)


def main(given_arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", choices=("flux", "sdxl", "wide"), default="wide")
    parser.add_argument("--long", type=int, default=50, help="steps")
    parser.add_argument("--short", type=int, default=4, help="steps")
    parser.add_argument("--longs", type=int, default=3, help="long ones in a turn")
    parser.add_argument("--per-long", type=float, default=4, help="short ones, see above")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(given_arguments)
    torch.set_num_threads(options.threads)
    pipeline = pipeline_of(options.pipeline)
    load = Load(options.pipeline, options.long, options.short, options.longs, 0.0)
    began = time.perf_counter()
    pipeline(**load.wish(0, options.long))
    takes_s = time.perf_counter() - began
    mixed = Load(
        *(options.pipeline, options.long, options.short, options.longs, takes_s / options.per_long)
    )
    of: dict[str, list[Latencies]] = {LONG_ALONE: [], QUEUE: [], ENGINE: []}
    laid_out = pipeline_of(options.pipeline)
    lay_out(laid_out, "cpu")
    with (
        ThreadPoolExecutor(
            1, initializer=lambda: torch.set_num_threads(options.threads)
        ) as one_after_the_other,
        Engine(laid_out, threads=options.threads, prompt_cache_bytes=0) as engine,
    ):
        queue: Submit = lambda wish: one_after_the_other.submit(pipeline, **wish)  # noqa: E731
        for _ in range(options.rounds):
            of[LONG_ALONE].append(load.turn(queue))
            of[QUEUE].append(mixed.turn(queue))
            of[ENGINE].append(mixed.turn(lambda wish: engine.submit(**wish)))
    print(
        f"{options.pipeline}: long ones of {options.long} steps ({takes_s:.2f} s), short ones of "
        f"{options.short}, one each {mixed.every_s:.2f} s, load average {os.getloadavg()[0]:.1f}"
    )
    show(of)


if __name__ == "__main__":
    main()
