"""GPUs of this machine, as far as they can be known without torch: importing it takes seconds, and
its driver's state stays in the process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from serve_app.diagnosis.checks import has_gpu, torch_problem
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config

DRIVER = Path("/proc/driver/nvidia")  # of the kernel's driver; absent in Windows' subsystem
PACKAGES = ("torch", "diffusers")


def check_gpus(config: Config) -> None:
    """Raise ``Misconfigured`` if there is a GPU for real weights, and torch cannot use it.

    A machine without any is no error: `gpus` may be set to try out a cluster.
    """
    if config.models.serves_demo or not config.models.gpus:
        return
    if has_gpu() and (problem := torch_problem()):
        raise Misconfigured(
            f"{problem} Or serve the demo models without it: `darkroom serve --demo`."
        )


def machines() -> frozenset[tuple[str, ...]]:
    """What measurements of `darkroom tune` depend on, for each kind of GPU: its name, its driver,
    and the versions of torch and diffusers. Empty if that cannot be known without torch."""
    try:
        driver = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", (DRIVER / "version").read_text())
        packages = [version(package) for package in PACKAGES]
    except (OSError, PackageNotFoundError):
        return frozenset()
    facts = (driver[0] if driver else "", *packages)
    return frozenset((name, *facts) for name in _names())


def _names() -> Iterator[str]:
    for file in sorted(DRIVER.glob("gpus/*/information")):
        if model_line := re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE):
            yield model_line[1]


def tuned_machines(file: Path) -> frozenset[tuple[str, ...]]:
    """Machines that the file of `darkroom tune` has measurements of, as ``machines`` has them."""
    try:
        content: Any = json.loads(file.read_bytes())
        machine_facts = [tuning["machine"] for tuning in content["tunings"]]
        names = ("device", "driver", *PACKAGES)
        return frozenset(tuple(str(machine[name]) for name in names) for machine in machine_facts)
    except (OSError, ValueError, KeyError, TypeError):  # replicas say what is wrong with it
        return frozenset()
