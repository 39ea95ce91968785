"""Four LoRAs at once: mixed in common forwards, against switching from one to the next.

    python -m benchmarks.loras [--loras 4] [--each 2] [--steps 8] [--rounds 3] [--threads 2]
                                  [--side 128] [--rank 16]

The demo Flux on the CPU with random LoRAs on its attention. Each round measures in turns, so
that whatever else the machine does meets all of them: diffusers with one LoRA switched on after
the other and its generations one by one; the same with its generations as one batch; the engine
with everything at once, unmerged and merged. What is compared are the medians of the rounds; only
the ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.engine import DEMO, PROMPTS, measure
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.lora.format import Lora
from serve_app.domain.endpoint import Weights

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def random_lora(
    file: Path, denoiser: torch.nn.Module, rank: int, seed: int, component: str = "transformer"
) -> Path:
    """On all of the attention, as most LoRAs are. ``component``: the denoiser's name."""
    noise = torch.Generator().manual_seed(seed)
    state = {}
    for name, layer in denoiser.named_modules():
        if name.endswith(TARGETS) and isinstance(layer, torch.nn.Linear):
            out, into = layer.weight.shape
            key = f"{component}.{name}"
            state[f"{key}.lora_A.weight"] = torch.randn(rank, into, generator=noise) / into
            state[f"{key}.lora_B.weight"] = torch.randn(out, rank, generator=noise) / rank
    save_file(state, file)
    return file


def demo() -> Any:
    pipeline = load_pipeline(Weights(str(DEMO)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._given = options
        self.switching = demo()
        self.mixing = demo()
        self._files = [
            random_lora(
                folder / f"{number}.safetensors", self.mixing.transformer, options.rank, number
            )
            for number in range(options.loras)
        ]
        for number, file in enumerate(self._files):
            self.switching.load_lora_weights(
                file.parent, weight_name=file.name, adapter_name=f"lora{number}"
            )

    def one_by_one(self) -> None:
        for number in range(len(self._files)):
            self.switching.set_adapters(f"lora{number}")
            for index in range(self._given.each):
                self.switching(**self._wish([index]))

    def switch_in_batches(self) -> None:
        """A batch per LoRA: the best that whole calls of diffusers can do."""
        for number in range(len(self._files)):
            self.switching.set_adapters(f"lora{number}")
            self.switching(**self._wish(range(self._given.each)))

    def generate_at_once(self, engine: Engine) -> None:
        running = [
            engine.submit(loras=[Lora(file)], **self._wish([index]))
            for index in range(self._given.each)
            for file in self._files
        ]
        for generation in running:
            generation.result()

    def _wish(self, seeds: Sequence[int]) -> dict[str, Any]:
        return {
            "prompt": [PROMPTS[seed % len(PROMPTS)] for seed in seeds],
            "num_inference_steps": self._given.steps,
            "width": self._given.side,
            "height": self._given.side,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "max_sequence_length": 32,
            "output_type": "pt",
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("loras", 4), ("each", 2), ("steps", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    count = options.loras * options.each
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        # Two engines over one pipeline would find each other's LoRAs on it.
        unmerged = Engine(demo(), max_batch=1, max_generations=count, threads=options.threads)
        merged = Engine(bench.mixing, max_batch=count, threads=options.threads, limit_rows=False)
        with unmerged, merged:
            seconds = measure(
                {
                    "diffusers, switching, one by one": bench.one_by_one,
                    "diffusers, switching, a batch each": bench.switch_in_batches,
                    "the engine, at once, interleaved": lambda: bench.generate_at_once(unmerged),
                    "the engine, at once, mixed": lambda: bench.generate_at_once(merged),
                },
                options.rounds,
            )
            counts = merged.counts()
    base = seconds["diffusers, switching, one by one"]
    print(
        f"{options.loras} LoRAs of rank {options.rank}, {count} generations of {options.steps} "
        f"steps, {options.side} px, {options.threads} threads, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    for name, duration in seconds.items():
        print(f"{name:<36} {count / duration:7.2f} images/s {base / duration:6.2f} x one by one")
    calls = counts["merged_calls"] + counts["single_calls"]
    print(f"merged: {counts['merged_calls'] / calls:.0%} of {calls} calls")


if __name__ == "__main__":
    main()
