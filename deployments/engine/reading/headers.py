"""Files of weights: where each tensor is, before any of them is read."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from deployments.engine.reading.dequantization import dequantize
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.gguf import MAGIC, GgufType, read_gguf
from serve_app.domain.safetensors import TensorFacts, read_safetensors

BLOCK = 4096  # bytes; reads past the page cache begin and end at multiples

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """Tensor in a file."""

    file: WeightFile
    begin: int  # bytes from the beginning of the file
    size: int  # bytes
    dtype: torch.dtype  # of its values
    shape: tuple[int, ...]
    blocks: GgufType | None = None  # in which its values are quantized

    @property
    def unit(self) -> tuple[int, int]:
        """Values and bytes of the smallest part that can be read."""
        if self.blocks is None:
            return 1, self.dtype.itemsize
        return self.blocks.values, self.blocks.size

    @property
    def has_whole_rows(self) -> bool:
        """Each row along the first dimension can be read alone."""
        rows = max(self.shape[0], 1) if self.shape else 1
        return self.size % (rows * self.unit[1]) == 0

    @property
    def type_name(self) -> str:
        return NAMES[self.dtype] if self.blocks is None else self.blocks.name


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a file of weights."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]


class WeightFile:
    """Opened file of weights. It can be read after it was deleted, and is closed when unused."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ``WeightsUnavailable``."""
        self.path = path
        self.needed_by = ""  # operation that needed values before they were read
        self.gives_values = False  # to such operations, instead of refusing them
        self._direct: int | None = None
        self._mapping: mmap.mmap | None = None
        try:
            self._cached = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise WeightsUnavailable(f"{path} cannot be loaded: {error.strerror}.") from error
        self.bytes = os.fstat(self._cached).st_size
        if hasattr(os, "O_DIRECT"):  # not on macOS
            with contextlib.suppress(OSError):  # not on every file system
                self._direct = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def __del__(self) -> None:
        for opened in (getattr(self, "_cached", None), getattr(self, "_direct", None)):
            if opened is not None:
                os.close(opened)

    def is_direct(self, offset: int, size: int) -> bool:
        """Return whether to read this part past the page cache, which may not have it."""
        return self._direct is not None and not self.is_cached(offset, size)

    def mmap_values(self, stored: StoredTensor) -> torch.Tensor | None:
        """Return the values of a tensor of this file, flat, as memory that is the page cache's.

        Processes that map a file share its memory. What one writes to it, it has for itself. None
        if the values are in blocks or not aligned, or the system maps no such file.
        """
        if not stored.size:
            return torch.empty(0, dtype=stored.dtype)
        if stored.blocks is not None or stored.begin % stored.dtype.itemsize:
            return None
        if self._mapping is None:
            try:
                self._mapping = mmap.mmap(self._cached, self.bytes, access=mmap.ACCESS_COPY)
            except (OSError, ValueError):  # such as of some file systems, or when it is shorter now
                return None
        count = stored.size // stored.dtype.itemsize
        return torch.frombuffer(self._mapping, dtype=stored.dtype, count=count, offset=stored.begin)

    def values(self, stored: StoredTensor) -> torch.Tensor:
        """Return the values of a tensor of this file, flat, in host memory."""
        if (mapped := self.mmap_values(stored)) is not None:
            return mapped
        read = torch.empty(stored.size, dtype=torch.uint8)
        self.read(stored.begin, writable(read))
        if stored.blocks is not None:
            return torch.cat([values for _, values in dequantize(read, stored.blocks)])
        return read.view(stored.dtype)

    def is_cached(self, offset: int, size: int) -> bool:
        """Return whether the page cache has the first and the last byte of this part."""
        last = max(offset, min(offset + size, self.bytes) - 1)
        return self._is_cached(offset) and self._is_cached(last)

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` through the page cache. Raises ``WeightsUnavailable``."""
        self._read(self._cached, offset, buffer, len(buffer))

    def read_direct(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` past the page cache, up to the end of the file.

        ``offset`` and the length and address of ``buffer`` are multiples of ``BLOCK``. Raises
        ``WeightsUnavailable``.
        """
        needed = min(len(buffer), self.bytes - offset)
        try:
            if self._direct is not None:
                self._read(self._direct, offset, buffer, needed)
                return
        except OSError as error:  # some file systems open such files and refuse the reads
            if error.errno != errno.EINVAL:
                raise
        self.read(offset, buffer[:needed])

    def _read(self, opened: int, offset: int, buffer: memoryview, needed: int) -> None:
        done = 0
        while done < needed:
            try:
                count = os.preadv(opened, [buffer[done:]], offset + done)
            except OSError as error:
                if error.errno == errno.EINVAL and opened == self._direct:
                    raise
                raise WeightsUnavailable(
                    f"{self.path} cannot be loaded: {error.strerror}."
                ) from error
            done += count
            at_end = count == 0 or (opened == self._direct and count % BLOCK > 0)
            if at_end and done < needed:
                raise WeightsUnavailable(f"{self.path} became shorter while it was read.")

    def _is_cached(self, offset: int) -> bool:
        try:
            return os.preadv(self._cached, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except (OSError, AttributeError):  # EAGAIN: not in the page cache; AttributeError: macOS
            return False

    def header(self) -> Header:
        """Read and check the header.

        Raises ``WeightsUnavailable`` if it is wrong, and ``UnknownDtype`` for a dtype that this
        module does not know.
        """
        with open(self._cached, "rb", closefd=False) as file:
            file.seek(0)
            if file.peek(len(MAGIC)).startswith(MAGIC):
                return self._header_of_gguf(file)
            header = read_safetensors(file, str(self.path), self.bytes, may_be_empty=True)
        tensors = {name: self._tensor(facts) for name, facts in header.tensors.items()}
        return Header(header.metadata, tensors)

    def _header_of_gguf(self, file: BinaryIO) -> Header:
        gguf_tensors = read_gguf(file, str(self.path), self.bytes)
        tensors = {
            name: StoredTensor(
                self,
                tensor.begin,
                tensor.size,
                DTYPES.get(tensor.dtype, torch.float32),
                tensor.shape,
                tensor.kind if tensor.kind.is_quantized else None,
            )
            for name, tensor in gguf_tensors.items()
        }
        return Header({}, tensors)

    def _tensor(self, facts: TensorFacts) -> StoredTensor:
        if (dtype := DTYPES.get(facts.dtype)) is None:
            raise UnknownDtype(f"{self.path} has the dtype {facts.dtype}, which is unknown.")
        return StoredTensor(self, facts.begin, facts.size, dtype, facts.shape)


def writable(memory: torch.Tensor) -> memoryview:
    """Bytes of a tensor in host memory, to read to."""
    return memoryview(cast("Any", memory.numpy()))


class UnknownDtype(Exception):
    """A file has a dtype that its reader does not know."""
