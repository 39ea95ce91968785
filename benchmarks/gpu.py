"""Seconds per image on a GPU, alone and merged, at the sizes that people run.

    python -m benchmarks.gpu [--minutes 20] [--cases flux-dev-1024 …] [--out figures.jsonl]
    python -m benchmarks.gpu --device cpu --tiny        # that the script works

Random weights of the real sizes (``real_sizes.py``), bfloat16, text encoders left out. Each case
goes through plain diffusers and the engine, with generations one by one and 1, 2, 4 and 8 merged;
then faster ways to compute, one on top of the other: the fastest attention that is there, channels
last (UNets), the blocks compiled, float8 (torchao, where it is installed), CUDA graphs. A way that
fails is reported and left out; after each, the engine's latents are compared with those of plain
diffusers computed the same way. What the device could do at most is ``--peak`` (an H200 in
bfloat16, dense: 989 TFLOP/s by NVIDIA's data sheet, and twice that in float8); the FLOPs are
counted in one forward.

A machine without a package index is carried wheels of what it lacks: `pip download --no-deps
--only-binary=:all:` for its Python of diffusers, transformers, huggingface-hub, safetensors,
accelerate, peft, greenlet and pydantic as ``constraints.txt`` has them, and of the torchao that
names its torch.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.real_sizes import Case, cases
from deployments.engine.engine import Engine

AS_IT_IS = "as it is"
ATTENTION = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3")
BATCHES = (1, 2, 4, 8)
H200_TFLOPS = 989.0


class Bench:
    """One case, with its figures."""

    def __init__(self, case: Case, given: argparse.Namespace, report: Callable[..., None]) -> None:
        self._case = case
        self._given = given
        self._report = report
        with _made_on(given.device):
            self._pipeline: Any = case.make(given.tiny)
            self._call = dict(case.call(self._pipeline, given.tiny))
        self._pipeline.set_progress_bar_config(disable=True)
        if hasattr(self.denoiser, "set_attention_backend"):
            # The last one that any model was given holds for those made later.
            self.denoiser.set_attention_backend(ATTENTION[0])
        self._steps = 2 if given.tiny else case.steps
        self._in_float8 = False

    @property
    def denoiser(self) -> Any:
        return getattr(self._pipeline, self._case.denoiser)

    def run(self, out_of_time: Callable[[], bool]) -> None:
        self._parity(AS_IT_IS)
        self._measure(AS_IT_IS, self._flops())
        for way, change in self._ways():
            if out_of_time():
                self._report(case=self._case.name, way=way, left_out="out of time")
                continue
            try:
                change()
                self._parity(way)
                self._measure(way, None)
            except Exception as error:  # what this machine lacks is reported, and left out
                self._report(case=self._case.name, way=way, left_out=f"{error!r}"[:300])

    def _arguments(self, seed: int, **more: Any) -> dict[str, Any]:
        device = self._given.device
        return {
            **self._call,
            "num_inference_steps": self._steps,
            "generator": torch.Generator(device).manual_seed(seed),
            "output_type": "pt",
            **more,
        }

    def _plain(self, seed: int, **more: Any) -> torch.Tensor:
        with torch.no_grad():
            return self._pipeline(**self._arguments(seed, **more))[0]

    def _parity(self, way: str) -> None:
        """That the engine gives what diffusers gives: alone to the bit, merged as near as two other
        kernels are."""
        latents = {"output_type": "latent"}  # of random weights, images are all alike
        plain = [self._plain(seed, **latents) for seed in (1, 2)]
        with self._engine(2) as engine:
            alone = engine.submit(deterministic=True, **self._arguments(1, **latents)).result()[0]
            both = [engine.submit(**self._arguments(seed, **latents)) for seed in (1, 2)]
            merged = [each.result()[0] for each in both]
        self._report(
            case=self._case.name,
            way=way,
            alone_same_bits=torch.equal(alone, plain[0]),
            merged_differs_by=max(
                float((a.float() - b.float()).abs().max())
                for a, b in zip(merged, plain, strict=True)
            ),
            range_of_latents=float(plain[0].float().max() - plain[0].float().min()),
        )

    def _measure(self, way: str, flops: float | None) -> None:
        if self._given.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        self._plain(1)  # warm: compilation, the choice of kernels
        plain_s = self._timed(lambda: self._plain(1))
        facts: dict[str, Any] = {"plain_s": round(plain_s, 4)}
        if flops is not None:
            self._flops_per_image = flops
        peak = self._given.peak * (2 if self._in_float8 else 1)
        facts["share_of_peak"] = round(self._flops_per_image / plain_s / (peak * 1e12), 3)
        for size in BATCHES:
            with self._engine(size) as engine:
                self._together(engine, size)
                facts[f"merged_{size}_s_per_image"] = round(
                    self._timed(lambda e=engine, n=size: self._together(e, n)) / size, 4
                )
                facts[f"batches_of_{size}"] = dict(engine.counts()["batch_sizes"])
        if self._given.device != "cpu":
            facts["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        facts["merged_8"] = round(plain_s / facts["merged_8_s_per_image"], 2)
        precision = "float8" if self._in_float8 else "bfloat16"
        aims = {
            name: aim for name, aim in self._case.aims.items() if name in (precision, "merged_8")
        }
        self._report(case=self._case.name, way=way, steps=self._steps, aims=aims, **facts)

    def _together(self, engine: Engine, size: int) -> None:
        running = [engine.submit(**self._arguments(seed)) for seed in range(size)]
        for each in running:
            each.result()

    def _engine(self, size: int) -> Engine:
        return Engine(self._pipeline, device=self._given.device, max_batch=size)

    def _timed(self, work: Callable[[], object]) -> float:
        """Median seconds of three."""
        taken = []
        for _ in range(3):
            self._wait()
            began = time.perf_counter()
            work()
            self._wait()
            taken.append(time.perf_counter() - began)
        return sorted(taken)[1]

    def _wait(self) -> None:
        if self._given.device != "cpu":
            torch.cuda.synchronize()

    def _flops(self) -> float:
        """The denoiser's operations per image, counted in a run of one step."""
        steps, self._steps = self._steps, 1
        inside: list[float] = []
        forward = self.denoiser.forward

        def counted(*arguments: Any, **keywords: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                output = forward(*arguments, **keywords)
            inside.append(counter.get_total_flops())
            return output

        self.denoiser.forward = counted
        try:
            self._plain(1)
        finally:
            del self.denoiser.forward
            self._steps = steps
        return sum(inside) * steps

    def _ways(self) -> Iterator[tuple[str, Callable[[], None]]]:
        if hasattr(self.denoiser, "set_attention_backend"):
            yield "fastest attention", self._choose_attention
        if self._case.denoiser == "unet":
            yield (
                "channels last",
                lambda: self.denoiser.to(memory_format=torch.channels_last) and None,
            )
        yield "compiled blocks", self._compile
        yield "float8", self._to_float8
        if self._given.device != "cpu":
            yield "CUDA graphs", self._compile_to_graphs

    def _choose_attention(self) -> None:
        denoiser = self.denoiser
        steps, self._steps = self._steps, 2
        taken: dict[str, float] = {}
        for backend in ATTENTION:
            try:
                denoiser.set_attention_backend(backend)
                self._plain(1)
                taken[backend] = self._timed(lambda: self._plain(1))
            except Exception as error:
                self._report(case=self._case.name, attention=backend, left_out=f"{error!r}"[:160])
        self._steps = steps
        best = min(taken, key=lambda name: taken[name])
        denoiser.set_attention_backend(best)
        self._report(case=self._case.name, attention=best, seconds_of_two_steps=taken)

    def _compile(self) -> None:
        denoiser = self.denoiser
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks(dynamic=True)
        else:
            denoiser.compile(dynamic=True)

    def _to_float8(self) -> None:
        # Not one of the project's dependencies: carried to the machine with the GPU.
        torchao = import_module("torchao.quantization")
        config = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
        torchao.quantize_(self.denoiser, config)
        self._in_float8 = True

    def _compile_to_graphs(self) -> None:
        """The whole forward as a CUDA graph for each shape. A replay writes over the outputs of the
        last one: torch raises in code that keeps one from step to step, as some solvers do."""
        torch.compiler.reset()
        self.denoiser.compile(mode="reduce-overhead")


@contextmanager
def _made_on(device: str) -> Generator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: that the script works")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin nothing after that")
    parser.add_argument("--peak", type=float, default=H200_TFLOPS, help="TFLOP/s of the device")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in cases()])
    parser.add_argument("--out", type=Path, help="a line of JSON for each figure")
    given = parser.parse_args(arguments)
    end = time.monotonic() + given.minutes * 60
    with given.out.open("a") if given.out else sys.stdout as out:
        report = _reporter(out)
        device = "CPU" if given.device == "cpu" else torch.cuda.get_device_name()
        report(
            device=device,
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            python=platform.python_version(),
        )
        for case in cases():
            if case.name not in given.cases:
                continue
            if time.monotonic() > end:
                report(case=case.name, left_out="out of time")
                continue
            began = time.monotonic()
            report(case=case.name, published_s=dict(case.published))
            bench = Bench(case, given, report)
            bench.run(lambda: time.monotonic() > end)
            del bench
            gc.collect()
            if given.device != "cpu":
                torch.cuda.empty_cache()
            report(case=case.name, took_s=round(time.monotonic() - began, 1))


def _reporter(out: TextIO) -> Callable[..., None]:
    def report(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    return report


if __name__ == "__main__":
    main()
