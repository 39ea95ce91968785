"""How much memory the GPUs of this machine have, without torch."""

from __future__ import annotations

import shutil
import subprocess

NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
PATIENCE_S = 10.0  # without its persistence daemon the driver takes seconds to wake
MIB = 2**20


def least_memory_bytes() -> int | None:
    """Of the smallest GPU, because any of them may be the one that a replica gets; None: there is
    none, or NVIDIA's tool is not here to say so."""
    tool = shutil.which(NVIDIA_SMI)
    if tool is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603 found on the path, with constant arguments
            [tool, *QUERY], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return smallest(asked.stdout)


def smallest(listing: str) -> int | None:
    """Bytes, of a listing with a line of MiB for each GPU."""
    sizes = [int(line) for line in listing.split("\n") if line.strip().isdecimal()]
    return min(sizes) * MIB if sizes else None
