"""The contract of a device: the CPU and the fake keep it, and a GPU where there is one."""

import gc
import itertools

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu, adapters_share, host_bytes
from deployments.engine.accelerator.cuda import Cuda
from deployments.engine.accelerator.pinned import PinnedBuffer
from deployments.engine.accelerator.selection import KINDS, accelerator_for, usual_device
from deployments.engine.merging.quantized import QUANTIZATIONS, QuantizedLinear
from serve_app.domain.errors import Misconfigured
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine

VALUES = torch.arange(24.0).view(2, 3, 4)


@pytest.fixture(params=["cpu", "fake", "cuda"])
def accelerator(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("There is no GPU.")
    return {"cpu": Cpu, "fake": FakeAccelerator, "cuda": lambda: Cuda("cuda")}[request.param]()


def pin_values(accelerator, values):
    copy = PinnedBuffer(values.numel() * values.element_size(), accelerator).view(0, values)
    return copy.copy_(values)


def upload_values(accelerator, values, stream):
    with stream.active():
        there = accelerator.allocate(values)
        accelerator.copy(pin_values(accelerator, values), there)
    stream.synchronize()
    accelerator.share(there)
    return there


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool])
def test_what_goes_to_the_device_comes_back_bit_for_bit(accelerator, dtype):
    values = VALUES.to(dtype)
    there = upload_values(accelerator, values, accelerator.stream("weights"))
    assert there.device.type == accelerator.kind
    copy = accelerator.to_host(there)
    copy.ready()
    assert copy.tensor.device.type == "cpu"
    assert torch.equal(copy.tensor.view(torch.uint8), values.view(torch.uint8))


def test_recorded_work_is_done_again_with_the_inputs_of_its_replay(accelerator):
    pool = accelerator.graph_pool()
    if pool is None:
        pytest.skip("It records nothing.")
    inputs = [VALUES.to(accelerator.device).clone() for _ in range(2)]
    pool_size = pool.size
    recorded = [pool.record(lambda source=source: (source * 2, source.sum())) for source in inputs]
    assert pool.size > pool_size
    for factor in (1.0, 3.0):
        for (graph, (doubled, total)), buffer in zip(recorded, inputs, strict=True):
            buffer.copy_(VALUES * factor)
            graph.replay()
            assert torch.equal(doubled.cpu(), VALUES * factor * 2)
            assert total.item() == VALUES.sum() * factor
    pool.drop(recorded[0][0])
    recorded[1][0].replay()
    assert torch.equal(recorded[1][1][0].cpu(), VALUES * 6)
    pool.release()


def test_after_a_recording_that_failed_the_device_computes_and_records(accelerator):
    if accelerator.graph_pool() is None:
        pytest.skip("It records nothing.")
    there = VALUES.to(accelerator.device)

    def reads():
        there.mul(2).sum().item()  # waits for the device
        raise ValueError("It is the fake, whose values are always there.")

    with pytest.raises((ValueError, RuntimeError)):
        accelerator.graph_pool().record(reads)
    assert not accelerator.has_failed()
    assert torch.equal((there * 2).cpu(), VALUES * 2)
    graph, tripled = accelerator.graph_pool().record(lambda: there * 3)
    graph.replay()
    assert torch.equal(tripled.cpu(), VALUES * 3)
    accelerator.memory.release()


def test_strides_stay(accelerator):
    values = torch.rand(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    there = upload_values(accelerator, values, accelerator.stream("weights"))
    copy = accelerator.to_host(there)
    copy.ready()
    assert there.stride() == copy.tensor.stride() == values.stride()
    assert torch.equal(copy.tensor, values)


def test_a_point_in_a_stream_is_passed_once_the_copies_before_it_are_done(accelerator):
    stream = accelerator.stream("weights")
    source = pin_values(accelerator, VALUES)
    with stream.active():
        there = accelerator.allocate(VALUES)
        accelerator.copy(source, there)
    stream.record().wait()
    source.zero_()  # the buffer is free
    stream.synchronize()
    copy = accelerator.to_host(there)
    copy.ready()
    assert torch.equal(copy.tensor, VALUES)


def test_what_is_on_the_host_is_not_copied(accelerator):
    copy = accelerator.to_host(upload_values(accelerator, VALUES, accelerator.stream("weights")))
    copy.ready()
    again = accelerator.to_host(copy.tensor)
    again.ready()
    assert again.tensor is copy.tensor


def test_a_stream_is_the_same_for_the_same_name(accelerator):
    before = accelerator.stream("weights")
    assert type(accelerator.stream("weights")) is type(before)
    if accelerator.capabilities.discrete:
        assert accelerator.stream("weights") is before
        assert accelerator.stream("loras") is not before


def test_page_locked_memory_is_counted_until_it_is_freed(accelerator):
    before = accelerator.lockable_bytes()
    buffer = PinnedBuffer(4096, accelerator)
    if before is not None:
        assert accelerator.lockable_bytes() == before - 4096
    del buffer
    gc.collect()
    assert accelerator.lockable_bytes() == before


def test_page_locked_memory_is_known_by_its_address(accelerator):
    buffer = PinnedBuffer(4096, accelerator)
    address = buffer.bytes(0, 1).data_ptr()
    assert accelerator.is_page_locked(address) is accelerator.capabilities.discrete
    del buffer
    gc.collect()
    assert not accelerator.is_page_locked(address)


def test_values_are_cast_on_the_device_as_on_the_host(accelerator):
    stream = accelerator.stream("weights")
    there = upload_values(accelerator, VALUES, stream)
    with stream.active():
        cast = accelerator.allocate(torch.empty_like(VALUES, dtype=torch.bfloat16, device="meta"))
        accelerator.copy(there, cast)
    stream.synchronize()
    accelerator.share(cast)
    copy = accelerator.to_host(cast)
    copy.ready()
    assert torch.equal(copy.tensor, VALUES.to(torch.bfloat16))


def test_seconds_between_two_timestamps_are_known_once_they_are_passed(accelerator):
    mark = accelerator.timestamps(itertools.count().__next__)
    first, second = mark(), mark()
    accelerator.to_host(torch.zeros(1, device=accelerator.device)).ready()
    if accelerator.kind == "cuda":
        torch.cuda.synchronize()
    assert first.has_passed()
    assert second.has_passed()
    assert first.seconds_to(second) >= 0


def test_its_generators_repeat_what_they_drew(accelerator):
    generators = accelerator.generators()
    states = [rng.get_state() for rng in generators]
    drawn = torch.rand(3, device=accelerator.device)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    assert torch.equal(torch.rand(3, device=accelerator.device), drawn)


def test_it_knows_what_it_computes_in_and_how_many_weights_it_keeps(accelerator):
    assert isinstance(getattr(torch, accelerator.dtype("bfloat16")), torch.dtype)
    assert accelerator.weights_budget() > 10**8
    assert accelerator.kind in KINDS
    assert accelerator.device.startswith(accelerator.kind)


def test_the_fake_shows_a_copy_that_was_not_waited_for():
    accelerator = FakeAccelerator()
    stream = accelerator.stream("weights")
    source = pin_values(accelerator, VALUES)
    with stream.active():
        there = accelerator.allocate(VALUES)
        accelerator.copy(source, there)
    assert not torch.equal(there, VALUES)
    copy = accelerator.to_host(VALUES)
    assert not torch.equal(copy.tensor, VALUES)
    stream.synchronize()
    copy.ready()
    assert torch.equal(there, VALUES)
    assert torch.equal(copy.tensor, VALUES)
    assert accelerator.operations == [
        ("weights", "allocate"),
        ("weights", "copy"),
        ("compute", "copy to host"),
        ("compute", "record"),
        ("weights", "synchronize"),
        ("compute", "wait"),
    ]


def test_the_fake_refuses_the_allocation_that_a_test_chooses():
    accelerator = FakeAccelerator()
    accelerator.refuse(2)
    accelerator.allocate(VALUES)
    with pytest.raises(torch.OutOfMemoryError):
        accelerator.allocate(VALUES)
    accelerator.allocate(VALUES)


def test_a_device_of_another_kind_is_refused_with_those_that_there_are():
    with pytest.raises(Misconfigured, match=r"the device 'tpu'\. Use one of cpu, cuda"):
        accelerator_for("tpu")
    assert accelerator_for("cuda:1").device == "cuda:1"
    assert isinstance(accelerator_for(usual_device()), Cpu | Cuda)


def test_a_container_has_no_more_memory_than_its_limit(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("deployments.engine.accelerator.cpu.CONTAINER_LIMIT", limit)
    whole = host_bytes()
    limit.write_text("max\n")
    assert host_bytes() == whole
    limit.write_text("1000000\n")
    assert host_bytes() == 1000000


@pytest.mark.parametrize("precision", ["int8-dynamic", "float8-dynamic"])
def test_what_it_says_it_multiplies_in_eight_bits_it_multiplies(accelerator, precision):
    quantization = QUANTIZATIONS[precision]
    if not accelerator.multiplies(quantization.multiplies):
        pytest.skip("This GPU does not.")
    layer = torch.nn.Linear(64, 48).requires_grad_(requires_grad=False)
    rows = torch.randn(40, 64)
    expected = layer(rows)
    quantized = QuantizedLinear(layer, quantization).to(accelerator.device)
    for count in (1, 16, 40):
        product = quantized(rows[:count].to(accelerator.device)).cpu()
        # Of float8, 3.5 % in the mean: a mantissa of 3 bits, of weights and rows. One row strays.
        assert (product - expected[:count]).norm() <= 0.08 * expected[:count].norm()


def test_small_values_are_on_the_device_for_the_work_after_them(accelerator):
    there = accelerator.to_device(VALUES)
    assert there.device.type == accelerator.kind
    copy = accelerator.to_host(there + 1)
    copy.ready()
    assert torch.equal(copy.tensor, VALUES + 1)


def test_adapters_have_a_share_of_the_memory_that_holds_a_few_on_any_device(accelerator):
    assert accelerator.adapters_budget() >= 2**30
    total = accelerator.memory.total() or host_bytes()
    assert accelerator.adapters_budget() <= max(2**30, total // 10)


def test_the_share_of_adapters_grows_with_the_memory():
    assert adapters_share(8 * 10**9) == 2**30
    assert adapters_share(80 * 10**9) == 4 * 10**9


def test_a_device_says_which_product_it_is_and_by_which_driver(accelerator):
    assert accelerator.model_name()
    assert accelerator.driver() == "" or accelerator.driver()[0].isdigit()


def test_memory_that_is_held_is_counted(accelerator):
    before = accelerator.memory.held_bytes()
    there = accelerator.allocate(torch.empty(2**22))
    there.fill_(1.0)
    assert accelerator.memory.held_bytes() >= before > -1
