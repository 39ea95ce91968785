"""Choice of the device, and the one list of the kinds that there are."""

from __future__ import annotations

import torch

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.cuda import Cuda
from deployments.engine.accelerator.interface import Accelerator
from serve_app.domain.errors import Misconfigured

KINDS = ("cpu", "cuda")
"""Kinds of devices, as torch names them. Autocast modes are kept for each."""


def accelerator_for(device: str) -> Accelerator:
    """Return the device that torch calls ``device``. Raises ``Misconfigured`` for another kind."""
    match device.partition(":")[0]:
        case "cpu":
            return Cpu()
        case "cuda":
            return Cuda(device)
        case _:
            raise Misconfigured(
                f"The engine does not know the device {device!r}. Use one of {', '.join(KINDS)}."
            )


def usual_device() -> str:
    """Name of the device to compute on: a GPU if torch can use one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
