"""Recordings of graphs that fail leave the device as it was: on the fake, and on a GPU."""

import threading

import pytest
import torch

from deployments.engine.accelerator.cuda import Cuda
from deployments.engine.accelerator.cuda_graphs import CudaGraphPool
from tests.fakes.recording_cuda import FakeCuda

pytestmark = pytest.mark.engine


class FakeDevice:
    def __init__(self):
        self._cuda = FakeCuda()
        self.recording = threading.RLock()
        self.draw = self._cuda.draw
        self.wait = self._cuda.synchronize

    def set_idle(self, pool, size):
        pass

    def pool(self):
        return CudaGraphPool(torch.device("cpu"), self, self._cuda, self._cuda)


class Gpu:
    def __init__(self):
        self._cuda = Cuda("cuda")
        self.pool = self._cuda.graph_pool
        self.wait = torch.cuda.synchronize

    def draw(self):
        torch.randn(1, device="cuda")


@pytest.fixture(params=["fake", "gpu"])
def device(request):
    if request.param == "gpu" and not torch.cuda.is_available():
        pytest.skip("There is no GPU.")
    return {"fake": FakeDevice, "gpu": Gpu}[request.param]()


def waits(device):
    """A recording that fails, because something waits for the device."""
    with pytest.raises(RuntimeError, match="captur"):
        device.pool().record(device.wait)


def test_random_numbers_can_be_drawn_after_a_recording_that_failed(device):
    waits(device)
    device.draw()


def test_graphs_of_other_pools_are_replayed_after_a_recording_that_failed(device):
    graph, _ = device.pool().record(lambda: None)
    waits(device)
    graph.replay()


def test_a_pool_records_again_after_code_of_a_recording_has_raised(device):
    def broken():
        raise ValueError("broken")

    pool = device.pool()
    with pytest.raises(ValueError, match="broken"):
        pool.record(broken)
    device.draw()
    graph, _ = pool.record(lambda: None)
    graph.replay()


@pytest.mark.parametrize("times", [1, 3])
def test_a_pool_whose_recording_failed_is_closed_for_the_allocator(device, times):
    pool = device.pool()
    for _ in range(times):
        with pytest.raises(RuntimeError, match="captur"):
            pool.record(device.wait)
    device.draw()
