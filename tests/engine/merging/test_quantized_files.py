"""Weights in 8 bits that are read from a file: the bits of computing them, from half the bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.quantized import QUANTIZATIONS, QuantizedLinear
from deployments.engine.reading.unread import reading_later
from serve_app.domain.endpoint import Recipe, Weights
from tests.engine.calls import call
from tests.engine.tiny import save_tiny_flux
from tests.fakes.accelerator import FakeAccelerator
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

DEVICES = pytest.mark.parametrize("make", [Cpu, FakeAccelerator])


class Files:
    """Files in a folder, without a limit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []
        self.written: list[str] = []

    def find(self, name: str) -> Path | None:
        path = self.folder / name
        if path.is_file():
            self.found.append(name)
            return path
        return None

    def write(self, name: str, size: int, write: Callable[[Path], None]) -> bool:
        assert size > 0
        write(self.folder / name)
        self.written.append(name)
        return True

    def discard(self, name: str) -> None:
        (self.folder / name).unlink()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_tiny_flux(tmp_path / "flux")
    return tmp_path / "flux"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


def load_values(
    folder: Path,
    precision: str,
    files: Files | None,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> dict[str, torch.Tensor]:
    """Buffers and parameters of the denoiser after a load."""
    with reading_later():
        pipeline = load_pipeline(Weights(str(folder)), dtype=dtype)
        placement = placed_by(Recipe(24, precision), pipeline, files)
    placement.apply(accelerator)
    assert any(isinstance(module, QuantizedLinear) for module in pipeline.transformer.modules())
    return values_of(pipeline.transformer)


def values_of(denoiser: Any) -> dict[str, torch.Tensor]:
    named = (*denoiser.named_buffers(), *denoiser.named_parameters())
    return {name: tensor.detach().cpu().clone() for name, tensor in named}


def assert_same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, tensor in some.items():
        assert (tensor.dtype, tensor.shape) == (others[name].dtype, others[name].shape), name
        assert torch.equal(tensor.view(torch.uint8), others[name].view(torch.uint8)), name


@pytest.mark.variants(1)
@DEVICES
@pytest.mark.parametrize("precision", QUANTIZATIONS)
@pytest.mark.parametrize("dtype", sample_params(["float32", "bfloat16"], "bfloat16"))
def test_what_is_read_is_what_would_be_computed_bit_for_bit(
    weights: Path, files: Files, make: Any, precision: str, dtype: str
) -> None:
    plain = load_pipeline(Weights(str(weights)), dtype=dtype)  # read before it is quantized
    placed_by(Recipe(24, precision), plain)
    computed = values_of(plain.transformer)
    first = load_values(weights, precision, files, make(), dtype)
    assert (len(files.written), files.found) == (1, [])
    second = load_values(weights, precision, files, make(), dtype)
    assert (len(files.written), files.found) == (1, files.written)
    assert_same(first, computed)
    assert_same(second, computed)


def test_precisions_that_round_weights_alike_share_a_file(weights: Path, files: Files) -> None:
    for precision in QUANTIZATIONS:
        load_values(weights, precision, files, Cpu())
    assert len(files.written) == 2  # int8 and float8


@pytest.mark.long
def test_other_weights_or_types_have_a_file_of_their_own(
    weights: Path, files: Files, tmp_path: Path
) -> None:
    shutil.copytree(weights, tmp_path / "copy")
    for folder, dtype in (
        (weights, "float32"),
        (weights, "bfloat16"),
        (tmp_path / "copy", "float32"),
    ):
        load_values(folder, "int8-weights", files, Cpu(), dtype)
    assert len(set(files.written)) == 3


def test_a_registered_file_has_its_own_whatever_its_modification_time(
    weights: Path, files: Files, tmp_path: Path
) -> None:
    (link,) = (weights / "transformer").glob("*.safetensors")
    folder = tmp_path / ".darkroom-registered" / "files"
    folder.mkdir(parents=True)
    registered = link.rename(folder / f"{'a' * 64}.safetensors")
    link.symlink_to(registered)
    load_values(weights, "int8-weights", files, Cpu())
    os.utime(registered, (1, 1))
    load_values(weights, "int8-weights", files, Cpu())
    assert len(files.written) == 1
    assert files.found == files.written


@pytest.mark.long
@pytest.mark.parametrize("damage", ["cut off", "no header", "of other layers", "empty"])
def test_a_damaged_file_is_computed_again(weights: Path, files: Files, damage: str) -> None:
    first = load_values(weights, "int8-weights", files, Cpu())
    load_values(weights, "float8-dynamic", files, Cpu())
    name, other = files.written
    path = files.folder / name
    content = path.read_bytes()
    path.unlink()  # its memory may be mapped
    path.write_bytes(
        {
            "cut off": content[:-100],
            "no header": b"x" * len(content),
            "of other layers": (files.folder / other).read_bytes(),
            "empty": b"",
        }[damage]
    )
    again = load_values(weights, "int8-weights", files, Cpu())
    assert_same(again, first)
    assert files.written == [name, other, name]
    assert path.read_bytes() == content


def test_a_byte_is_read_for_each_weight_in_place_of_two(weights: Path, files: Files) -> None:
    load_values(weights, "int8-weights", files, FakeAccelerator(), "bfloat16")
    with reading_later():
        pipeline = load_pipeline(Weights(str(weights)), dtype="bfloat16")
        unread = sum(weight.nbytes for weight in _unread(pipeline))
        placed_by(Recipe(24, "int8-weights"), pipeline, files)
        left = sum(weight.nbytes for weight in _unread(pipeline))
        small = [
            module
            for module in pipeline.transformer.modules()
            if isinstance(module, QuantizedLinear)
        ]
    saved = sum(layer.weight.numel() - 4 * len(layer.scale) for layer in small)
    assert unread - left == saved  # all but the scales


def _unread(pipeline: Any) -> list[torch.Tensor]:
    return [*pipeline.transformer.parameters(), *pipeline.transformer.buffers()]


@pytest.mark.long
def test_a_replica_computes_them_once_and_images_stay_the_same(weights: Path, files: Files) -> None:
    images: list[torch.Tensor] = []
    plan = LoadPlan(lambda *_: load_pipeline(Weights(str(weights))), Recipe(24, "int8-dynamic"))
    for kept in (None, files, files):
        with Engine(device="cpu", threads=1) as engine:
            residency = Residency(engine, quantized=kept)
            try:
                residency.acquire("it", plan).future.result(60)
                arguments: Any = call()
                images.append(engine.submit(pipeline="it", **arguments).result(60).images)
            finally:
                residency.close()
    assert (len(files.written), len(files.found)) == (1, 1)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
