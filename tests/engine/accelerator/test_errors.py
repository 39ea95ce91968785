"""Errors of devices: out of memory by any name, and a device that fails ends its replica."""

import pytest
import torch

from deployments.engine.accelerator.errors import concerns_device, is_out_of_memory
from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from serve_app.domain.errors import OutOfMemory, ReplicaDied
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine

LOST = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"
CONFIGURATION = "CUDA error: invalid configuration argument"
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.AcceleratorError("HIP error: out of memory"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
LOSSES = [
    torch.AcceleratorError(LOST),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


class Failing(Denoiser):
    """Fails once, in the call with this number, and before the generation has done it all."""

    def __init__(self, error, at=2, accelerator=None):
        super().__init__()
        self.error, self.at, self.accelerator = error, at, accelerator
        self.calls = 0

    def compute(self, latents, timestep):
        self.calls += 1
        if self.calls == self.at:
            if self.accelerator is not None:
                self.accelerator.failed = True
            raise self.error
        if self.accelerator is not None and self.accelerator.failed:
            raise torch.AcceleratorError(LOST)
        return super().compute(latents, timestep)


def start(number):
    return torch.full((1, 2), float(number))


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_out_of_memory_by_any_name_is_relieved_and_the_call_repeated(error):
    assert is_out_of_memory(error)
    assert not concerns_device(error)
    dropped = []
    with Engine(Loop(Failing(error)), threads=1) as engine:
        engine.add_reclaimer(lambda: dropped.append(True))
        result = engine.submit(start=start(1), steps=3).result(60)
    assert torch.equal(result, Loop(Denoiser())(start=start(1), steps=3))
    assert dropped


def test_a_merged_forward_that_is_short_of_memory_by_another_name_is_halved():
    class Small(Denoiser):
        def compute(self, latents, timestep):
            if len(latents) > 2:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …")
            return super().compute(latents, timestep)

    with merging_engine(Loop(Small()), max_batch=4, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(start=start(seed), steps=2) for seed in range(4)]
        gate.open()
        for generation in running:
            generation.result(60)
        counts = engine.counts()
    assert max(counts["batch_sizes"]) == 2


def test_it_is_told_as_out_of_memory_when_nothing_helps():
    class Full(Denoiser):
        def compute(self, latents, timestep):
            raise torch.AcceleratorError("CUDA error: out of memory")

    with Engine(Loop(Full()), threads=1) as engine:
        with pytest.raises(OutOfMemory, match="does not fit in memory: CUDA error"):
            engine.submit(start=start(1), steps=2).result(60)


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: str(error)[:40])
def test_a_device_that_fails_fails_all_generations_as_their_replicas_death(error):
    assert concerns_device(error)
    accelerator = FakeAccelerator()
    denoiser = Failing(error, 5, accelerator)
    with Engine(Loop(denoiser), accelerator, max_batch=1, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(start=start(seed), steps=8) for seed in range(3)]
        gate.open()
        for generation in running:
            with pytest.raises(ReplicaDied, match="The device failed, and everything") as told:
                generation.result(60)
            assert told.value.retryable
            assert str(error).partition("\n")[0] in str(told.value) or "illegal" in str(told.value)
        engine._thread.join(60)
        assert not engine.alive
        with pytest.raises(ReplicaDied):
            engine.submit(start=start(1), steps=2)


def test_so_does_one_whose_failure_the_pipeline_notices_and_wraps():
    accelerator = FakeAccelerator()

    def pipeline():
        accelerator.failed = True
        try:
            raise torch.AcceleratorError(LOST)
        except RuntimeError as error:
            raise ValueError("The latents could not be scaled.") from error

    with Engine(device=accelerator, threads=1) as engine:
        engine.add("it", pipeline)
        with pytest.raises(ReplicaDied, match="The device failed"):
            engine.submit(pipeline="it").result(60)


def test_an_error_that_leaves_the_device_working_is_its_own_generations():
    accelerator = FakeAccelerator()
    denoiser = Failing(torch.AcceleratorError(CONFIGURATION), 5)
    with Engine(Loop(denoiser), accelerator, max_batch=1, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(start=start(seed), steps=4) for seed in range(3)]
        gate.open()
        errors = [generation._future.exception(60) for generation in running]
        assert engine.alive
    assert [type(error) for error in errors if error is not None] == [torch.AcceleratorError]


def test_a_device_that_fails_while_weights_are_loaded_ends_the_engine():
    accelerator = FakeAccelerator()

    def load(*_):
        accelerator.failed = True
        raise torch.AcceleratorError(LOST)

    with Engine(Loop(Denoiser()), accelerator, threads=1) as engine:
        residency = Residency(engine)
        handle = residency.acquire("it", LoadPlan(load))
        with pytest.raises(ReplicaDied, match="illegal memory access"):
            handle.future.result(60)
        engine._thread.join(60)
        assert not engine.alive
        residency.close()
