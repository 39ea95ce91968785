"""Page-locked weights: exact, counted, and freed in time."""

import copy
import gc
from pathlib import Path

import pytest
import torch

from deployments.engine.accelerator import pinned
from deployments.engine.accelerator.pinned import pin
from deployments.engine.memory.placement import bytes_of, placed_by
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import WeightsUnavailable
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine


def test_a_component_takes_no_more_pinned_memory_than_its_weights_have():
    accelerator, module = FakeAccelerator(), tiny_flux().transformer
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    pin([module], accelerator)
    count = len([*module.parameters(), *module.buffers()])
    assert bytes_of([module]) <= accelerator.pinned_bytes < bytes_of([module]) + 256 * count
    assert len(accelerator.pinned) == 1
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype is before[name].dtype
        assert tensor.stride() == before[name].stride()


def test_the_memory_is_unlocked_while_it_is_mapped_once_the_last_weight_is_gone():
    accelerator = FakeAccelerator()
    module = torch.nn.Linear(64, 64)
    pin([module], accelerator)
    (address,) = accelerator.pinned
    mapped_then = []
    unlock = accelerator.page_unlock

    def page_unlock(at, *, wait):
        assert wait  # a copy of it may be queued
        mapped_then.append(is_mapped(at))
        unlock(at, wait=wait)

    accelerator.page_unlock = page_unlock
    bias = module.bias.data
    del module
    gc.collect()
    assert accelerator.pinned_bytes
    assert is_mapped(address)
    del bias
    gc.collect()
    assert accelerator.pinned_bytes == 0
    assert mapped_then == [True]


def is_mapped(address):
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if begin <= address < end:
            return True
    return False


def test_tied_and_strided_weights_stay_so(monkeypatch):
    monkeypatch.setattr(pinned, "SLAB_BYTES", 1024)
    accelerator = FakeAccelerator()
    tied = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    strided = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    empty = torch.nn.Module()
    empty.register_buffer("nothing", torch.empty(0))
    plain = copy.deepcopy(tied)
    pin([tied, strided, empty], accelerator)
    assert tied[1].weight is tied[0].weight
    assert torch.equal(tied(torch.ones(8)), plain(torch.ones(8)))
    assert strided.weight.is_contiguous(memory_format=torch.channels_last)
    assert len(accelerator.pinned) > 1  # each slab holds as much as fits


def test_a_host_with_too_little_memory_is_named_before_anything_is_moved():
    accelerator, pipeline = FakeAccelerator(host_bytes=1000), tiny_flux()
    placement = placed_by(Recipe(24, "float32", "components"), pipeline)
    with pytest.raises(WeightsUnavailable, match=r"in page-locked host memory, and 0\.00 GB"):
        placement.apply(accelerator)
    assert not accelerator.operations
    assert not accelerator.most_pinned


def test_waiting_components_are_pinned_and_others_are_not():
    accelerator, pipeline = FakeAccelerator(), tiny_flux()
    recipe = Recipe(24, "float32", "components", ("transformer", "vae"))
    placement = placed_by(recipe, pipeline)
    placement.apply(accelerator)
    waiting = bytes_of([pipeline.text_encoder, pipeline.text_encoder_2])
    assert placement.host_bytes == waiting
    assert waiting <= accelerator.pinned_bytes < 1.1 * waiting
