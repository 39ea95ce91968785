"""Warm weights in page-locked host memory, from which they come to the device by a copy: evicted
ones, and staged ones, which were read there before there was room on the device."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deployments.engine.accelerator.cpu import free_host_bytes, host_bytes
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.pinned import PinnedBuffer, align, pin
from deployments.engine.memory.placement import Placement, bytes_of, vacate_slots
from deployments.engine.reading.reader import STREAM, Home, OnBytes, WeightReader

log = logging.getLogger(__name__)

RESERVE_SHARE = 0.2  # of the host's memory, which warm weights leave free for everything else


class WeightPlaces:
    """Places in modules that hold a pipeline's own weights, whatever is attached to it later."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._places = [
            (tensors, name)
            for module in modules
            for submodule in module.modules()
            for tensors in (submodule._parameters, submodule._buffers)  # noqa: SLF001
            for name in tensors
        ]

    def on(self, device: str) -> Sequence[Tensor]:
        """Return the tensors that are there now, without repetitions."""
        kind = torch.device(device).type
        there = {id(tensor): tensor for tensor in self._tensors() if tensor.device.type == kind}
        return [*there.values()]

    def _tensors(self) -> Iterator[Tensor]:
        for tensors, name in self._places:
            tensor = tensors.get(name)
            if tensor is not None and tensor.numel():
                yield tensor


@dataclass(slots=True)
class _Slab:
    """Tensors that share memory, and a copy of that memory on the host."""

    host: Tensor  # uint8
    tensors: list[tuple[Tensor, int]] = field(default_factory=list[tuple[Tensor, int]])
    """With the offset of each in the memory, in its own values."""

    def point_to(self, memory: Tensor) -> None:
        """Let the tensors use ``memory``, which has the same contents."""
        for tensor, offset in self.tensors:
            whole = memory.view(tensor.dtype)
            first = whole.storage_offset() + offset
            tensor.data = whole.as_strided(tensor.shape, tensor.stride(), first)


@dataclass(slots=True)
class WarmWeights:
    """Pipeline whose weights on the device were copied to host memory.

    If it is ``staged``, it has not been on the device: its placement is still to be applied.
    """

    pipeline: Any
    placement: Placement
    places: WeightPlaces
    size: int  # bytes that its weights take on the device
    slabs: Sequence[_Slab]
    host_bytes: int  # of the slabs, and of what was in host memory before
    restoring: bool = False
    staged: bool = False

    def apply(self, accelerator: Accelerator) -> None:
        """Copy the weights to the device. If memory runs out, they stay where they are."""
        stream = accelerator.stream(STREAM)
        there = list[Tensor]()
        try:
            with stream.active():
                for slab in self.slabs:
                    there.append(accelerator.allocate(torch.empty_like(slab.host, device="meta")))
                    accelerator.copy(slab.host, there[-1])
        finally:
            stream.synchronize()  # neither side may be freed before
        for slab, memory in zip(self.slabs, there, strict=True):
            accelerator.share(memory)
            slab.point_to(memory)

    def undo(self) -> None:
        """Do nothing: after an error, nothing was changed."""


class WarmTier:
    """Warm weights by name, within a share of the host's memory. For the loader's thread."""

    def __init__(
        self,
        accelerator: Accelerator,
        share: float,
        total_bytes: Callable[[], int] = host_bytes,
        free_bytes: Callable[[], int] = free_host_bytes,
    ) -> None:
        """``share``: of the host's memory. ``total_bytes``, ``free_bytes``: that it has."""
        self._accelerator = accelerator
        self._share = share if accelerator.capabilities.discrete else 0.0
        self._total_bytes = total_bytes
        self._free_bytes = free_bytes
        self._held: dict[str, WarmWeights] = {}  # the longest unused first
        self.dropped_last: frozenset[str] = frozenset()  # names that are dropped last

    @property
    def bytes(self) -> int:
        """Bytes of host memory that warm weights take."""
        return sum(weights.host_bytes for weights in self._held.values())

    @property
    def keeps_any(self) -> bool:
        """False without a share, or where the device's memory is the host's."""
        return self._share > 0

    @property
    def names(self) -> Sequence[str]:
        return [*self._held]

    def keep(
        self, name: str, pipeline: Any, placement: Placement, places: WeightPlaces, size: int
    ) -> bool:
        """Copy weights, which nobody uses, to host memory. Return False if there is no room.

        Others that were not used for longer are dropped for them; those in ``dropped_last`` only
        for others of these.
        """
        if not self._share or placement.streamed:  # these are copied by hooks with own bookkeeping
            return False
        vacate_slots([pipeline])
        groups = _by_memory(places.on(self._accelerator.device))
        copied = sum(align(len(whole)) for whole, _ in groups)
        host_groups = _by_memory(WeightPlaces(placement.waiting).on("cpu"))
        needed = copied + sum(len(whole) for whole, _ in host_groups)
        if not self._make_room(needed, copied, kept=name in self.dropped_last):
            return False
        try:
            slabs = self._copy_to_host(groups)
        except MemoryError:
            log.info("%s is not kept in host memory: it cannot be page-locked.", name)
            return False
        self._held[name] = WarmWeights(pipeline, placement, places, size, slabs, needed)
        return True

    def stage(
        self, name: str, placement: Placement, reader: WeightReader, on_bytes: OnBytes
    ) -> bool:
        """Read weights that have no room on the device to host memory. Return False if there is
        none for them either. Others are dropped for them, but none of those in ``dropped_last``.
        """
        modules = (*placement.resident, *placement.waiting, *placement.streamed)
        needed = bytes_of(modules)
        if not self._share or not self._make_room(needed, align(needed), kept=False):
            return False
        try:
            reader.read([(module, Home.LOCKED) for module in modules], on_bytes)
            pin(modules, self._accelerator)  # those that were not left unread
        except MemoryError:
            log.info("%s is not read to host memory: it cannot be page-locked.", name)
            return False
        places, size = WeightPlaces(placement.resident), placement.device_bytes
        self._held[name] = WarmWeights(
            placement.pipeline, placement, places, size, (), needed, staged=True
        )
        log.info("%s is in host memory, until there is room on the device.", name)
        return True

    def take(self, name: str) -> WarmWeights | None:
        """Return warm weights to be restored. Then call ``release`` or ``put_back``."""
        warm = self._held.get(name)
        if warm is not None:
            warm.restoring = True
        return warm

    def release(self, name: str) -> None:
        """Free the host memory of weights that are on the device again, or are broken."""
        self._held.pop(name, None)

    def put_back(self, name: str) -> None:
        """Keep weights that were not restored."""
        self._held[name].restoring = False

    def give_back(self, needed: int) -> None:
        """Drop the longest unused until the host has ``needed`` bytes free beside its reserve."""
        while self._held and self._free() < needed and self._drop(kept=True):
            pass

    def _make_room(self, needed: int, more: int, *, kept: bool) -> bool:
        """Drop the longest unused until ``needed`` bytes fit; none if they would not even then.

        ``more``: bytes of them that are not in host memory yet. ``kept``: kept ones may be dropped.
        """
        droppable = sum(self._held[name].host_bytes for name in self._droppable(kept=kept))
        if needed > self._in_share() + droppable or more > self._free() + droppable:
            return False
        while self._in_share() < needed or self._free() < more:
            if not self._drop(kept=kept):
                return False
        return True

    def _droppable(self, *, kept: bool) -> Sequence[str]:
        """Names that may be dropped, the first ones first. ``kept``: also kept ones, last."""
        names = [name for name, weights in self._held.items() if not weights.restoring]
        others = [name for name in names if name not in self.dropped_last]
        return [*others, *(name for name in names if name in self.dropped_last)] if kept else others

    def _drop(self, *, kept: bool) -> bool:
        name = next(iter(self._droppable(kept=kept)), None)
        if name is None:
            return False
        log.info("Dropping %s from host memory.", name)
        del self._held[name]
        gc.collect()  # pipelines are in reference cycles
        return True

    def _in_share(self) -> int:
        """Bytes of the share that are not taken."""
        return int(self._total_bytes() * self._share) - self.bytes

    def _free(self) -> int:
        """Free bytes of the host beside the reserve that may be page-locked."""
        free = self._free_bytes() - int(self._total_bytes() * RESERVE_SHARE)
        lockable = self._accelerator.lockable_bytes()
        return free if lockable is None else min(free, lockable)

    def _copy_to_host(self, groups: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> Sequence[_Slab]:
        buffer = PinnedBuffer(sum(align(len(whole)) for whole, _ in groups), self._accelerator)
        slabs, offset = list[_Slab](), 0
        stream = self._accelerator.stream(STREAM)
        try:
            with stream.active():
                for whole, tensors in groups:
                    host = buffer.bytes(offset, align(len(whole)))
                    offset += len(host)
                    offsets = [(tensor, int(tensor.storage_offset())) for tensor in tensors]
                    slabs.append(_Slab(host, offsets))
                    self._accelerator.copy(whole, host[: len(whole)])
        finally:
            stream.synchronize()
        for slab in slabs:
            slab.point_to(slab.host)
        return slabs


def _by_memory(tensors: Iterable[Tensor]) -> Sequence[tuple[Tensor, Sequence[Tensor]]]:
    """Memory that tensors share, as uint8, with those tensors."""
    by_address = dict[int, tuple[Tensor, list[Tensor]]]()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in by_address:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            by_address[storage.data_ptr()] = whole, []
        by_address[storage.data_ptr()][1].append(tensor)
    return [*by_address.values()]
