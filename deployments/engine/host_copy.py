"""From the device to the host, without the engine's thread waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HostCopy:
    tensor: Tensor  # on the CPU; complete when ``ready`` returns
    ready: Callable[[], object]


def host_copy(tensor: Tensor) -> HostCopy:
    """What is on the CPU already is given as it is."""
    if tensor.device.type != "cuda":
        return HostCopy(tensor, lambda: None)
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return HostCopy(copy, copied.synchronize)
