"""What pipelines return, as arrays that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image


def tensors_of(output: Any) -> list[torch.Tensor]:
    """All arrays and images in a pipeline's output, in its order."""
    match output:
        case torch.Tensor():
            return [output.detach()]
        case np.ndarray():
            return [torch.from_numpy(output)]
        case Image.Image():
            return [torch.from_numpy(np.asarray(output).copy())]
        case Mapping():
            return [tensor for value in output.values() for tensor in tensors_of(value)]
        case list() | tuple():
            return [tensor for value in output for tensor in tensors_of(value)]
        case _:
            return []


def same_bits(one: Any, other: Any) -> bool:
    """False when there is nothing to compare."""
    pairs = _pairs(one, other)
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def difference(one: Any, other: Any) -> float:
    """The largest, relative to the range of ``other``; infinite where the shapes differ or a value
    is no number."""
    pairs = _pairs(one, other)
    if not pairs:
        return float("inf")
    return max(_relative(a.to(torch.float64), b.to(torch.float64)) for a, b in pairs)


def _pairs(one: Any, other: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ours, theirs = tensors_of(one), tensors_of(other)
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return []
    return list(zip(ours, theirs, strict=True))


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    span = float(b.max() - b.min()) or 1.0
    return float((a - b).abs().max()) / span
