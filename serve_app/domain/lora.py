"""What a request may name an adapter by: a URL, or a repository of the hub. Never a file of a
machine of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

MOST_ADAPTERS = 8  # of one request
MOST_SCALE = 4.0  # fal's; below 0, which fal has not, an adapter does the opposite

_WEB = re.compile(r"https?://[^\s/?#]+\S*", re.I)
_INLINE = re.compile(r"data:[^,]*,", re.I)
# As the hub has it: parts begin with no dot or hyphen and hold no two of them in a row.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<owner>{_PART})/(?P<name>{_PART})", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]{0,127}", re.ASCII)
_SUFFIX = ".safetensors"

FORMS = (
    "an http(s) URL or a data URI of a *.safetensors file, or a repository of the hub: owner/name "
    "or owner/name/file.safetensors, with @revision if need be"
)


@dataclass(frozen=True, slots=True)
class FileUrl:
    """A file on the web, in our own storage, or inside the URL itself."""

    url: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository of the hub."""

    repository: str  # owner/name
    file: str | None = None  # relative, with slashes; None: the one adapter that it has
    revision: str | None = None  # commit, branch or tag; None: what its main branch is now


def parse_adapter_path(path: str) -> FileUrl | HubFile:
    """``ValueError`` in a sentence for what is neither."""
    if _WEB.fullmatch(path) or _INLINE.match(path):
        return FileUrl(path)
    place, at, revision = path.rpartition("@")
    if not at:
        place, revision = path, ""
    owner, _, rest = place.partition("/")
    name, _, file = rest.partition("/")
    known = _REPOSITORY.fullmatch(f"{owner}/{name}") and (not at or _REVISION.fullmatch(revision))
    if not known or ".." in PurePosixPath(file).parts or "\\" in file or place.endswith("/"):
        raise ValueError(f"Input should be {FORMS}")
    if file and not file.endswith(_SUFFIX):
        raise ValueError("Only *.safetensors are loaded: a pickle can run code")
    return HubFile(f"{owner}/{name}", file or None, revision or None)
