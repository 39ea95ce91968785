"""Device memory: free bytes, and bytes that an operation took."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import psutil
import torch
from torch import Tensor

RESERVE = 256 * 2**20  # bytes that are never planned with: workspaces of libraries


@dataclass(slots=True)
class MemoryUse:
    """Bytes that a block took; filled in at the end of the measurement."""

    peak: int = 0  # maximum above the level at the beginning
    kept: int = 0  # difference at the end; negative when more was freed than allocated
    reliable: bool = True  # False if weights came to the device in between


class DeviceMemory(Protocol):
    """Memory of a device. Used on the engine's thread. Measurements do not nest."""

    def free(self) -> int | None:
        """Bytes that can be allocated; None if memory is not counted and not limited."""
        ...

    def total(self) -> int | None: ...

    def measured(self) -> AbstractContextManager[MemoryUse]:
        """Measure a block. Concurrent allocations of other threads count as well."""
        ...

    def release(self) -> None:
        """Free the allocator's cached blocks, so that allocations of other sizes can use them."""
        ...


class UnlimitedMemory:
    """Host memory, which is not counted: the system overcommits and gives no early warning."""

    def free(self) -> int | None:
        return None

    def total(self) -> int | None:
        return None

    @contextmanager
    def measured(self) -> Generator[MemoryUse]:
        yield MemoryUse()

    def release(self) -> None:
        """Do nothing: no blocks are cached."""


class CudaMemory:
    """GPU memory, from torch's own statistics. Reading them does not wait for the device."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def free(self) -> int | None:
        unused, _ = torch.cuda.mem_get_info(self._device)
        kept = self._account("reserved_bytes", "current") - self._now()
        return max(0, unused + kept - RESERVE)

    def total(self) -> int | None:
        return torch.cuda.mem_get_info(self._device)[1]

    @contextmanager
    def measured(self) -> Generator[MemoryUse]:
        taken = MemoryUse()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = self._now()
        try:
            yield taken
        finally:
            taken.kept = self._now() - before
            taken.peak = self._account("allocated_bytes", "peak") - before

    def release(self) -> None:
        torch.cuda.empty_cache()

    def _now(self) -> int:
        return self._account("allocated_bytes", "current")

    def _account(self, what: str, which: str) -> int:
        # Unlike `memory_allocated()` and similar, this builds no flat dictionary of all values.
        accounts = torch.cuda.memory_stats_as_nested_dict(self._device)
        return accounts[what]["all"][which] if accounts else 0


def memory_of(device: str) -> DeviceMemory:
    return CudaMemory(device) if device.startswith("cuda") else UnlimitedMemory()


_OF_GPU = 0.85  # the rest is for computing
_OF_HOST = 0.5


def bytes_of(modules: Iterable[torch.nn.Module]) -> int:
    """Bytes of all weights; shared weights count once."""
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())


def own_budget(device: str) -> int:
    """Bytes of weights that a replica keeps loaded by default."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1] * _OF_GPU)
    return int(psutil.virtual_memory().total * _OF_HOST)


@dataclass(frozen=True, slots=True, eq=False)
class HostCopy:
    """Copy to the host for which the engine's thread does not wait."""

    tensor: Tensor  # on the CPU; complete when ``ready`` returns
    ready: Callable[[], object]


def host_copy(tensor: Tensor) -> HostCopy:
    """Start copying ``tensor`` to the host. A CPU tensor is returned as it is."""
    if tensor.device.type != "cuda":
        return HostCopy(tensor, lambda: None)
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return HostCopy(copy, copied.synchronize)
