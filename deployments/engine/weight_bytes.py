"""How much memory weights take, and how much they may."""

from __future__ import annotations

from collections.abc import Iterable

import psutil
import torch

_OF_GPU = 0.85  # the rest is for what computing takes
_OF_HOST = 0.5


def bytes_of(modules: Iterable[torch.nn.Module]) -> int:
    """Of all their weights; what two of them share counts once."""
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
