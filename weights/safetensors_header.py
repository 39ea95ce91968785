"""Headers of safetensors files from strangers: parsed within limits, without reading a tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from serve_app.domain.errors import WeightsUnavailable

LENGTH_BYTES = 8  # at the start: the size of the JSON that follows
MAX_HEADER_BYTES = 25 * 10**6
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_NAME = 500  # characters

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of a value by its type. Other types are refused."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Type and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

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


def read_header(path: Path) -> SafetensorsHeader:
    """Header of a file. ``WeightsUnavailable``, with the reason, if the file is not a whole and
    consistent safetensors file within the limits."""
    with path.open("rb") as file:
        return parse_header(file, path.stat().st_size)


def parse_header(file: BinaryIO, size: int) -> SafetensorsHeader:
    """Header at the beginning of ``file``, whose whole size is ``size`` bytes. Raises the errors
    of ``read_header``."""
    return _parsed(_json_part(file, size), size)


def _json_part(file: BinaryIO, size: int) -> bytes:
    start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > size - LENGTH_BYTES or file.read(1) != b"{":
        raise WeightsUnavailable(
            "The file is not a safetensors file, or it is cut off. Pickle files can run code and "
            "are never loaded: save the weights as safetensors."
        )
    if length > MAX_HEADER_BYTES:
        raise _refused(f"its header has {length} bytes; {MAX_HEADER_BYTES} are allowed")
    return b"{" + file.read(length - 1)


def _parsed(text: bytes, size: int) -> SafetensorsHeader:
    try:
        given = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _refused(f"its header is not valid: {error}") from None
    if not isinstance(given, dict):
        raise _refused("its header is not a JSON object")
    entries = cast("dict[str, Any]", given)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _refused("its `__metadata__` is not a map of texts")
    if not entries:
        raise _refused("it has no tensors")
    if len(entries) > MAX_TENSORS:
        raise _refused(f"it has {len(entries)} tensors; {MAX_TENSORS} are allowed")
    tensors: dict[str, TensorFacts] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        if len(name) > MAX_NAME:
            raise _refused(f"the name of a tensor has more than {MAX_NAME} characters")
        tensors[name], begin, end = _tensor(name, entry)
        places.append((begin, end, name))
    _check_places(sorted(places), size - LENGTH_BYTES - len(text))
    return SafetensorsHeader(tensors, cast("dict[str, str]", metadata))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _tensor(name: str, entry: Any) -> tuple[TensorFacts, int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **more}:
            pass
        case _:
            raise _refused(f"the entry of {name!r} lacks its type, shape or place")
    if more:
        raise _refused(f"the entry of {name!r} has unknown keys")
    if dtype not in BITS:
        raise _refused(f"{name!r} has the type {dtype[:20]!r}; known are {', '.join(BITS)}")
    numbers: list[Any] = [*shape, begin, end]
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise _refused(f"{name!r} has an impossible shape or place")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _refused(f"{name!r} has {end - begin} bytes, which its shape {shape} does not take")
    return TensorFacts(dtype, tuple(shape)), begin, end


def _check_places(places: list[tuple[int, int, str]], size: int) -> None:
    at = 0
    for begin, end, name in places:
        if begin != at:
            what = "overlaps another tensor" if begin < at else "leaves a gap before it"
            raise _refused(f"{name!r} {what}")
        at = end
    if at != size:
        raise _refused(f"its tensors take {at} bytes, and {size} follow the header")


def _refused(why: str) -> WeightsUnavailable:
    return WeightsUnavailable(f"The safetensors file is refused: {why}.")
