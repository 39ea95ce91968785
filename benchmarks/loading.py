"""Loads of weights: bytes a second from disk and from host memory, against what the machine can do.

It writes random bfloat16 weights with the layout of FLUX.1's transformer (fewer blocks) to a
temporary folder, and prints, round by round:

- cold: the page cache is dropped for these files; ``dd`` with O_DIRECT, Darkroom's reader handing
  each buffer on as it does to a device, the reader as on a CPU, and ``from_pretrained``
  with its weights copied, as a load for a GPU needs them;
- cached: the same with the files in the page cache;
- warm: evicted weights that return, against a copy of as many bytes;
- eight bits: the bytes that a load reads which finds them computed.

There is no GPU in it: "device" memory is ordinary memory that is allocated before. Run it with
``python -m benchmarks.loading --gb 2``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.interface import Capabilities
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.memory.placement import placed_by
from deployments.engine.memory.warm import WarmTier, WeightPlaces
from deployments.engine.reading.reader import Home, WeightReader
from deployments.engine.reading.unread import reading_later
from serve_app.domain.endpoint import Recipe, StoreConfig, Weights
from weights.derived import FOLDER, DerivedFiles

DEMO = Path(__file__).parents[1] / "deployments" / "demo" / "flux"
BLOCK_GB = 0.85  # two blocks of the real width, one of each kind, about


class Discrete(Cpu):
    """Memory that stands for a device's: ``size`` bytes, allocated once and given out in turn, so
    that no page of it is new. What is allocated is valid until as many bytes were allocated again.
    """

    capabilities = Capabilities(discrete=True, channels_last=False, collectives="gloo")

    def __init__(self, size: int) -> None:
        super().__init__()
        self._memory = torch.zeros(size + size // 8, dtype=torch.uint8)
        self._next = 0

    def allocate(self, like: torch.Tensor) -> torch.Tensor:
        size = like.numel() * like.element_size()
        if self._next + size > len(self._memory):
            self._next = 0
        there = self._memory[self._next : self._next + size]
        self._next += -(-size // 512) * 512
        return there.view(like.dtype).view(like.shape)


def write(folder: Path, gb: float) -> None:
    """The demo Flux, with a transformer of the real one's width and random weights; as it is if
    ``gb`` is 0."""
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    if not gb:
        return
    shutil.rmtree(folder / "transformer")
    blocks = max(1, round(gb / BLOCK_GB))
    with torch.device("meta"):  # what it begins with is replaced
        model: Any = FluxTransformer2DModel(  # its other values are those of FLUX.1
            num_layers=blocks, num_single_layers=blocks
        )
    model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.view(torch.int16).random_(-30_000, 30_000)
    model.save_pretrained(folder / "transformer", max_shard_size="1GB")


def drop(files: list[Path]) -> None:
    """Drop the files from the page cache."""
    for file in files:
        opened = os.open(file, os.O_RDONLY)
        os.fsync(opened)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def fill(files: list[Path]) -> None:
    """Bring the files into the page cache."""
    for file in files:
        with file.open("rb") as opened:
            while opened.read(2**24):
                pass


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of ``work``, and of the CPU."""
    cpu, began = time.process_time(), time.perf_counter()
    kept = work()
    took = time.perf_counter() - began, time.process_time() - cpu
    del kept
    return took


def dd(files: list[Path], *flags: str) -> None:
    for file in files:
        command = ["dd", f"if={file}", "of=/dev/null", "bs=16M", *flags]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603


class Loads:
    """The ways to load the pipeline of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted((folder / "transformer").glob("*.safetensors"))
        self.bytes = sum(file.stat().st_size for file in self.files)
        self._device = Discrete(self.bytes)
        self._reader = WeightReader(self._device)
        self._host = WeightReader(Cpu())
        self._read_to(self._reader, Home.DEVICE)  # its memory is not new from now on

    def to_device(self) -> object:
        return self._read_to(self._reader, Home.DEVICE)

    def to_host(self) -> object:
        return self._read_to(self._host, Home.HOST)

    def usual(self) -> object:
        """As before: into host memory, where the mapped files are copied."""
        model: ModelMixin = FluxTransformer2DModel.from_pretrained(
            self.folder / "transformer", dtype=torch.bfloat16, use_safetensors=True
        )
        return [parameter.data.clone() for parameter in model.parameters()]

    def _read_to(self, reader: WeightReader, home: Home) -> object:
        with reading_later():
            pipeline = load_pipeline(Weights(str(self.folder)), dtype="bfloat16")
        reader.read([(pipeline.transformer, home)])
        return pipeline


def show(title: str, rows: dict[str, list[tuple[float, float]]], size: int, base: str) -> None:
    print(f"\n{title}")
    best = statistics.median(wall for wall, _ in rows[base])
    for name, took in rows.items():
        wall = statistics.median(wall_s for wall_s, _ in took)
        cpu = statistics.median(cpu_s for _, cpu_s in took)
        rate = size / wall / 1e9
        print(f"  {name:44} {rate:6.2f} GB/s  {best / wall:5.2f}  {cpu:5.2f} s of CPU")


def from_disk(loads: Loads, rounds: int) -> None:
    direct = "dd, O_DIRECT"
    ways: dict[str, Callable[[], object]] = {
        direct: lambda: dd(loads.files, "iflag=direct"),
        "Darkroom, to a device's memory": loads.to_device,
        "Darkroom, as on a CPU": loads.to_host,
        "from_pretrained, copied": loads.usual,
    }
    cold = {name: list[tuple[float, float]]() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            drop(loads.files)
            cold[name].append(seconds(way))
    show("Cold: ratio to dd", cold, loads.bytes, direct)
    through = "dd, from the page cache"
    ways = {through: lambda: dd(loads.files)} | {k: v for k, v in ways.items() if k != direct}
    cached = {name: list[tuple[float, float]]() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            fill(loads.files)
            cached[name].append(seconds(way))
    show("In the page cache: ratio to dd", cached, loads.bytes, through)


def from_host_memory(loads: Loads, rounds: int) -> None:
    pipeline: DiffusionPipeline = load_pipeline(Weights(str(loads.folder)), dtype="bfloat16")
    device = Discrete(2 * loads.bytes)
    placement = placed_by(None, pipeline)
    tier = WarmTier(device, 0.8)
    places = WeightPlaces(placement.resident)
    size = placement.device_bytes
    if not tier.keep("it", pipeline, placement, places, size):
        print("\nWarm: this machine has too little free memory for it.")
        return
    warm = tier.take("it")
    assert warm is not None
    sources = [slab.host for slab in warm.slabs]
    targets = [torch.zeros_like(tensor) for tensor in sources]

    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)

    plain = "copy in memory"
    rows = {name: list[tuple[float, float]]() for name in (plain, "Darkroom, host to device")}
    warm.apply(device)
    for _ in range(3 * rounds):
        for (_, took), way in zip(rows.items(), (copy, lambda: warm.apply(device)), strict=True):
            took.append(seconds(way))
    show("Warm: ratio to a copy", rows, warm.host_bytes, plain)


def in_eight_bits(loads: Loads, folder: Path) -> None:
    """The first load computes 8 bits and keeps them, later ones read them."""
    # The GPU machine lacks packages with which a store downloads.
    from weights.store import Store  # noqa: PLC0415

    store = Store(StoreConfig(folder)).derived_files()
    rows: dict[str, list[tuple[float, float]]] = {}
    read: list[int] = []
    for name in ("8 bits, computed and kept", "8 bits, read"):
        drop([*loads.files, *(folder / FOLDER).glob("*")])
        rows[name] = [seconds(lambda: read.append(_quantized(loads, store)))]
    print(f"\nEight bits: {read[-1] / loads.bytes:.2f} of the bytes are read")
    for name, ((wall, cpu),) in rows.items():
        print(f"  {name:44} {wall:6.1f} s  {cpu:6.1f} s of CPU")


def _quantized(loads: Loads, store: DerivedFiles) -> int:
    """Load the transformer in 8 bits, and return the bytes that were left to be read."""
    with reading_later():
        pipeline = load_pipeline(Weights(str(loads.folder)), dtype="bfloat16")
        placed_by(Recipe(0, "int8-weights"), pipeline, store)
    return WeightReader(Discrete(loads.bytes)).read([(pipeline.transformer, Home.DEVICE)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0, help="size of the weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write them; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write(Path(name), arguments.gb)
        loads = Loads(Path(name))
        print(f"{loads.bytes / 1e9:.2f} GB in {len(loads.files)} files, {arguments.rounds} rounds")
        from_disk(loads, arguments.rounds)
        from_host_memory(loads, arguments.rounds)
        in_eight_bits(loads, Path(name) / "store")


if __name__ == "__main__":
    main()
