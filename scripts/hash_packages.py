#!/usr/bin/env python3
# ruff: noqa: S603 - it starts nothing but Python
"""Write requirements-image.txt: the packages of the container image, with hashes of their files.

    scripts/hash_packages.py

It resolves the project against constraints.txt in a temporary environment, then asks the package
index for the SHA-256 of each wheel that Linux can use. torch is left out, since its wheel differs
by machine, and so is what it alone brings: constraints.txt pins its version.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from pip._internal.models.index import PyPI

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "requirements-image.txt"
EXTRAS = "c2pa"  # files can be signed in the container
LEFT_OUT = {"darkroom-serve", "torch", "setuptools"}
PYTHONS = "py3", "py2.py3", "cp311", "abi3"
PLATFORMS = "any", "manylinux"

HEADER = """\
# Packages of the container image, with the SHA-256 of their files (scripts/hash_packages.py). The
# versions are those of constraints.txt.
"""


def resolve_packages() -> Iterator[tuple[str, str]]:
    """Name and version of each package that the project needs to run."""
    with tempfile.TemporaryDirectory() as folder:
        environment, report = Path(folder) / "venv", Path(folder) / "report.json"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run(
            [
                *(environment / "bin/python", "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--report", report, "--constraint"),
                *(ROOT / "constraints.txt", f"{ROOT}[{EXTRAS}]"),
            ],
            check=True,
        )
        for item in json.loads(report.read_text())["install"]:
            name = item["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
            if name not in LEFT_OUT:
                yield name, item["metadata"]["version"]


def hashes(name: str, version: str) -> list[str]:
    """SHA-256 of the wheels that a container may install; of the source, if there is no wheel."""
    answer = httpx2.get(
        f"{PyPI.simple_url}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    files: list[dict[str, Any]] = answer.raise_for_status().json()["files"]
    wheels, sources = set[str](), set[str]()
    for entry in files:
        file = str(entry["filename"])
        if file.endswith(".tar.gz") and file.removesuffix(".tar.gz").endswith(f"-{version}"):
            sources.add(entry["hashes"]["sha256"])
        elif file.endswith(".whl") and file.split("-")[1] == version:
            *_, python, abi, platform = file.removesuffix(".whl").split("-")
            if (python in PYTHONS or abi == "abi3") and platform.startswith(PLATFORMS):
                wheels.add(entry["hashes"]["sha256"])
    if not wheels | sources:
        raise SystemExit(f"The index has no file of {name} {version} for Linux.")
    return sorted(wheels or sources)


def main() -> None:
    lines = [HEADER]
    for name, version in sorted(resolve_packages()):
        known = "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes(name, version))
        lines.append(f"{name}=={version}{known}\n")
    OUT.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines) - 1} packages in {OUT.name}")


if __name__ == "__main__":
    main()
