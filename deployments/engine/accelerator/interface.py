"""Interface to the device that computes, and the values that cross it.

Everything in which kinds of devices differ is behind ``Accelerator``: streams, events, page-locked
host memory, memory accounts and the precision that a device computes in. Each kind is one module of
this package (``cpu``, ``cuda``), which ``selection`` chooses by the device's name. The names of its
errors are in ``errors``. No other module names a kind of device.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(slots=True)
class MemoryUse:
    """Bytes that a block took; filled in at the end of the measurement."""

    peak: int = 0  # maximum above the level at the beginning
    growth: int = 0  # difference at the end; negative when more was freed than allocated
    reliable: bool = True  # False if weights came or idle memory was dropped in between


class DeviceMemory(Protocol):
    """Memory of a device. Used on the engine's thread. Measurements do not nest."""

    def free(self) -> int | None:
        """Bytes that can be allocated; None if memory is not counted and not limited."""
        ...

    def total(self) -> int | None: ...

    def held_bytes(self) -> int:
        """Bytes that this process has of the device's memory: used, and cached for later use.

        Where memory is not counted: the most that the process has had.
        """
        ...

    def measure(self) -> AbstractContextManager[MemoryUse]:
        """Measure a block. Concurrent allocations of other threads count as well."""
        ...

    def release(self) -> None:
        """Free the allocator's cached blocks, so that other streams and sizes can use them.

        An allocator keeps freed blocks for the stream that they were allocated in. ``free`` counts
        them, but the compute stream gets them only when the allocator has run out of memory, which
        waits for the device. So call it after freeing what came by another stream.
        """
        ...


class Event(Protocol):
    """Point in a stream."""

    def wait(self) -> None:
        """Make the calling thread wait until the device has passed the point."""
        ...


class Stream(Protocol):
    """Queue of work on a device. The device works on different streams independently."""

    def active(self) -> AbstractContextManager[None]:
        """Inside the block, the calling thread's work goes into this stream."""
        ...

    def record(self) -> Event:
        """Return the point behind all work that is in the stream now."""
        ...

    def synchronize(self) -> None:
        """Make the calling thread wait for all work that is in the stream now."""
        ...


class Graph(Protocol):
    """Work that was recorded once, and is launched as one piece.

    It reads and writes the very memory of the recording: weights, inputs and outputs.
    """

    def replay(self) -> None:
        """Put the recorded work into the calling thread's stream."""
        ...


class GraphPool(Protocol):
    """Graphs that share the memory of their intermediate tensors. For the engine's thread.

    The outputs of a graph are valid until the next replay of any graph of the pool.
    """

    @property
    def size(self) -> int:
        """Bytes of the device that the pool has."""
        ...

    def record(self, compute: Callable[[], Any]) -> tuple[Graph, Any]:
        """Record the work of ``compute`` without doing it; return the graph and what it returned.

        The tensors in that get their values by a replay. ``compute`` must have run before with
        the same shapes, because what is done only once cannot be recorded. Raises what it raises,
        and an error of the device if it waits for the device. Nothing else changes then, but no
        more must be recorded in this pool.
        """
        ...

    def drop(self, graph: Any, /) -> None:
        """Free a graph of the pool. The next one that is recorded can use its memory."""
        ...

    def release(self) -> None:
        """Free all graphs and their memory. Nothing can be recorded in the pool any more."""
        ...


class TimeStamp(Protocol):
    """Timestamp."""

    def has_passed(self) -> bool: ...

    def seconds_to(self, later: Any, /) -> float:
        """Seconds to a later timestamp of the same class, once both have passed."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HostCopy:
    """Copy to the host for which the engine's thread does not wait."""

    tensor: Tensor  # on the CPU; complete when ``ready`` returns
    ready: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts about a kind of device by which other code decides."""

    discrete: bool
    """Its memory is apart from the host's, and it works through queues while the host goes on."""

    channels_last: bool
    """It convolves images faster in the channels-last layout."""

    collectives: str
    """torch.distributed's backends for a group of such devices, for messages and tensors."""


class Accelerator(Protocol):
    """A device. The *compute stream* is the one that the engine's thread uses.

    Methods may be called on any thread.
    """

    @property
    def device(self) -> str:
        """Name for torch, such as ``cpu``, ``cuda`` or ``cuda:1``."""
        ...

    @property
    def kind(self) -> str:
        """Name for torch without a number."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    def model_name(self) -> str:
        """Name of the product, such as ``NVIDIA H200``."""
        ...

    def driver(self) -> str:
        """Version of the device's driver; empty without one."""
        ...

    @property
    def memory(self) -> DeviceMemory: ...

    def stream(self, name: str) -> Stream:
        """Return the stream of that name beside the compute stream, always the same one."""
        ...

    def allocate(self, like: Tensor) -> Tensor:
        """Return an uninitialized tensor of the shape, strides and dtype of ``like``.

        ``like`` may be a tensor without memory. The new one is on the device and belongs to the
        calling thread's stream. Raises an error that ``is_out_of_memory`` recognizes.
        """
        ...

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy page-locked ``source`` to ``target`` on the device, in the thread's stream.

        From the device to page-locked memory as well, and on the device, where dtypes may differ.
        It does not wait: ``source`` must not change before the stream has passed the copy.
        """
        ...

    def share(self, tensor: Tensor) -> None:
        """Let the compute stream use a tensor of another stream.

        Its memory is not given to another tensor while the compute stream may still read it.
        """
        ...

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return a copy of a small host tensor on the device, ordered in the thread's stream.

        It does not wait for the device. Weights pass through ``transfer`` instead.
        """
        ...

    def to_host(self, tensor: Tensor) -> HostCopy:
        """Start copying ``tensor`` to the host. A tensor that is there is returned as it is."""
        ...

    def lockable_bytes(self) -> int | None:
        """Bytes of host memory that may still be page-locked; None if they are not counted.

        Such memory can neither be swapped out nor given to the page cache, so some must be left.
        """
        ...

    def page_lock(self, address: int, size: int) -> None:
        """Page-lock ``size`` bytes of host memory, so that the device copies them itself.

        Raises ``MemoryError`` when the host has not so much.
        """
        ...

    def is_page_locked(self, address: int) -> bool:
        """Return whether ``page_lock`` was called with this address, and not undone."""
        ...

    def page_unlock(self, address: int, *, wait: bool) -> None:
        """Undo ``page_lock``, before the memory is freed.

        ``wait``: for all work on the device first, because a queued copy may read the memory.
        """
        ...

    def graph_pool(self) -> GraphPool | None:
        """Return a new pool of graphs; None if the device cannot record work."""
        ...

    def has_failed(self) -> bool:
        """Ask the device whether it can still compute. It waits for all queued work."""
        ...

    def timestamps(self, monotonic: Callable[[], float]) -> Callable[[], TimeStamp]:
        """Return a factory of timestamps for the compute stream.

        ``monotonic``: clock in seconds, which the CPU uses.
        """
        ...

    def generators(self) -> list[torch.Generator]:
        """Return the global random generators that code on this device may draw from."""
        ...

    def weights_budget(self) -> int:
        """Bytes of weights that a replica keeps loaded by default."""
        ...

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Return whether it multiplies matrices of an 8-bit type, int8 or float8_e4m3fn, as such.

        That is, whether ``torch._int_mm`` or ``torch._scaled_mm`` with scales by row works.
        """
        ...

    def adapters_budget(self) -> int:
        """Bytes of LoRAs that a replica keeps on the device by default, beside its weights."""
        ...

    def dtype(self, preferred: str) -> str:
        """Name of the dtype to compute in, for a model that prefers ``preferred`` on a GPU."""
        ...
