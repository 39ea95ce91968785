"""The CPU as a device: nothing is copied, nothing is queued, and memory is not counted."""

from __future__ import annotations

import contextlib
import platform
import re
import resource
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor

from deployments.engine.accelerator.interface import Capabilities, HostCopy, MemoryUse, TimeStamp

_WEIGHTS_SHARE = 0.5  # of the host's memory
_ADAPTERS_SHARE = 0.05  # of a device's memory
_MIN_ADAPTERS_BYTES = 2**30  # a few files, also on a small device
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # bytes, or "max"

CPU_FACTS = Path("/proc/cpuinfo")


def host_bytes() -> int:
    """Bytes of memory that this machine or container has."""
    total = psutil.virtual_memory().total
    try:
        limit = int(CONTAINER_LIMIT.read_text())
    except (OSError, ValueError):
        return total
    return min(total, limit)


def process_bytes() -> int:
    """Bytes of memory that this process uses."""
    return psutil.Process().memory_info().rss


def adapters_share(total: int) -> int:
    """Bytes for LoRAs on a device with ``total`` bytes."""
    return max(_MIN_ADAPTERS_BYTES, int(total * _ADAPTERS_SHARE))


def free_host_bytes() -> int:
    """Bytes of memory that this machine or container could give to this process now.

    The page cache counts as free.
    """
    free = psutil.virtual_memory().available
    try:
        limit = int(CONTAINER_LIMIT.read_text())
        used = int(CONTAINER_LIMIT.with_name("memory.current").read_text())
        cached = _CACHED.search(CONTAINER_LIMIT.with_name("memory.stat").read_text())
    except (OSError, ValueError):
        return free
    return min(free, limit - used + (int(cached[1]) if cached else 0))


_CACHED = re.compile(r"^inactive_file (\d+)$", re.MULTILINE)


class UnlimitedMemory:
    """Host memory, which is not counted: the system overcommits and gives no early warning."""

    def free(self) -> int | None:
        return None

    def total(self) -> int | None:
        return None

    def held_bytes(self) -> int:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB

    @contextmanager
    def measure(self) -> Generator[MemoryUse]:
        yield MemoryUse()

    def release(self) -> None:
        """Do nothing: no blocks are cached."""


class HostTimeStamp:
    """Timestamp of a monotonic clock in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._at = monotonic()

    def has_passed(self) -> bool:
        return True

    def seconds_to(self, later: HostTimeStamp, /) -> float:
        return later._at - self._at


class InlineStream:
    """Stream whose work is done when the call returns."""

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self) -> InlineStream:
        return self

    def wait(self) -> None:
        """Do nothing: all work is done."""

    def synchronize(self) -> None:
        """Do nothing: all work is done."""


class Cpu:
    """The CPU of this machine."""

    device = kind = "cpu"
    capabilities = Capabilities(discrete=False, channels_last=True, collectives="gloo")

    def __init__(self) -> None:
        self.memory = UnlimitedMemory()

    def model_name(self) -> str:
        with contextlib.suppress(OSError):
            if match := re.search(r"^model name\s*: (.+)$", CPU_FACTS.read_text(), re.M):
                return match[1].strip()
        return platform.processor() or platform.machine()

    def driver(self) -> str:
        return ""

    def stream(self, name: str) -> InlineStream:
        del name
        return InlineStream()

    def allocate(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device="cpu")

    def copy(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def share(self, tensor: Tensor) -> None:
        """Do nothing: there is one stream."""

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor

    def to_host(self, tensor: Tensor) -> HostCopy:
        return HostCopy(tensor, lambda: None)

    def lockable_bytes(self) -> int | None:
        return None

    def page_lock(self, address: int, size: int) -> None:
        """Do nothing: no device copies the memory."""

    def is_page_locked(self, address: int) -> bool:
        del address
        return False

    def page_unlock(self, address: int, *, wait: bool) -> None:
        """Do nothing: nothing was locked."""

    def graph_pool(self) -> None:
        """Return None: it launches nothing."""

    def has_failed(self) -> bool:
        return False

    def timestamps(self, monotonic: Callable[[], float]) -> Callable[[], TimeStamp]:
        return partial(HostTimeStamp, monotonic)

    def generators(self) -> list[torch.Generator]:
        return [torch.default_generator]

    def weights_budget(self) -> int:
        return int(host_bytes() * _WEIGHTS_SHARE)

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Return True: it has both products, slower than those of 32 bits."""
        del dtype
        return True

    def adapters_budget(self) -> int:
        return adapters_share(host_bytes())

    def dtype(self, preferred: str) -> str:
        """A CPU computes 16 bits slowly, and some layers not at all."""
        del preferred
        return "float32"
