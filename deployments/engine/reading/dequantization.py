"""Values of tensors that a GGUF file has in blocks, with the formulas of the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from serve_app.domain.gguf import GgufType

STEP = 2**20  # values at a time; 2**16 to 2**22 were about as fast


def dequantize(stored: Tensor, kind: GgufType) -> Iterator[tuple[int, Tensor]]:
    """Values of whole blocks, in steps: the place of the first one, and the values.

    ``stored``: bytes [n], in host memory. Values: float32 [m], in host memory.
    """
    from gguf import GGMLQuantizationType, quants  # noqa: PLC0415  it imports much besides

    blocks = STEP // kind.values
    for at, part in enumerate(stored.split(blocks * kind.size)):
        with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite, as in any file
            values = quants.dequantize(part.numpy(), GGMLQuantizationType[kind.name])
        yield at * STEP, torch.from_numpy(values)
