"""CUDA graphs: work that is recorded once and launched as one piece.

When a recording fails, torch's own context manager leaves the thread in the recording's stream, the
allocator waiting for its end, and the device's generator of random numbers in the recording.
Therefore ``record`` begins and ends recordings itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch


class CountsPools(Protocol):
    """Memory of a GPU, as far as pools of graphs change it."""

    recording: threading.RLock
    """Held while work is recorded: waiting for the device on another thread would break that."""

    def set_idle(self, pool: object, size: int) -> None:
        """Note the bytes that only the graphs of ``pool`` can use, and do not use between replays.

        torch counts them as free.
        """
        ...


class CudaGraphPool:
    """Graphs that share the memory of their intermediate tensors. For the engine's thread."""

    def __init__(
        self,
        device: torch.device,
        memory: CountsPools,
        cuda: Any = torch.cuda,
        bindings: Any = torch._C,  # noqa: SLF001 - what has no public name
    ) -> None:
        self._device = device
        self._memory = memory
        self._cuda = cuda
        self._bindings = bindings
        self._handle = cuda.graph_pool_handle()
        # The allocator keeps memory by stream, so all recordings of a pool are in the same one.
        self._stream = cuda.Stream(device)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        # The allocator of page-locked memory asks a failed one on, whose its streams are.
        self._failed: list[torch.cuda.CUDAGraph] = []

    @property
    def size(self) -> int:
        return sum(segment["total_size"] for segment in self._segments())

    def record(self, compute: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = self._cuda.CUDAGraph()
        with self._memory.recording:
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()  # cached blocks cannot be freed in the middle of a recording
            with self._cuda.stream(self._stream):
                graph.capture_begin(pool=self._handle, capture_error_mode="thread_local")
                try:
                    output = compute()
                    graph.capture_end()
                except BaseException:
                    self._abandon(graph)
                    raise
        self._graphs.append(graph)
        self._count()
        return graph, output

    def drop(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graphs.remove(graph)
        graph.reset()
        self._count()

    def release(self) -> None:
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._memory.set_idle(self, 0)  # torch gives it back when it is short of memory

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a recording that failed, so that stream, allocator and generator work as before."""
        with suppress(RuntimeError):
            graph.capture_end()
            return
        self._failed.append(graph)
        # It raised before it told the allocator. If it did that, this raises.
        index, handle = self._cuda.current_device(), self._handle
        with suppress(RuntimeError):
            self._bindings._cuda_endAllocateToPool(index, handle)  # noqa: SLF001
            self._bindings._cuda_releasePool(index, handle)  # noqa: SLF001
        graph.reset()
        self._end_recording_of_generator()

    def _end_recording_of_generator(self) -> None:
        """Record one addition: a recording that ends well ends that of the device's generator.

        ``capture_end`` does it last, after the call that raises when a recording has failed
        (torch's CUDAGraph.cpp). Until then each draw of random numbers and each replay raises
        "Offset increment outside graph capture".
        """
        number = torch.zeros(1, device=self._device)
        graph = self._cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        number.add_(1)
        graph.capture_end()
        graph.reset()

    def _count(self) -> None:
        idle = sum(
            segment["total_size"] - segment["allocated_size"] for segment in self._segments()
        )
        self._memory.set_idle(self, idle)

    def _segments(self) -> list[dict[str, int]]:
        return self._cuda.memory_snapshot(self._handle, include_traces=False)
