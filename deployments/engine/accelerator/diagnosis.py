"""Why torch cannot use a GPU of this machine.

``python -m deployments.engine.accelerator.diagnosis`` prints it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")
MIN_DRIVERS = {"12": 525, "13": 580}
"""Least major version of NVIDIA's driver on Linux, by CUDA's major version (CUDA's release notes,
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""


def gpu_present() -> bool:
    """True if this machine has an NVIDIA GPU, whether torch can use it or not."""
    return any(DEVICES.glob("nvidia[0-9]*")) or (DEVICES / "dxg").exists()  # Windows' subsystem


def gpu_problem() -> str:
    """Why torch cannot use a GPU, with a remedy. Empty if it can."""
    if torch.cuda.is_available():
        return ""
    prefix = f"torch {torch.__version__} cannot use a GPU: "
    cuda = torch.version.cuda
    if cuda is None:
        return f"{prefix}it is built without CUDA. Install a build of torch for CUDA."
    least = MIN_DRIVERS.get(cuda.partition(".")[0])
    needs = f" It needs {least} or later." if least else ""
    driver = driver_version()
    if not driver:
        return (
            f"{prefix}it is built for CUDA {cuda}, and this machine has no NVIDIA driver.{needs} "
            "Start a container with its GPUs (NVIDIA's container toolkit)."
        )
    return (
        f"{prefix}it is built for CUDA {cuda}, and the driver is {driver}.{needs} Update the "
        f"driver, or see what torch says: {_torch_says()}"
    )


def driver_version() -> str:
    """Version of the kernel's driver, such as ``580.65.06``; empty if there is none."""
    try:
        match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", DRIVER.read_text())
    except OSError:
        return ""
    return match[0] if match else ""


def _torch_says() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).split("\n", 1)[0]
    return "nothing."


if __name__ == "__main__":
    print(gpu_problem())  # noqa: T201
