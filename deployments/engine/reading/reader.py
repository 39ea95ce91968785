"""Reader of weights: from files straight to where the model runs, without a copy in between.

Each file is read in pieces by a few threads, past the page cache where that does not have them. A
piece is read into one of a few buffers that stay: most of the time of reading into fresh memory is
the kernel's, for its pages. From there its parts go to their places, on the device by a stream of
its own, and are cast there. Where a CPU computes and nothing is cast, the place is the file itself,
mapped, and reading brings it into the page cache.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator, Event
from deployments.engine.accelerator.pinned import PinnedBuffer, align
from deployments.engine.reading.dequantization import dequantize
from deployments.engine.reading.headers import BLOCK, StoredTensor, WeightFile, writable
from deployments.engine.reading.unread import UnreadWeight, cast_by
from serve_app.domain.gguf import GgufType

THREADS = 4  # more brought nothing with a disk of 0.9 GB/s
PIECE_BYTES = 16 * 2**20  # 1 MB to 64 MB were as fast
STREAM = "weights"

OnBytes = Callable[[int, int], None]
"""Callback with the bytes that were read and all bytes to read. Called on the reading threads, one
at a time; an exception ends the reading."""


class Home(Enum):
    """Memory that weights are read to."""

    DEVICE = auto()
    HOST = auto()
    LOCKED = auto()  # host memory that the device copies itself


@dataclass(frozen=True, slots=True)
class _Target:
    """Stored tensor, and the memory for it in the dtype that it is cast to."""

    stored: StoredTensor
    casts: tuple[torch.dtype, ...]
    there: Tensor  # flat
    on_device: bool
    is_mapped: bool  # it is the memory of the file

    @property
    def is_plain(self) -> bool:
        """The bytes of the file are what is wanted in host memory."""
        return not self.casts and not self.on_device and self.stored.blocks is None


@dataclass(frozen=True, slots=True)
class _Part:
    """Part of a target whose units begin in a piece."""

    target: _Target
    first: int  # unit of the stored tensor
    count: int  # of units

    @property
    def begin(self) -> int:
        """Offset in the file."""
        return self.target.stored.begin + self.first * self.target.stored.unit[1]

    @property
    def size(self) -> int:
        return self.count * self.target.stored.unit[1]

    @property
    def there(self) -> Tensor:
        values, _ = self.target.stored.unit
        return self.target.there[self.first * values : (self.first + self.count) * values]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a file that is read at once."""

    file: WeightFile
    parts: Sequence[_Part]

    @property
    def begin(self) -> int:
        return self.parts[0].begin // BLOCK * BLOCK

    @property
    def size(self) -> int:
        return max(part.begin + part.size for part in self.parts) - self.begin

    @property
    def is_mapped(self) -> bool:
        """It is only to be in the page cache, which is the memory of its parts."""
        return self.parts[0].target.is_mapped


class _Buffer:
    """Buffer of a thread."""

    def __init__(self, accelerator: Accelerator) -> None:
        # The last unit of a piece may end in the next one, and is read in whole blocks.
        self._pinned = PinnedBuffer(PIECE_BYTES + 2 * BLOCK, accelerator, drained=True)
        self.read: Event | None = None  # when the device has read what is in it

    def memory(self, size: int) -> memoryview:
        """Return its first bytes to write to. It waits while the device still reads them."""
        if self.read is not None:
            self.read.wait()
            self.read = None
        return writable(self.bytes(0, size))

    def bytes(self, offset: int, size: int) -> Tensor:
        return self._pinned.bytes(offset, size)


class WeightReader:
    """Reader of ``UnreadWeight``s for one device. Its buffers stay. For one thread at a time."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._buffers: list[_Buffer] = []

    def read(
        self,
        homes: Iterable[tuple[torch.nn.Module, Home]],
        on_bytes: OnBytes | None = None,
    ) -> int:
        """Read all ``UnreadWeight``s of the modules to their homes, and return the bytes read.

        Modules are changed only when everything was read. Raises ``WeightsUnavailable``, and the
        errors of allocating memory; memory is allocated before anything is read.
        """
        groups = [(_Found(module), home) for module, home in homes]
        slabs = list[Tensor]()
        targets = list[_Target]()
        stream = self._accelerator.stream(STREAM)
        try:
            with stream.active():
                for weights, home in groups:
                    targets += self._lay_out(weights, home, slabs)
            size = self._fill(targets, on_bytes)
        finally:
            # Also after an error: neither buffers nor slabs may be freed before.
            if slabs:
                stream.synchronize()
        for slab in slabs:
            self._accelerator.share(slab)
        for weights, _ in groups:
            weights.replace()
        if not self._accelerator.capabilities.discrete:
            self._buffers.clear()  # they are not page-locked, so new ones cost little
        return size

    def _lay_out(self, unread: _Found, home: Home, slabs: list[Tensor]) -> Iterator[_Target]:
        """Allocate memory for a module, and return what is to be read to it.

        It is one slab, exact in size. ``slabs`` gets those on the device.
        """
        discrete = self._accelerator.capabilities.discrete
        on_device = home is Home.DEVICE and discrete
        if home is Home.HOST and not discrete:
            yield from unread.map_files()
        rest = {key: tensor for key, tensor in unread.weights.items() if key not in unread.places}
        sizes = {key: tensor.numel() * tensor.dtype.itemsize for key, tensor in rest.items()}
        slab = None
        if not unread.apart or home is not Home.HOST:
            size = sum(align(length) for length in sizes.values())
            slab = self._slab(size, home, on_device=on_device)
        if slab is not None and on_device:
            slabs.append(slab)
        offset = 0
        for memory, weight in rest.items():
            if slab is None:
                flat = torch.empty(weight.numel(), dtype=weight.dtype)
            else:
                flat = slab[offset : offset + sizes[memory]].view(weight.dtype)
            offset += align(sizes[memory])
            unread.places[memory] = flat
            yield _Target(weight.stored, weight.casts, flat, on_device, is_mapped=False)

    def _slab(self, size: int, home: Home, *, on_device: bool) -> Tensor:
        if on_device:
            return self._accelerator.allocate(torch.empty(size, dtype=torch.uint8, device="meta"))
        if home is Home.LOCKED and size:
            return PinnedBuffer(size, self._accelerator).bytes(0, size)
        return torch.empty(size, dtype=torch.uint8)

    def _fill(self, targets: Sequence[_Target], on_bytes: OnBytes | None) -> int:
        work = _Work(_pieces(targets), sum(target.stored.size for target in targets), on_bytes)
        if not work.size:
            return 0
        while len(self._buffers) < THREADS:
            self._buffers.append(_Buffer(self._accelerator))
        with ThreadPoolExecutor(THREADS, thread_name_prefix="reader") as threads:
            running = [threads.submit(self._read, work, buffer) for buffer in self._buffers]
        for future in running:
            future.result()
        return work.size

    def _read(self, work: _Work, buffer: _Buffer) -> None:
        with torch.no_grad():
            while (piece := work.next()) is not None:
                try:
                    self._read_piece(piece, buffer)
                    work.add(sum(part.size for part in piece.parts))
                except BaseException:
                    work.stop()
                    raise

    def _read_piece(self, piece: _Piece, buffer: _Buffer) -> None:
        file, size = piece.file, piece.size
        if piece.is_mapped:
            if not file.is_cached(piece.begin, size):
                file.read(piece.begin, buffer.memory(size))
            return
        direct = file.is_direct(piece.begin, size)
        if not direct and all(portion.target.is_plain for portion in piece.parts):
            for part in piece.parts:
                file.read(part.begin, writable(part.there.view(torch.uint8)))
            return
        if direct:
            file.read_direct(piece.begin, buffer.memory(-(-size // BLOCK) * BLOCK))
        else:
            file.read(piece.begin, buffer.memory(size))
        stream = self._accelerator.stream(STREAM)
        discrete = self._accelerator.capabilities.discrete
        with stream.active() if discrete else nullcontext():
            for part in piece.parts:
                here = buffer.bytes(part.begin - piece.begin, part.size)
                if (blocks := part.target.stored.blocks) is not None:
                    self._dequantize(here, part, blocks)
                elif part.target.on_device:
                    self._send(here, part)
                else:
                    _put(here, part)
            if discrete:
                buffer.read = stream.record()

    def _dequantize(self, here: Tensor, part: _Part, blocks: GgufType) -> None:
        """Copy the values of blocks in a buffer to their place, and cast them."""
        target, there = part.target, part.there
        for at, values in dequantize(here, blocks):
            cast, place = cast_by(target.casts, values), there[at : at + len(values)]
            if target.on_device:
                self._accelerator.copy(self._accelerator.to_device(cast), place)
            else:
                place.copy_(cast)

    def _send(self, here: Tensor, part: _Part) -> None:
        """Copy bytes of a buffer to their place on the device, and cast them there."""
        accelerator, target = self._accelerator, part.target
        if not target.casts:
            accelerator.copy(here, part.there.view(torch.uint8))
            return
        there = accelerator.allocate(torch.empty_like(here, device="meta"))
        accelerator.copy(here, there)
        values = there.view(target.stored.dtype)
        for dtype in target.casts[:-1]:
            cast = accelerator.allocate(torch.empty_like(values, dtype=dtype, device="meta"))
            accelerator.copy(values, cast)
            values = cast
        accelerator.copy(values, part.there)


def _put(here: Tensor, part: _Part) -> None:
    """Copy bytes of a buffer to their place in host memory, and cast them."""
    dtype = part.target.stored.dtype
    if here.data_ptr() % dtype.itemsize:  # old files have headers of any length
        here = here.clone()
    part.there.copy_(cast_by(part.target.casts[:-1], here.view(dtype)))


class _Work:
    """Pieces to read, for several threads."""

    def __init__(self, pieces: Iterable[_Piece], size: int, on_bytes: OnBytes | None) -> None:
        self.size = size
        self._pieces = iter(pieces)
        self._on_bytes = on_bytes
        self._done = 0
        self._lock = threading.Lock()

    def next(self) -> _Piece | None:
        with self._lock:
            return next(self._pieces, None)

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._on_bytes is not None:
                self._on_bytes(self._done, self.size)

    def stop(self) -> None:
        with self._lock:
            self._pieces = iter(())


def _pieces(targets: Iterable[_Target]) -> Iterator[_Piece]:
    """Divide the files into pieces, in their order; parts that nothing needs are left out."""
    by_file = defaultdict[tuple[WeightFile, bool], list[_Target]](list)
    for target in targets:
        by_file[target.stored.file, target.is_mapped].append(target)
    for (file, _), its in by_file.items():
        parts, current = list[_Part](), 0
        for part in _parts(sorted(its, key=lambda entry: entry.stored.begin)):
            if parts and part.begin // PIECE_BYTES != current:
                yield _Piece(file, parts)
                parts = []
            current = part.begin // PIECE_BYTES
            parts.append(part)
        if parts:
            yield _Piece(file, parts)


def _parts(targets: Iterable[_Target]) -> Iterator[_Part]:
    """Divide tensors where a piece of their file ends, or after the unit that is there."""
    for target in targets:
        stored, first = target.stored, 0
        _, width = stored.unit
        total = stored.size // width
        while first < total:
            number = (stored.begin + first * width) // PIECE_BYTES
            next_first = -(-((number + 1) * PIECE_BYTES - stored.begin) // width)
            count = min(total, next_first) - first
            yield _Part(target, first, count)
            first += count


class _Found:
    """The ``UnreadWeight``s of a module, by their memory: tied weights are one."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.apart = isinstance(module, AutoencoderKL)
        """Each weight has memory of its own: a CPU wants another layout of some of them, and the
        rest of a slab would stay."""
        self.weights: dict[object, UnreadWeight] = {}
        self.places: dict[object, Tensor] = {}
        self._uses: list[tuple[dict[str, Any], str, UnreadWeight]] = []
        for submodule in module.modules():
            for tensors in (submodule._parameters, submodule._buffers):  # noqa: SLF001
                for name, tensor in tensors.items():
                    if isinstance(tensor, UnreadWeight):
                        self.weights.setdefault(tensor.memory, tensor)
                        self._uses.append((tensors, name, tensor))

    def map_files(self) -> Iterator[_Target]:
        """Let weights be the memory of their files, of those from which nothing is cast."""
        by_file = defaultdict[WeightFile, dict[object, UnreadWeight]](dict)
        for memory, weight in self.weights.items():
            by_file[weight.stored.file][memory] = weight
        for file, its in by_file.items():
            if any(entry.casts for entry in its.values()):
                continue
            mapped = {memory: file.mmap_values(entry.stored) for memory, entry in its.items()}
            flats = {memory: view for memory, view in mapped.items() if view is not None}
            if len(flats) < len(its):
                continue
            self.places |= flats
            for memory, flat in flats.items():
                yield _Target(its[memory].stored, (), flat, on_device=False, is_mapped=True)

    def replace(self) -> None:
        """Put tensors with values into the module."""
        read = dict[int, Tensor]()  # by the tensor that they replace
        for tensors, name, weight in self._uses:
            if id(weight) not in read:
                read[id(weight)] = _with_values(weight, self.places[weight.memory])
            tensors[name] = read[id(weight)]


def _with_values(weight: UnreadWeight, flat: Tensor) -> Tensor:
    values = flat.view(weight.shape)
    if isinstance(weight, torch.nn.Parameter):
        values = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
    for name, value in vars(weight).items():
        if name not in _OWN:
            setattr(values, name, value)
    return values


_OWN = ("stored", "casts", "memory", "_is_param")
