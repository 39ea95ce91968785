"""GGUF files, written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants


def write_gguf(
    file: Path,
    tensors: Mapping[str, Any],
    kind: str = "F32",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Mapping[str, np.ndarray]:
    """Write tensors, those with rows that consist of blocks in ``kind`` and others in float32.

    ``tensors``: of numpy or torch. ``shapes``: of tensors that are stored as ones of another shape,
    as ComfyUI's tools note it. Returns the values that the file stands for.
    """
    quantization = GGMLQuantizationType[kind]
    stored = dict[str, tuple[np.ndarray, GGMLQuantizationType]]()
    for name, values in tensors.items():
        array = np.asarray(values, np.float32)
        fits = array.ndim > 1 and array.shape[-1] % GGML_QUANT_SIZES[quantization][0] == 0
        own = quantization if fits else GGMLQuantizationType.F32
        stored[name] = quants.quantize(array, own), own
    write_stored(file, stored, shapes)
    return {name: quants.dequantize(data, own) for name, (data, own) in stored.items()}


def write_stored(
    file: Path,
    stored: Mapping[str, tuple[np.ndarray, GGMLQuantizationType]],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write tensors as they are stored: bytes of blocks by row, or numbers."""
    writer = GGUFWriter(file, "flux")
    for name, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", [*shape])
    for name, (data, kind) in stored.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: str, rows: int, blocks: int) -> np.ndarray:
    """Rows of blocks: bytes without those that could make a scale infinite."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    return np.random.default_rng(0).integers(0, 0x3C, (rows, blocks * size), np.uint8)
