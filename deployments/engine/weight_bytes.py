"""How much memory weights take, and how much they may."""

from __future__ import annotations

from typing import Any

import psutil
import torch

_OF_GPU = 0.85  # the rest is for what computing takes
_OF_HOST = 0.5


def weight_bytes(pipeline: Any) -> int:
    """Of all its components; what two of them share counts once."""
    modules = [each for each in vars(pipeline).values() if isinstance(each, torch.nn.Module)]
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())


def own_budget(device: str) -> int:
    """What a replica keeps loaded unless it is told."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1] * _OF_GPU)
    return int(psutil.virtual_memory().total * _OF_HOST)
