"""A device with little memory, whose tensors are numbers."""

import weakref
from contextlib import contextmanager

import torch

from deployments.engine.accelerator.interface import MemoryUse


class Block:
    """Allocated, until nothing refers to it."""


class SmallDevice:
    def __init__(self, total):
        self._total = total
        self._used = 0
        self._peak = 0
        self.released = 0

    def allocate(self, size):
        if self._used + size > self._total:
            raise torch.OutOfMemoryError(f"Tried to allocate {size} bytes.")
        block = Block()
        self._used += size
        self._peak = max(self._peak, self._used)
        weakref.finalize(block, self._free, size)
        return block

    def free(self):
        return self._total - self._used

    def total(self):
        return self._total

    def held(self):
        return self._used

    @contextmanager
    def measured(self):
        taken = MemoryUse()
        before = self._peak = self._used
        try:
            yield taken
        finally:
            taken.kept = self._used - before
            taken.peak = self._peak - before

    def release(self):
        self.released += 1

    def _free(self, size):
        self._used -= size
