"""What a repository has at a revision, and what of it a pipeline needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from serve_app.domain.errors import WeightsUnavailable
from weights.selection import select

INDEX = "model_index.json"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a repository."""

    path: str  # relative, with slashes
    size: int  # bytes
    digest: str  # SHA-256, or the id of a git blob; empty: nobody has said


@dataclass(frozen=True)
class Listing:
    """All files of a repository at a commit, with their digests."""

    repository: str  # owner/name
    revision: str  # commit
    files: tuple[ListedFile, ...]
    index: Mapping[str, Any] | None  # model_index.json; None: it is no pipeline of diffusers

    def needed(self, variant: str | None) -> tuple[ListedFile, ...]:
        """What a pipeline loads, largest first. ``WeightsUnavailable`` when there is nothing that
        may be loaded, or a name that leads out of the directory."""
        names = select([each.path for each in self.files], self.index, variant, self.repository)
        found = tuple(
            sorted((each for each in self.files if each.path in names), key=lambda each: -each.size)
        )
        for each in found:
            _refuse_escape(self.repository, each.path)
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Listing:
        """``ValueError`` for what ``to_json`` did not write."""
        try:
            given = json.loads(text)
            files = tuple(
                ListedFile(str(each["path"]), int(each["size"]), str(each["digest"]))
                for each in given["files"]
            )
            return cls(given["repository"], given["revision"], files, given["index"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"no listing: {error!r}") from error


def _refuse_escape(repository: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path:
        raise WeightsUnavailable(
            f"{repository} lists a file {path!r}, which would lie outside of its directory. It is "
            "not downloaded."
        )
