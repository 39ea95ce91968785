"""Sections about weights on their way: from the disk, and from host memory, to the device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, text_of
from benchmarks.gpu.section import Facts
from benchmarks.loading import Discrete, drop, fill, write
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.memory.placement import placed_by
from deployments.engine.memory.warm import WarmTier, WeightPlaces
from deployments.engine.reading.reader import Home, WeightReader
from deployments.engine.reading.unread import reading_later
from serve_app.domain.endpoint import Weights

GB = 10.0  # of random weights that are written and read
AIM_GB_S = 20.0  # warm to hot: a second for each 20 GB
SHARE = 0.8  # of the host's memory, for warm weights
ROUNDS = 3


def load_safetensors(bench: Bench) -> Iterator[Facts]:
    """Random weights of FLUX.1's layers, from the disk to the device: bytes a second of each way,
    beside those of reading alone and of a copy in memory."""
    with tempfile.TemporaryDirectory(prefix="darkroom-gpu-") as folder:
        began = time.perf_counter()
        write(Path(folder), 0 if bench.tiny else GB)
        paths = sorted((Path(folder) / "transformer").glob("*.safetensors"))
        size = sum(path.stat().st_size for path in paths)
        yield {"gb": round(size / 1e9, 3), "write_s": round(time.perf_counter() - began, 2)}
        ways = _ways_to_load(bench, Path(folder), paths, size)
        for cached in (False, True):  # the first one brings them into the page cache
            for name, work in ways.items():
                (fill if cached else drop)(paths)
                yield {"way": name, "cached": cached, **_loaded(bench, work, size)}
    source = torch.empty(2**20 if bench.tiny else 2**30, dtype=torch.uint8).fill_(1)
    target = torch.empty_like(source).fill_(2)
    figures = bench.timed(lambda: target.copy_(source))
    yield {"way": "copy in memory", "gb_s": round(source.numel() / figures["s"] / 1e9, 3)}


def _accelerator(bench: Bench, size: int) -> Accelerator:
    """The GPU, or memory that stands for one's."""
    return accelerator_for(bench.device) if bench.on_gpu else Discrete(2 * size)


def _ways_to_load(
    bench: Bench, folder: Path, paths: list[Path], size: int
) -> dict[str, Callable[[], object]]:
    """Ways to load the files, by name. The reader's is the one that loads use."""
    from safetensors.torch import load_file  # noqa: PLC0415

    reader = WeightReader(_accelerator(bench, size))

    def read() -> None:
        block = bytearray(8 * 2**20)
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass

    def through_the_host() -> object:
        return [each.to(bench.device) for path in paths for each in load_file(path).values()]

    def by_the_reader() -> object:
        with reading_later():
            pipeline = load_pipeline(Weights(str(folder)), dtype="bfloat16")
        reader.read([(pipeline.transformer, Home.DEVICE)])
        return pipeline

    return {
        "read alone": read,
        "own reader": by_the_reader,
        "to the device": lambda: [load_file(path, device=bench.device) for path in paths],
        "through host memory": through_the_host,
    }


def _loaded(bench: Bench, work: Callable[[], object], size: int) -> Facts:
    bench.synchronize()
    began = time.perf_counter()
    try:
        kept = work()
        bench.synchronize()
    except Exception as error:
        return {"left_out": text_of(error)}
    took = time.perf_counter() - began
    del kept
    bench.free()
    return {"s": round(took, 3), "gb_s": round(size / took / 1e9, 3)}


def warm_to_hot(bench: Bench) -> Iterator[Facts]:
    """FLUX.1's denoiser and decoder from the device to host memory and back, as evicted weights go
    and return, against copies alone: bytes a second."""
    pipeline: Any = bench.flux()
    placement = placed_by(None, pipeline)
    accelerator = _accelerator(bench, placement.device_bytes)
    tier, places = WarmTier(accelerator, SHARE), WeightPlaces(placement.resident)
    try:
        began = time.perf_counter()
        if not tier.keep("flux", pipeline, placement, places, placement.device_bytes):
            yield {"left_out": "The host has too little free memory."}
            return
        took = time.perf_counter() - began
        size = placement.device_bytes
        yield {"way": "hot to warm, with locking", **_rate(took, size), "gb": round(size / 1e9, 2)}
        warm = tier.take("flux")
        assert warm is not None
        yield from _returns(bench, accelerator, warm)
    finally:
        tier.restored("flux")
        del pipeline, placement, places
        bench.drop_models()


def _returns(bench: Bench, accelerator: Accelerator, warm: Any) -> Iterator[Facts]:
    size = sum(len(each.host) for each in warm.slabs)
    returned = bench.timed(lambda: warm.apply(accelerator), ROUNDS)
    rate = _rate(returned["s"], size)
    yield {"way": "warm to hot", **rate, "aim": AIM_GB_S, "is_reached": rate["gb_s"] >= AIM_GB_S}
    sources = [each.host for each in warm.slabs]
    targets = [accelerator.allocate(torch.empty_like(each, device="meta")) for each in sources]

    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source, non_blocking=True)

    copied = bench.timed(copy, ROUNDS)
    yield {"way": "copies alone", **_rate(copied["s"], size)}


def _rate(seconds: float, size: int) -> dict[str, float]:
    return {"s": round(seconds, 4), "gb_s": round(size / max(seconds, 1e-9) / 1e9, 3)}
