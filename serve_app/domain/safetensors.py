"""Headers of safetensors files, parsed within limits and without reading a tensor.

Format: 8 bytes of length, that many bytes of JSON, then the tensors without gaps. A file comes from
a hub or a user, so nothing in its header is believed before it was checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from serve_app.domain.errors import WeightsUnavailable

LENGTH_BYTES = 8  # at the start: the size of the JSON that follows
MAX_HEADER_BYTES = 25 * 10**6
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_NAME = 500  # characters

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of a value by its type. Other types are refused."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Type, shape and place of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = field(default=0, compare=False)  # bytes from the beginning of the file

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * BITS[self.dtype] // 8

    def __str__(self) -> str:
        return f"{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """Tensors of a file by name, and what the file says of itself."""

    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str]


def read_header(path: Path, name: str) -> SafetensorsHeader:
    """Header of the file that users call ``name``. Raises the errors of ``read_safetensors``."""
    with path.open("rb") as file:
        return read_safetensors(file, name, path.stat().st_size)


def read_safetensors(
    file: BinaryIO, name: str, size: int, *, may_be_empty: bool = False
) -> SafetensorsHeader:
    """Header of a file of ``size`` bytes, of which ``file`` has at least the header.

    ``WeightsUnavailable``, with ``name``, if the file is not whole and consistent, or not within
    the limits. ``may_be_empty``: a component of a pipeline without any tensor is saved as such.
    """
    try:
        text = _json_part(file, size)
        metadata, entries = _entries(text, may_be_empty=may_be_empty)
        begin = LENGTH_BYTES + len(text)
        tensors = {own: _tensor(own, entry, begin) for own, entry in entries.items()}
        _check_places(tensors.items(), begin, size)
    except _Wrong as wrong:
        raise WeightsUnavailable(f"{name} cannot be loaded: {wrong}.") from None
    return SafetensorsHeader(tensors, metadata)


class _Wrong(Exception):
    """What is wrong with a file, and what to do."""


def _json_part(file: BinaryIO, size: int) -> bytes:
    start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > size - LENGTH_BYTES or file.read(1) != b"{":
        raise _Wrong(
            "it is not a safetensors file, or it is cut off. Download it again. Pickle files can "
            "run code and are never loaded: save the weights as safetensors"
        )
    if length > MAX_HEADER_BYTES:
        raise _Wrong(f"its header has {length} bytes; {MAX_HEADER_BYTES} are allowed")
    return b"{" + file.read(length - 1)


def _entries(text: bytes, *, may_be_empty: bool) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Metadata and the entries of tensors."""
    try:
        # It begins with a brace, so it is an object.
        entries: dict[str, Any] = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"its header is not JSON ({error}). Download it again") from None
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Wrong("its `__metadata__` is not a map of texts")
    if not entries and not may_be_empty:
        raise _Wrong("it has no tensors")
    if len(entries) > MAX_TENSORS:
        raise _Wrong(f"it has {len(entries)} tensors; {MAX_TENSORS} are allowed")
    return cast("dict[str, str]", metadata), entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is there twice")
    return members


def _tensor(name: str, entry: Any, data: int) -> TensorFacts:
    """``data``: bytes from the beginning of the file to the first tensor."""
    if len(name) > MAX_NAME:
        raise _Wrong(f"the name of a tensor has more than {MAX_NAME} characters")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise _Wrong(f"the entry of {name!r} lacks its type, shape or place")
    if dtype not in BITS:
        raise _Wrong(f"{name!r} has the type {dtype[:20]!r}; known are {', '.join(BITS)}")
    numbers: list[Any] = [*shape, begin, end]
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise _Wrong(f"{name!r} has an impossible shape or place")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _Wrong(f"{name!r} has {end - begin} bytes, which its shape {shape} does not take")
    return TensorFacts(dtype, tuple(shape), data + begin)


def _check_places(tensors: Iterable[tuple[str, TensorFacts]], data: int, size: int) -> None:
    at = data
    for name, tensor in sorted(tensors, key=lambda it: (it[1].begin, it[1].size)):
        if tensor.begin != at:
            what = "overlaps another tensor" if tensor.begin < at else "leaves a gap before it"
            raise _Wrong(f"{name!r} {what}. Download it again")
        at += tensor.size
    if at != size:
        raise _Wrong(
            f"its tensors take {at - data} bytes, and {size - data} follow the header. "
            "Download it again"
        )
