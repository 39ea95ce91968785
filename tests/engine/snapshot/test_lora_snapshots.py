"""Snapshots of generations that have LoRAs."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora
from serve_app.domain.errors import SnapshotRefused
from tests.engine.calls import call
from tests.engine.loras import save_lora
from tests.engine.snapshot.test_format import run_with_snapshots
from tests.engine.tiny import tiny_flux

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
]
STEPS = 4


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder, pipeline = tmp_path_factory.mktemp("loras"), tiny_flux()
    return [Lora(save_lora(folder, pipeline, seed), 0.7) for seed in (1, 2)]


def wish(seed=5):
    return call(seed=seed, steps=STEPS)


def test_a_generation_with_loras_goes_on_elsewhere_bit_for_bit(loras):
    with Engine(tiny_flux(), threads=1) as engine:
        whole, states = run_with_snapshots(engine, (2,), wish(), loras=loras)
        plain = engine.submit(**wish()).result(60)
    with Engine(tiny_flux(), threads=1) as other:
        resumed = other.submit(snapshot=states[2], loras=loras, **wish()).result(60)
    assert torch.equal(resumed.images, whole.images)
    assert not torch.equal(plain.images, whole.images)


@pytest.mark.parametrize("change", ["none", "scale", "another", "more"])
def test_a_snapshot_is_refused_with_other_loras(loras, change):
    first, second = loras
    others = {
        "none": [],
        "scale": [Lora(first.file, 0.8)],
        "another": [second],
        "more": [first, second],
    }[change]
    with Engine(tiny_flux(), threads=1) as engine:
        _, states = run_with_snapshots(engine, (2,), wish(), loras=[first])
        resumed = engine.submit(snapshot=states[2], loras=others, **wish())
        with pytest.raises(SnapshotRefused, match="other LoRAs or scales"):
            resumed.result(60)
