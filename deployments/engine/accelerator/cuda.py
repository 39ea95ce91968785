"""NVIDIA's GPUs, by ``torch.cuda``.

Memory accounts are torch's own statistics; reading them does not wait for the device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deployments.engine.accelerator.cpu import adapters_share, host_bytes
from deployments.engine.accelerator.cuda_graphs import CudaGraphPool
from deployments.engine.accelerator.diagnosis import driver_version
from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import Capabilities, HostCopy, MemoryUse, TimeStamp

RESERVE = 256 * 2**20  # bytes that are never planned with: workspaces of libraries
_WEIGHTS_SHARE = 0.85  # of the GPU's memory; the rest is for computing
_LOCKED_SHARE = 0.8  # of the host's memory; the rest is for other programs and the page cache
_MULTIPLIES = {torch.int8: (8, 0), torch.float8_e4m3fn: (8, 9)}  # from compute capability
_NEVER = (99, 0)
_HOST_REGISTER_PORTABLE = 1  # CUDA's flag: page-locked for all contexts


class CudaMemory:
    """Memory of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Reentrant: a finalizer that waits for the device may run in the middle of a recording.
        self.recording = threading.RLock()
        self._idle: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    def set_idle(self, pool: object, size: int) -> None:
        """See ``CountsPools``."""
        self._idle[pool] = size

    def free(self) -> int | None:
        unused, _ = torch.cuda.mem_get_info(self._device)
        kept = self._account("reserved_bytes", "current") - self._now()
        kept -= sum(self._idle.values())  # only graphs can use it
        return max(0, unused + kept - RESERVE)

    def total(self) -> int | None:
        return torch.cuda.mem_get_info(self._device)[1]

    def held_bytes(self) -> int:
        return self._account("reserved_bytes", "current")

    @contextmanager
    def measure(self) -> Generator[MemoryUse]:
        taken = MemoryUse()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = self._now()
        try:
            yield taken
        finally:
            taken.growth = self._now() - before
            taken.peak = self._account("allocated_bytes", "peak") - before

    def release(self) -> None:
        with self.recording:
            torch.cuda.empty_cache()

    def _now(self) -> int:
        return self._account("allocated_bytes", "current")

    def _account(self, what: str, which: str) -> int:
        # Unlike `memory_allocated()` and similar, this builds no flat dictionary of all values.
        accounts = torch.cuda.memory_stats_as_nested_dict(self._device)
        return accounts[what]["all"][which] if accounts else 0


class CudaEvent:
    """Point in a stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(blocking=True)  # else a waiting thread takes a core
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()


class CudaStream:
    """Stream of torch. It does not wait for the compute stream, nor the compute stream for it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def active(self) -> Generator[None]:
        with torch.cuda.stream(self._stream):
            yield

    def record(self) -> CudaEvent:
        return CudaEvent(self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


class StreamTimeStamp:
    """Timestamp in the calling thread's stream: the time at which all earlier work is done."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def has_passed(self) -> bool:
        return self._event.query()

    def seconds_to(self, later: StreamTimeStamp, /) -> float:
        return self._event.elapsed_time(later._event) / 1e3


def _runtime() -> Any:
    """CUDA's runtime library."""
    return torch.cuda.cudart()


class Cuda:
    """A GPU. The compute stream is torch's default stream."""

    kind = "cuda"
    # FLUX.1's decoder takes 1.5 times as long with channels last (H200). gloo is for control
    # messages, NCCL for what is computed.
    capabilities = Capabilities(
        discrete=True, channels_last=False, collectives="cpu:gloo,cuda:nccl"
    )

    def __init__(self, device: str) -> None:
        self.device = device
        self._device = torch.device(device)
        self.memory = CudaMemory(self._device)
        # The allocator keeps freed blocks by stream, so a stream for each load would keep too many.
        self._streams: dict[str, CudaStream] = {}
        self._locked: dict[int, int] = {}  # bytes of page-locked memory, by address
        self._lock = threading.Lock()  # protects the two

    def model_name(self) -> str:
        return torch.cuda.get_device_name(self._device)

    def driver(self) -> str:
        return driver_version()

    def stream(self, name: str) -> CudaStream:
        with self._lock:
            if name not in self._streams:
                self._streams[name] = CudaStream(self._device)
            return self._streams[name]

    def allocate(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device=self._device)

    def copy(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def share(self, tensor: Tensor) -> None:
        tensor.record_stream(torch.cuda.default_stream(self._device))

    def to_device(self, tensor: Tensor) -> Tensor:
        # torch gives the page-locked block to nobody else before the copy is done.
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def to_host(self, tensor: Tensor) -> HostCopy:
        if not tensor.is_cuda:
            return HostCopy(tensor, lambda: None)
        copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        return HostCopy(copy, CudaEvent(torch.cuda.current_stream(tensor.device)).wait)

    def lockable_bytes(self) -> int | None:
        with self._lock:
            return int(host_bytes() * _LOCKED_SHARE) - sum(self._locked.values())

    def page_lock(self, address: int, size: int) -> None:
        status = _runtime().cudaHostRegister(address, size, _HOST_REGISTER_PORTABLE)
        if int(status):
            raise MemoryError(
                f"CUDA could not page-lock {size / 1e9:.2f} GB of host memory "
                f"(cudaHostRegister returned {int(status)})."
            )
        with self._lock:
            self._locked[address] = size

    def is_page_locked(self, address: int) -> bool:
        with self._lock:
            return address in self._locked

    def page_unlock(self, address: int, *, wait: bool) -> None:
        if wait:
            # A device that has failed reads nothing.
            with self.memory.recording, contextlib.suppress(RuntimeError):
                torch.cuda.synchronize(self._device)
        # The status is ignored: the process may be ending, and nothing could be done about it.
        _runtime().cudaHostUnregister(address)
        with self._lock:
            self._locked.pop(address, None)

    def graph_pool(self) -> CudaGraphPool | None:
        return CudaGraphPool(self._device, self.memory)

    def has_failed(self) -> bool:
        try:
            with self.memory.recording:
                torch.cuda.synchronize(self._device)
                # Fails after a recording whose end has left the generator in it.
                torch.rand(1, device=self._device)
        except RuntimeError as error:  # such as `torch.AcceleratorError`
            return not is_out_of_memory(error)
        return False

    def timestamps(self, monotonic: Callable[[], float]) -> Callable[[], TimeStamp]:
        del monotonic
        return partial(StreamTimeStamp, self._device)

    def generators(self) -> list[torch.Generator]:
        number = self.device.partition(":")[2] or torch.cuda.current_device()
        of_gpu = torch.cuda.default_generators[int(number)]
        return [torch.default_generator, of_gpu]

    def weights_budget(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[1] * _WEIGHTS_SHARE)

    def multiplies(self, dtype: torch.dtype) -> bool:
        if torch.version.hip is not None:
            return False  # AMD's GPUs have other 8-bit floats, and nothing was measured there
        return torch.cuda.get_device_capability(self._device) >= _MULTIPLIES.get(dtype, _NEVER)

    def adapters_budget(self) -> int:
        return adapters_share(torch.cuda.mem_get_info(self._device)[1])

    def dtype(self, preferred: str) -> str:
        return preferred
