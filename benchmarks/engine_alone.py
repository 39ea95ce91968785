"""What the engine costs a generation that is alone in it, against plain diffusers.

    python -m benchmarks.engine_alone [--pairs 10] [--steps 20] [--pipelines narrow flux sdxl wide]

A generation each, in turns. All that the engine can add lies between the forwards, before the first
and after the last; so the CPU time of just that is compared, which is a small number by itself and
no difference of two large ones. On a busy machine some of it is always spent on caches that others
have emptied, so of all steps the fastest quarter counts. The prompt cache is off, because it would
make the engine the faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.pipelines import arguments, pipeline_of
from deployments.engine.engine import Engine

PROMPT = "a green star above a pink heart"
PLAIN = "plain diffusers"
Way = Callable[[], Any]


@dataclass
class Spent:
    """CPU seconds of the process."""

    forward: list[float] = field(default_factory=list)  # of each
    between: list[float] = field(default_factory=list)  # two forwards of one generation
    around: list[float] = field(default_factory=list)  # before the first and after the last
    clock: list[float] = field(default_factory=list)  # of a whole generation, by the clock


class Marks:
    """Looks at the CPU clock whenever the denoiser begins and ends."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self._began: list[float] = []
        self._ended: list[float] = []
        denoiser.register_forward_pre_hook(self._begin)
        denoiser.register_forward_hook(self._end)

    def of(self, way: Way, spent: Spent) -> None:
        """Run ``way``, one generation, and add what it spent."""
        self._began, self._ended = [], []
        clock, called = time.perf_counter(), time.process_time()
        way()
        returned = time.process_time()
        spent.clock.append(time.perf_counter() - clock)
        spent.around.append(self._began[0] - called + returned - self._ended[-1])
        pairs = zip(self._began, self._ended, strict=True)
        spent.forward += [ended - began for began, ended in pairs]
        pairs = zip(self._ended, self._began[1:], strict=False)
        spent.between += [began - ended for ended, began in pairs]

    def _begin(self, *_: Any) -> None:
        self._began.append(time.process_time())

    def _end(self, *_: Any) -> None:
        self._ended.append(time.process_time())


def measure(ways: Mapping[str, Way], marks: Marks, pairs: int) -> dict[str, Spent]:
    """The ways in turns, from both ends; the first generations do not count."""
    spent = {name: Spent() for name in ways}
    for number in range(-2, pairs):
        for name in list(ways) if number % 2 else reversed(ways):
            marks.of(ways[name], spent[name] if number >= 0 else Spent())
    return spent


def show(spent: Mapping[str, Spent]) -> None:
    """A line each, with what it adds to plain diffusers."""
    base = spent[PLAIN]
    step_s = _fast(base.forward) + _fast(base.between)
    for name, own in spent.items():
        more_s = _fast(own.between) - _fast(base.between)
        around_s = _fast(own.around) - _fast(base.around)
        print(
            f"    {name:24} forward {_fast(own.forward) * 1e3:7.2f} ms, between "
            f"{_fast(own.between) * 1e6:5.0f} µs: {more_s * 1e6:+5.0f} µs, {more_s / step_s:+6.2%} "
            f"of a step; around {_fast(own.around) * 1e3:6.1f} ms: {around_s * 1e3:+5.1f} ms; "
            f"clock {statistics.median(own.clock) / statistics.median(base.clock) - 1:+6.1%}",
            flush=True,
        )


def _fast(of: Sequence[float]) -> float:
    """What a quarter of them stays below."""
    return statistics.quantiles(of, n=4)[0]


def main(given_arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    every = ("narrow", "flux", "sdxl", "wide")
    parser.add_argument("--pipelines", nargs="*", choices=every, default=every)
    options = parser.parse_args(given_arguments)
    torch.set_num_threads(options.threads)
    for name in options.pipelines:
        pipeline = pipeline_of(name)
        marks = Marks(pipeline.unet if name == "sdxl" else pipeline.transformer)
        call = lambda n=name: arguments(n, PROMPT, options.steps, 1)  # noqa: E731
        alike = {"threads": options.threads, "prompt_cache_bytes": 0}
        with (
            Engine(pipeline, max_batch=1, **alike) as single,
            Engine(pipeline, max_batch=8, **alike) as merging,
        ):
            ways: dict[str, Way] = {
                PLAIN: lambda p=pipeline, c=call: p(**c()),
                "the engine, max_batch=1": lambda e=single, c=call: e.submit(**c()).result(),
                "the engine, max_batch=8": lambda e=merging, c=call: e.submit(**c()).result(),
            }
            spent = measure(ways, marks, options.pairs)
        print(
            f"{name}: {options.pairs} generations each, of {options.steps} steps, "
            f"{options.threads} threads, load average {os.getloadavg()[0]:.1f}"
        )
        show(spent)


if __name__ == "__main__":
    main()
