"""Weights on their way to the device, beside what it computes.

In the compute stream, each copy would wait for all that the engine has queued: seconds for a video,
a thousand times for a model. So they have a stream of their own, and pass through page-locked
buffers, because a device copies pageable memory slowly and makes the calling thread wait.
Page-locked memory is copied from where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator, Event, Stream
from deployments.engine.accelerator.pinned import PinnedBuffer

STAGING_BYTES = 32 * 2**20  # of each of the two buffers


class Transfer:
    """Copies to the device, for one thread. What was copied may be used after the ``with`` block.

    If the block raises, modules have the weights that they had before.
    """

    def __init__(self, accelerator: Accelerator, name: str) -> None:
        """``name``: the stream's."""
        self._accelerator = accelerator
        self._stream = accelerator.stream(name)
        self._staging: _Staging | None = None
        self._uploaded: list[Tensor] = []
        self._sources: list[Tensor] = []  # page-locked, and read until the stream is synchronized
        self._before: list[tuple[Tensor, Tensor]] = []  # tensors of modules, and their contents

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # Also after an error: the staging buffers and the tensors must not be freed before.
            self._stream.synchronize()
        finally:
            if error is not None:
                for tensor, before in self._before:
                    tensor.data = before
            self._before.clear()
            self._sources.clear()
        for tensor in self._uploaded:
            self._accelerator.share(tensor)

    def move(self, modules: Iterable[torch.nn.Module]) -> None:
        """Move all weights of ``modules`` that are on the host. Raises if memory runs out."""
        there = dict[Any, Tensor]()  # uploaded, by the memory on the host
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                if self._is_here(tensor):
                    self._move(tensor, there)

    def upload(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a copy of ``tensor`` on the device; on a CPU, the tensor itself if it is as asked.

        ``dtype``: dtype of the copy; None: the tensor's. Raises if memory runs out.
        """
        tensor = tensor.detach()
        if dtype is not None:
            tensor = tensor.to(dtype)
        if not self._accelerator.capabilities.discrete:
            return tensor
        source = _dense(tensor)
        with self._stream.active():
            target = self._accelerator.allocate(source)
            self._uploaded.append(target)
            self._copy(source, target)
        return target

    def _is_here(self, tensor: Tensor) -> bool:
        return self._accelerator.capabilities.discrete and tensor.device.type == "cpu"

    def _move(self, tensor: Tensor, there: dict[Any, Tensor]) -> None:
        before = tensor.data
        place = (before.data_ptr(), before.shape, before.stride(), before.dtype)
        if place not in there:
            there[place] = self.upload(before)
        self._before.append((tensor, before))
        tensor.data = there[place]

    def _copy(self, source: Tensor, target: Tensor) -> None:
        if self._accelerator.is_page_locked(source.untyped_storage().data_ptr()):
            self._sources.append(source)
            self._accelerator.copy(source, target)
            return
        if self._staging is None:
            self._staging = _Staging(self._accelerator, self._stream)
        flat, there = _bytes(source), _bytes(target)
        done = 0
        while done < len(flat):
            buffer = self._staging.next_part(len(flat) - done)
            part = slice(done, done + len(buffer))
            buffer.copy_(flat[part])
            self._accelerator.copy(buffer, there[part])
            done += len(buffer)


class _Staging:
    """Two page-locked buffers: one is filled while the device reads the other."""

    def __init__(self, accelerator: Accelerator, stream: Stream) -> None:
        self._stream = stream
        self._buffers = [PinnedBuffer(STAGING_BYTES, accelerator, drained=True) for _ in range(2)]
        self._read: list[Event | None] = [None, None]  # when the device has read each
        self._current = 0
        self._filled = 0  # bytes of the current one

    def next_part(self, limit: int) -> Tensor:
        """Return at most ``limit`` bytes to be filled and copied before the next call.

        It waits while the device still reads them.
        """
        if self._filled == STAGING_BYTES:
            self._read[self._current] = self._stream.record()
            self._current = 1 - self._current
            self._filled = 0
            event = self._read[self._current]
            if event is not None:
                event.wait()
        begin, size = self._filled, min(limit, STAGING_BYTES - self._filled)
        self._filled += size
        return self._buffers[self._current].bytes(begin, size)


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if its memory has gaps."""
    without_gaps = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return tensor if without_gaps else tensor.contiguous()


def _bytes(tensor: Tensor) -> Tensor:
    """Return the memory of a dense tensor as uint8, in its order there."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
