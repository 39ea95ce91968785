"""How much memory weights will take, by the headers of their files: before any is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from serve_app.domain.errors import WeightsUnavailable
from weights.selection import select

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes, by safetensors' names
_LOADED = {"float32": 4, "float16": 2, "bfloat16": 2}


def bytes_to_load(folder: Path, variant: str | None, dtype: str) -> int:
    """Of the pipeline in ``folder``, loaded in ``dtype``. 0 where the files do not say: whoever
    loads them says why."""
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
        names = [each.relative_to(folder).as_posix() for each in folder.rglob("*")]
        files = [each for each in select(names, index, variant, str(folder)) if _has_weights(each)]
        return sum(_bytes_in(folder / each, _LOADED.get(dtype, 0)) for each in files)
    except (OSError, ValueError, KeyError, TypeError, WeightsUnavailable):
        return 0


def _has_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _bytes_in(file: Path, loaded: int) -> int:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file} is cut short.")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return sum(_bytes_of(each, loaded) for each in header.values())


def _bytes_of(tensor: dict[str, Any], loaded: int) -> int:
    begin, end = tensor["data_offsets"]
    if loaded and tensor["dtype"] in _FLOATS:
        return math.prod(tensor["shape"]) * loaded
    return end - begin
