"""Headers of GGUF files, parsed within limits and without reading a tensor.

Format: magic, version, numbers of tensors and of metadata, the metadata, a record of each tensor,
then the tensors, aligned. All numbers are little-endian. Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from serve_app.domain.errors import WeightsUnavailable

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 25 * 10**6  # vocabularies of language models take most of theirs
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_NAME = 500  # characters
ALIGNMENT = 32  # bytes, where the metadata does not say another

_VERSIONS = (2, 3)  # they differ in the big-endian files of 3, which are refused
_SHAPE = "comfy.gguf.orig_shape."
"""Beginning of the key with the shape of a tensor that was stored in rows of another length."""


@dataclass(frozen=True, slots=True)
class GgufType:
    """Form in which a tensor is stored: blocks of ``values`` in ``size`` bytes."""

    name: str
    values: int
    size: int

    @property
    def is_quantized(self) -> bool:
        return self.values > 1


TYPES: Mapping[int, GgufType] = {
    number: GgufType(*fields)
    for number, fields in {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 28: ("F64", 1, 8), 30: ("BF16", 1, 2),
        24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
        2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
        16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
        34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
    }.items()
}  # fmt: skip
"""Types that are read, by their numbers in a file."""

QUANTIZED = tuple(tensor_type.name for tensor_type in TYPES.values() if tensor_type.is_quantized)

_TEXT, _LIST = 8, 9
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of metadata, as ``struct`` names them."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Place, type and shape of a stored tensor."""

    kind: GgufType
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the file

    @property
    def dtype(self) -> str:
        return self.kind.name

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) // self.kind.values * self.kind.size


def read_gguf(file: BinaryIO, name: str, size: int) -> Mapping[str, GgufTensor]:
    """Tensors of a file of ``size`` bytes, of which ``file`` has at least the header.

    ``WeightsUnavailable``, with ``name``, if the file is not whole and consistent, or not within
    the limits.
    """
    header = _Reader(file, name, size)
    version = header.numbers("4xI")[0]
    if version not in _VERSIONS:
        raise header.wrong(f"its version is {version}; 2 and 3 are read")
    tensors, entries = header.numbers("QQ")
    if not 0 < tensors <= MAX_TENSORS:
        raise header.wrong(f"it has {tensors} tensors; 1 to {MAX_TENSORS} are allowed")
    alignment, shapes = ALIGNMENT, dict[str, Any]()
    for _ in range(entries):  # each takes bytes, so their number is bounded too
        key, value = header.text(), _value(header)
        if key == "general.alignment":
            alignment = value
        elif key.startswith(_SHAPE):
            shapes[key.removeprefix(_SHAPE)] = value
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise header.wrong("its alignment is no power of two")
    records = [_record(header) for _ in range(tensors)]
    begin = -(-header.at // alignment) * alignment
    by_name: dict[str, GgufTensor] = {}
    for own, kind, shape, offset in records:
        if own in by_name:
            raise header.wrong(f"{own!r} is there twice")
        if offset % alignment:
            raise header.wrong(f"{own!r} is not aligned to {alignment} bytes")
        original = _original(header, own, shape, shapes[own]) if own in shapes else shape
        by_name[own] = GgufTensor(kind, original, begin + offset)
    _check_places(header, by_name, size)
    return by_name


def _record(header: _Reader) -> tuple[str, GgufType, tuple[int, ...], int]:
    """Name, type, shape and offset of a tensor."""
    name, (dimensions,) = header.text(), header.numbers("I")
    if len(name) > MAX_NAME:
        raise header.wrong(f"the name of a tensor has more than {MAX_NAME} characters")
    if dimensions > MAX_DIMENSIONS:
        raise header.wrong(f"{name!r} has {dimensions} dimensions; {MAX_DIMENSIONS} are allowed")
    shape = header.numbers(f"{dimensions}Q")[::-1]  # the file has the fastest one first
    number, offset = header.numbers("IQ")
    if (kind := TYPES.get(number)) is None:
        raise header.wrong(f"{name!r} has the type {number}, which is not read", again=False)
    if not all(0 < length < 2**63 for length in shape) or (shape[-1] if shape else 1) % kind.values:
        raise header.wrong(f"{name!r} has the shape {shape}, which {kind.name} cannot have")
    return name, kind, shape, offset


def _original(header: _Reader, name: str, shape: Sequence[int], original: Any) -> tuple[int, ...]:
    """Shape of a tensor before it was stored as one of ``shape``."""
    if (
        not isinstance(original, tuple)
        or not all(type(length) is int and length > 0 for length in original)
        or math.prod(original) != math.prod(shape)
    ):
        raise header.wrong(f"{name!r} has another number of values than its original shape")
    return original


def _value(header: _Reader) -> Any:
    """Metadata: a text, a number, or a few numbers. None for other lists, which are not kept."""
    (kind,) = header.numbers("I")
    if kind == _TEXT:
        return header.text()
    if kind in _NUMBERS:
        return header.numbers(_NUMBERS[kind])[0]
    if kind != _LIST:
        raise header.wrong(f"its metadata has the unknown type {kind}")
    of, count = header.numbers("IQ")
    if of == _TEXT:
        for _ in range(count):
            header.take(*header.numbers("Q"))
        return None
    if of not in _NUMBERS:
        raise header.wrong(f"its metadata has a list of the type {of}")
    if count <= MAX_DIMENSIONS:
        return header.numbers(f"{count}{_NUMBERS[of]}")
    header.take(count * struct.calcsize(_NUMBERS[of]))
    return None


def _check_places(header: _Reader, tensors: Mapping[str, GgufTensor], size: int) -> None:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda it: it[1].begin):
        if tensor.begin < at:
            raise header.wrong(f"{name!r} overlaps another tensor")
        at = tensor.begin + tensor.size
        if at > size:
            raise header.wrong(f"{name!r} ends at byte {at}, but it has {size}")


class _Reader:
    """What follows in a header, within its bounds."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.at = 0
        self._file = file
        self._name = name
        self._size = size

    def take(self, count: int) -> bytes:
        if self.at + count > min(self._size, MAX_HEADER_BYTES):
            if self._size > MAX_HEADER_BYTES:
                raise self.wrong(f"its header has more than {MAX_HEADER_BYTES} bytes")
            raise self.wrong("its header is cut off")
        taken = self._file.read(count)
        if len(taken) < count:
            raise self.wrong("its header is cut off")
        self.at += count
        return taken

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def text(self) -> str:
        try:
            return self.take(*self.numbers("Q")).decode()
        except UnicodeDecodeError:
            raise self.wrong("a name in its header is not UTF-8") from None

    def wrong(self, why: str, *, again: bool = True) -> WeightsUnavailable:
        advice = " Download it again." if again else ""
        return WeightsUnavailable(f"{self._name} cannot be loaded: {why}.{advice}")
