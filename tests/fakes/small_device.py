"""A device with little memory, whose tensors are numbers, behind an allocator like torch's.

What is freed stays with the stream that it was allocated in, and only that can use it: torch
compares the streams of blocks (``BlockComparatorSize``), and segments that expand are a stream's,
too. When memory runs out for a stream, the allocator gives back what all of them keep, which waits
for the device. ``flushes`` counts that.
"""

import threading
import weakref
from collections import Counter
from contextlib import contextmanager

import torch

from deployments.engine.accelerator.interface import MemoryUse

COMPUTE = "compute"


class Block:
    """Allocated, until nothing refers to it."""


class SmallDevice:
    def __init__(self, total):
        self._total = total
        self._used = Counter()  # bytes, by stream
        self._kept = Counter()  # freed bytes that the allocator has, by stream
        self._peak = 0
        self._lock = threading.RLock()  # blocks may be freed by finalizers
        self.released = 0
        self.flushes = 0

    def allocate(self, size, stream=COMPUTE):
        with self._lock:
            if size > self._kept[stream] + self._unmapped():
                self.flushes += 1
                self._kept.clear()
            if size > self._kept[stream] + self._unmapped():
                raise torch.OutOfMemoryError(f"Tried to allocate {size} bytes.")
            self._kept[stream] -= min(size, self._kept[stream])
            self._used[stream] += size
            self._peak = max(self._peak, bytes_in(self._used))
        block = Block()
        weakref.finalize(block, self._free, size, stream)
        return block

    def free(self):
        """Bytes that no stream uses, whichever keeps them, as torch's statistics count them."""
        return self._total - bytes_in(self._used)

    def total(self):
        return self._total

    def held_bytes(self):
        return bytes_in(self._used) + bytes_in(self._kept)

    @contextmanager
    def measure(self):
        taken = MemoryUse()
        before = self._peak = bytes_in(self._used)
        try:
            yield taken
        finally:
            taken.growth = bytes_in(self._used) - before
            taken.peak = self._peak - before

    def release(self):
        with self._lock:
            self.released += 1
            self._kept.clear()

    def _unmapped(self):
        return self._total - self.held_bytes()

    def _free(self, size, stream):
        with self._lock:
            self._used[stream] -= size
            self._kept[stream] += size


def bytes_in(streams):
    return sum([*streams.values()])  # a finalizer may change them meanwhile
