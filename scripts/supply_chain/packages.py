"""The packages that a container of Darkroom has, from its lock file and their own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-image.txt"
CONSTRAINTS = ROOT / "constraints.txt"

WITHOUT_HASH = ("torch",)
"""Packages that the container takes by version: their wheels differ by machine."""

EXTRAS: Mapping[str, tuple[str, ...]] = {"psycopg": ("binary",), "ray": ("serve",)}
"""Extras by which Darkroom asks for a package."""

IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.16",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""The machine of the container: what a package requires does not follow from this one."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of another project, at the version that the container installs."""

    name: str  # canonical
    version: str
    sha256: tuple[str, ...]  # of its files that a container may install
    requires: tuple[str, ...]  # names of other packages of the container
    metadata: Mapping[str, list[str]]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"

    def field(self, name: str) -> str:
        """First value of a field of the metadata; empty without it."""
        return next(iter(self.metadata.get(name, ())), "").strip()


def parse_lock(text: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, version and hashes of each line of a lock file."""
    for line in text.replace("\\\n", " ").splitlines():
        match = re.match(r"([\w.-]+)==(\S+)", line)
        if match is not None:
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
            yield canonicalize_name(match[1]), match[2], hashes


@cache
def shipped_packages() -> tuple[Package, ...]:
    """The packages of the container, by name.

    ``SystemExit`` names a package that is not installed here, or at another version: its metadata
    would be another one's.
    """
    versions = {name: version for name, version, _ in parse_lock(CONSTRAINTS.read_text())}
    rows = [*parse_lock(LOCK.read_text()), *((name, versions[name], ()) for name in WITHOUT_HASH)]
    names = {name for name, _, _ in rows}
    packages: list[Package] = []
    for name, version, hashes in sorted(rows):
        there = _installed(name, version)
        requires = tuple(sorted({*_required(there, EXTRAS.get(name, ()))} & names - {name}))
        metadata = {key: there.metadata.get_all(key) or [] for key in set(there.metadata)}
        packages.append(Package(name, version, hashes, requires, metadata))
    return tuple(packages)


def _installed(name: str, version: str) -> Distribution:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        raise SystemExit(
            f"{name} is not installed, so its licence is not known. Run this in the environment "
            "of the tests, in which every package of requirements-image.txt should be."
        ) from None
    if installed.version.partition("+")[0] != version:
        raise SystemExit(
            f"{name} {installed.version} is installed, but {version} is pinned. Run scripts/test "
            "once to install the pinned versions, or scripts/hash_packages.py after a change of "
            "them."
        )
    return installed


def _required(there: Distribution, extras: tuple[str, ...]) -> Iterator[str]:
    for line in there.requires or ():
        requirement = Requirement(line)
        environments = [IMAGE | {"extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield canonicalize_name(requirement.name)
