"""The contract of a device's memory: the fake keeps it, and a GPU where there is one."""

import pytest
import torch

from deployments.engine.accelerator.cpu import UnlimitedMemory
from deployments.engine.accelerator.cuda import CudaMemory
from deployments.engine.accelerator.selection import accelerator_for
from tests.fakes.small_device import SmallDevice

pytestmark = pytest.mark.engine
MB = 2**20


class Gpu(CudaMemory):
    def __init__(self):
        super().__init__(torch.device("cuda"))
        self._other = torch.cuda.Stream()

    def allocate(self, size, stream=""):
        with torch.cuda.stream(self._other if stream else None):
            return torch.empty(size, dtype=torch.uint8, device="cuda")


@pytest.fixture(params=["fake", "gpu"])
def memory(request):
    if request.param == "fake":
        return SmallDevice(1000 * MB)
    if not torch.cuda.is_available():
        pytest.skip("There is no GPU.")
    return Gpu()


def test_what_is_allocated_is_not_free_and_then_is_again(memory):
    before = memory.free()
    block = memory.allocate(64 * MB)
    assert memory.free() == before - 64 * MB
    del block
    assert memory.free() == before
    assert 0 < before <= memory.total()


def test_what_another_stream_has_freed_is_free_and_given_back_by_a_release(memory):
    memory.release()
    before, held_bytes = memory.free(), memory.held_bytes()
    block = memory.allocate(64 * MB, "weights")
    del block
    assert memory.free() == before
    assert memory.held_bytes() == held_bytes + 64 * MB
    memory.release()
    assert memory.held_bytes() <= held_bytes


def test_a_measurement_reports_the_peak_and_what_is_left_of_it(memory):
    already = memory.allocate(20 * MB)
    with memory.measure() as taken:
        kept = memory.allocate(20 * MB)
        memory.allocate(40 * MB)
    assert (taken.peak, taken.growth) == (60 * MB, 20 * MB)
    with memory.measure() as taken:
        del kept
    assert (taken.peak, taken.growth) == (0, -20 * MB)
    del already


def test_a_measurement_ends_with_an_error_and_the_next_is_right(memory):
    with pytest.raises(torch.OutOfMemoryError), memory.measure():
        memory.allocate(2 * memory.total())
    with memory.measure() as taken:
        memory.allocate(20 * MB)
    assert taken.peak == 20 * MB


def test_more_than_there_is_runs_out_of_memory(memory):
    with pytest.raises(torch.OutOfMemoryError):
        memory.allocate(2 * memory.total())
    memory.release()


def test_host_memory_is_not_counted_and_limits_nothing():
    memory = accelerator_for("cpu").memory
    assert isinstance(memory, UnlimitedMemory)
    assert memory.free() is None
    assert memory.total() is None
    with memory.measure() as taken:
        torch.empty(100)
    assert taken.peak == 0
