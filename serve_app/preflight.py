"""Looks at this machine, its store of weights, and the hub, for pre-flight answers. All block."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.preflight import Download, MachineFacts
from serve_app.settings import Config

if TYPE_CHECKING:
    from weights.store import Store

HUB_CALL_S = 4.0
"""Timeout of a call to the hub whose answer somebody waits for."""

NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
TIMEOUT_S = 10.0  # without its persistence daemon the driver takes seconds to start
MIB = 2**20


def downloads(
    config: Config, endpoints: Sequence[Endpoint], within_s: float | None = None
) -> Mapping[str, Download]:
    """Downloads of endpoints by id. The hub is asked unless the settings forbid it; what it has not
    answered after ``within_s`` is reported as unreachable."""
    # The hub's library takes a third of a second to import, and most processes never look.
    from weights.availability import look_for, needed_by  # noqa: PLC0415

    return look_for(impatient_store(config), needed_by(endpoints), within_s)[1]


def impatient_store(config: Config) -> Store:
    """Store whose calls to the hub are not repeated: somebody waits for the answer."""
    from weights.hub import Hub  # noqa: PLC0415
    from weights.store import Store  # noqa: PLC0415

    return Store(config.weights.store(), lambda: Hub(answer_s=HUB_CALL_S, tries=1))


def this_machine(config: Config) -> MachineFacts:
    """Memory and disk of this machine."""
    from weights.eviction import free_bytes  # noqa: PLC0415
    from weights.folder import default_directory  # noqa: PLC0415

    device = smallest_gpu_bytes()
    if device is None and not config.models.gpus:
        device = 0
    return MachineFacts(
        device_bytes=device,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        free_bytes=free_bytes(config.weights.weights_dir or default_directory()),
    )


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU in bytes, because a replica may get any of them.

    None if there is no GPU, or if ``nvidia-smi`` is missing or fails.
    """
    tool = shutil.which(NVIDIA_SMI)
    if tool is None:
        return None
    try:
        process = subprocess.run(  # noqa: S603 found on the path, with constant arguments
            [tool, *QUERY], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) for line in process.stdout.split("\n") if line.strip().isdecimal()]
    return min(sizes) * MIB if sizes else None
