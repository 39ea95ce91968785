"""What it takes to have the weights of a repository here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a pipeline needs."""

    path: str
    size: int  # bytes
    digest: str  # SHA-256, or the id of a git blob; empty: nobody has said
    there_bytes: int  # of it, on this machine


@dataclass(frozen=True, slots=True)
class Plan:
    """As it was when it was made: others download into the same directory."""

    repository: str
    revision: str
    directory: Path  # of the store
    files: tuple[PlannedFile, ...]
    free_bytes: int  # on the disk of ``directory``

    @property
    def total_bytes(self) -> int:
        return sum(each.size for each in self.files)

    @property
    def missing(self) -> tuple[PlannedFile, ...]:
        return tuple(each for each in self.files if each.there_bytes < each.size or not each.size)

    @property
    def missing_bytes(self) -> int:
        return sum(each.size - each.there_bytes for each in self.files)
