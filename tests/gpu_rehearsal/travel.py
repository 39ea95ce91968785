"""What travels to the GPU machine: the tracked files of HEAD, and wheels."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]

MIB = 2**20

TRAVELS_BYTES = 64 * MIB
"""Limit of the machine's lender for the tree and the wheels together."""

WHEELS_BYTES = 8 * MIB
"""Room for wheels: those of diffusers and greenlet have 6.7 MiB, and a new release may grow."""

TREE_BYTES = TRAVELS_BYTES - WHEELS_BYTES
"""Limit of the archive, which has 48 MiB."""

DEMO_BYTES = 32 * MIB
"""Limit of the demo models, two thirds of the archive with 30.9 MiB. A new model does not fit: it
must be left out of what travels, or another one become smaller, before this is raised."""

DEMO = PurePosixPath("deployments/demo")

CARRIED = "diffusers", "greenlet"
"""Packages that the machine lacks."""

TARGET = ("--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


@dataclass(frozen=True)
class Archive:
    """Tracked files of a commit, as ``git archive`` packs them."""

    tar: bytes

    @cached_property
    def sizes(self) -> dict[PurePosixPath, int]:
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
            return {PurePosixPath(member.name): member.size for member in tar if member.isfile()}

    def bytes_under(self, folder: PurePosixPath) -> int:
        return sum(size for path, size in self.sizes.items() if folder in path.parents)

    def largest_folders(self, number: int = 8) -> list[tuple[str, int]]:
        """Folders of the second level with the most bytes."""
        sizes = Counter[str]()
        for path, size in self.sizes.items():
            sizes["/".join(path.parts[:-1][:2]) or "."] += size
        return sizes.most_common(number)

    def unpack(self, folder: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
            tar.extractall(folder, filter="data")


def archive_of_head(root: Path = ROOT) -> Archive:
    done = subprocess.run(
        ["git", "-C", root, "archive", "HEAD"], check=True, stdout=subprocess.PIPE
    )
    return Archive(done.stdout)


def size_problems(tree: int, wheels: int, largest: Iterable[tuple[str, int]]) -> list[str]:
    """A sentence if the tree and the wheels are too much together."""
    if tree + wheels <= TRAVELS_BYTES:
        return []
    folders = ", ".join(f"{name} {size:,}" for name, size in largest)
    sizes = f"The tree and the wheels have {tree + wheels:,} bytes, and {TRAVELS_BYTES:,} travel."
    return [f"{sizes} The largest folders: {folders}."]


def find_pin(constraints: str, name: str) -> str:
    """``NAME==VERSION`` of a file of constraints."""
    match = re.search(rf"^{re.escape(name)}==\S+", constraints, re.M)
    if match is None:
        raise SystemExit(f"constraints.txt has no version of {name}.")
    return match[0]


def download_wheels(python: Path, constraints: str, folder: Path) -> list[Path]:
    """Wheels of the carried packages for the GPU machine's Python, by the pip of ``python``."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", f"{platform}_x86_64")]
    command = [python, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    command += ["--no-deps", *TARGET, *platforms, "--dest", folder]
    command += [find_pin(constraints, name) for name in CARRIED]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("The wheels could not be downloaded. See pip's message above.")
    return sorted(folder.glob("*.whl"))
