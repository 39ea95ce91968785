"""Page-locked host memory for weights, exact in size.

torch's own allocator of such memory rounds each tensor up to a power of two (pytorch#150517): the
tensors of Wan 14B would take 43.7 GB instead of 28.6. Here a component's tensors are views into a
few slabs, each page-locked as a whole.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator

SLAB_BYTES = 2**30
"""Largest slab, unless one tensor is larger. While a slab is filled, both it and the tensors that
it replaces are in memory."""

ALIGNMENT = 256  # bytes; more than any dtype or kernel asks for


def pin(modules: Iterable[torch.nn.Module], accelerator: Accelerator) -> None:
    """Move the weights of ``modules`` to page-locked host memory, which is theirs alone.

    Weights that are in such memory stay where they are. It is freed with the last tensor in it.
    Raises ``MemoryError`` when the host has not so much; weights that were moved until then stay
    moved.
    """
    for group in _slabs(_unique(modules, accelerator)):
        slab = PinnedBuffer(sum(align(_size(aliases[0])) for aliases in group), accelerator)
        offset = 0
        for same in group:
            view = slab.view(offset, same[0])
            view.copy_(same[0].data)
            for tensor in same:
                tensor.data = view
            offset += align(_size(same[0]))


class PinnedBuffer:
    """Page-locked memory, which lives as long as it or a view of it does."""

    def __init__(self, size: int, accelerator: Accelerator, *, drained: bool = False) -> None:
        """``drained``: when it is freed, the device reads it no more. Else freeing it waits.

        Raises ``MemoryError`` when the host has not so much memory.
        """
        mapping = _Mapping.of(size, accelerator, drained=drained)
        self._bytes = torch.frombuffer(mapping, dtype=torch.uint8)

    def view(self, offset: int, like: Tensor) -> Tensor:
        """Return a tensor of the shape and dtype of ``like`` at ``offset``, an aligned number.

        Its strides are those of ``like`` where these leave no gaps.
        """
        flat = self._bytes[offset : offset + _size(like)].view(like.dtype)
        return flat.as_strided(like.shape, torch.empty_like(like, device="meta").stride())

    def bytes(self, offset: int, size: int) -> Tensor:
        """Return a part as uint8."""
        return self._bytes[offset : offset + size]


class _Mapping(mmap.mmap):
    """Anonymous memory, page-locked until it is unmapped."""

    _accelerator: Accelerator | None = None
    _address = 0
    _drained = False

    @classmethod
    def of(cls, size: int, accelerator: Accelerator, *, drained: bool) -> _Mapping:
        mapping = cls(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        accelerator.page_lock(address, max(size, 1))
        mapping._accelerator, mapping._address = accelerator, address
        mapping._drained = drained
        return mapping

    def __del__(self) -> None:
        # A weak reference's callback would run after the memory is unmapped.
        if self._accelerator is not None and not sys.is_finalizing():
            self._accelerator.page_unlock(self._address, wait=not self._drained)


def _unique(modules: Iterable[torch.nn.Module], accelerator: Accelerator) -> Iterator[list[Tensor]]:
    """Lists of tensors that are the same memory, each with one member in most cases."""
    by_place: dict[Any, dict[int, Tensor]] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if not tensor.numel() or tensor.device.type != "cpu":
                continue
            if not accelerator.is_page_locked(tensor.untyped_storage().data_ptr()):
                place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
                by_place.setdefault(place, {})[id(tensor)] = tensor
    yield from ([*same.values()] for same in by_place.values())


def _slabs(tensors: Iterable[list[Tensor]]) -> Iterator[Sequence[list[Tensor]]]:
    """Groups of tensors, in their order, each for one slab."""
    group, size = list[list[Tensor]](), 0
    for same in tensors:
        more = align(_size(same[0]))
        if group and size + more > SLAB_BYTES:
            yield group
            group, size = [], 0
        group.append(same)
        size += more
    if group:
        yield group


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def align(size: int) -> int:
    """Bytes that ``size`` bytes take in a slab: the next multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT
