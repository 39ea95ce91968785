"""Eight drafts of a quarter, of which two are finished, against eight whole generations.

    python -m benchmarks.drafts [--drafts 8] [--finished 2] [--until 0.25] [--steps 28]
                                   [--loras 2] [--rounds 3] [--threads 2]

The demo Flux on the CPU, its generations mixed with random LoRAs. All drafts run at once, then a
preview of each, then those that are finished, the first of them with another LoRA. Counted are the
engine's steps, which previews do not add to; measured are the medians of the rounds, in turns with
whole generations. Only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine import PROMPTS
from benchmarks.loras import demo, random_lora
from deployments.engine.drafting.draft import Draft, DraftPoint
from deployments.engine.drafting.fork import Fork
from deployments.engine.engine import Engine
from deployments.engine.loop.options import DEFAULT_OPTIONS, GenerationOptions
from deployments.engine.lora.format import Lora

RANK = 16


class Bench:
    def __init__(self, options: argparse.Namespace, engine: Engine, loras: Sequence[Path]) -> None:
        self._given = options
        self._engine = engine
        self._loras = loras

    def run_whole_generations(self) -> None:
        self._together([DEFAULT_OPTIONS] * self._given.drafts)

    def run_drafts(self) -> None:
        point = GenerationOptions(draft=DraftPoint(self._given.until))
        drafts = self._together([point] * self._given.drafts)
        self._together([_from(draft, preview=True) for draft in drafts])
        self._together([_from(draft) for draft in drafts[: self._given.finished]], other_loras=1)

    def measure(self, work: Callable[[], None]) -> tuple[int, float]:
        """Steps and seconds of ``work``."""
        before, began = self._engine.counts()["steps"], time.perf_counter()
        work()
        return self._engine.counts()["steps"] - before, time.perf_counter() - began

    def _together(self, options: Sequence[GenerationOptions], other_loras: int = 0) -> list[Any]:
        """``other_loras``: so many of the first have another LoRA than in a run without it."""
        running = [
            self._engine.submit(
                options=wish,
                loras=[Lora(self._loras[(n + (n < other_loras)) % len(self._loras)])]
                if self._loras
                else (),
                prompt=PROMPTS[n % len(PROMPTS)],
                num_inference_steps=self._given.steps,
                height=128,
                width=128,
                guidance_scale=3.5,
                output_type="np",
            )
            for n, wish in enumerate(options)
        ]
        return [generation.result() for generation in running]


def _from(draft: Draft, *, preview: bool = False) -> GenerationOptions:
    return GenerationOptions(fork=Fork(draft, preview=preview))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--finished", type=int, default=2)
    parser.add_argument("--until", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--loras", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pipeline = demo()
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(pipeline, threads=options.threads, max_batch=options.drafts) as engine,
    ):
        loras = [
            random_lora(Path(folder) / f"{n}.safetensors", pipeline.transformer, RANK, n)
            for n in range(options.loras)
        ]
        bench = Bench(options, engine, loras)
        bench.measure(bench.run_drafts)  # the first generations load and compile what is missing
        rounds = [
            (bench.measure(bench.run_whole_generations), bench.measure(bench.run_drafts))
            for _ in range(options.rounds)
        ]
    whole_steps, drafted_steps = rounds[0][0][0], rounds[0][1][0]
    whole_s, drafted_s = (statistics.median(turn[n][1] for turn in rounds) for n in (0, 1))
    print(f"{options.drafts} whole: {whole_steps} steps, {whole_s:.2f} s")
    print(f"{options.drafts} drafts, {options.finished} finished: {drafted_steps} steps, "
          f"{drafted_s:.2f} s")  # fmt: skip
    print(f"ratio: {drafted_steps / whole_steps:.3f} of the steps, "
          f"{drafted_s / whole_s:.3f} of the time")  # fmt: skip


if __name__ == "__main__":
    main()
