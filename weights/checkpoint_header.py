"""Headers of single-file checkpoints: safetensors or GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from serve_app.domain import gguf
from serve_app.domain.checkpoint import check_format
from serve_app.domain.gguf import GgufTensor
from serve_app.domain.safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    TensorFacts,
    read_safetensors,
)

Tensors = Mapping[str, TensorFacts] | Mapping[str, GgufTensor]
"""Types and sizes of tensors by name."""


def read_tensors(path: Path, name: str) -> Tensors:
    """Tensors of the file that users call ``name``. Raises the errors of ``parse_tensors``."""
    with path.open("rb") as file:
        return parse_tensors(file, name, path.stat().st_size)


def parse_tensors(file: BinaryIO, name: str, size: int) -> Tensors:
    """Tensors of a file of ``size`` bytes, of which ``file`` has at least the header.

    ``WeightsUnavailable``, with the reason, if it is of another format, or not whole and consistent
    within the limits.
    """
    begin = file.read(LENGTH_BYTES)
    file.seek(0)
    if begin.startswith(gguf.MAGIC):
        return gguf.read_gguf(file, name, size)
    check_format(name, begin)
    return read_safetensors(file, name, size).tensors


def header_bytes(begin: bytes) -> int:
    """Bytes with which a header ends at the latest; ``begin``: the first ``LENGTH_BYTES``."""
    if begin.startswith(gguf.MAGIC):
        return gguf.MAX_HEADER_BYTES
    return LENGTH_BYTES + min(int.from_bytes(begin, "little"), MAX_HEADER_BYTES)
