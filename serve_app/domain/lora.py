"""Paths that a request may use for a LoRA: a URL, a repository of the hub, or registered weights.
Never a local file of our machines. And what the files of LoRAs say about themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from serve_app.domain.addresses import is_file_url

MAX_LORAS = 8  # per request
MAX_SCALE = 4.0  # fal's limit; a negative scale, which fal lacks, inverts the LoRA's effect

# The hub's rules: parts do not begin with a dot or hyphen, nor contain two of them in a row.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<owner>{_PART})/(?P<name>{_PART})", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]{0,127}", re.ASCII)
_SUFFIX = ".safetensors"

_TENANT = r"[a-z0-9][a-z0-9_-]{0,63}"
WEIGHTS_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""Pattern of a name of registered weights."""
_REGISTERED = re.compile(
    rf"weights:(?:(?P<tenant>{_TENANT})/)?(?P<name>{WEIGHTS_NAME})(?:@(?P<digest>[0-9a-f]{{64}}))?"
)

FORMS = (
    "an http(s) URL or a data URI of a *.safetensors file, a repository of the hub: owner/name "
    "or owner/name/file.safetensors, optionally with @revision, or registered weights: weights:name"
)


@dataclass(frozen=True, slots=True)
class FileUrl:
    """A file on the web, in our own storage, or inside the URL itself."""

    url: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of the hub."""

    repository: str  # owner/name
    file: str | None = None  # relative, with slashes; None: the only LoRA in the repository
    revision: str | None = None  # commit, branch or tag; None: the head of the main branch


@dataclass(frozen=True, slots=True)
class RegisteredFile:
    """A LoRA that a tenant has registered."""

    name: str
    tenant: str = ""  # whose it is, if it was published; empty: of the request's tenant
    digest: str = ""  # SHA-256 of the file, in stored requests

    def __str__(self) -> str:
        owner = f"{self.tenant}/" if self.tenant else ""
        return f"weights:{owner}{self.name}{f'@{self.digest}' if self.digest else ''}"


REPLACED = "replaced_files"
"""Option of an endpoint: component → name of a file → SHA-256 of the registered file in its
place."""


@dataclass(frozen=True, slots=True)
class RegisteredFileFacts:
    """File of registered weights. ``path``: in the pipeline's folder."""

    path: str
    digest: str


LoraSource = FileUrl | HubFile | RegisteredFile


def parse_lora_path(path: str, suffixes: tuple[str, ...] = (_SUFFIX,)) -> LoraSource:
    """Parse a LoRA's ``path``. ``ValueError``, with a message for the user, if it is invalid.

    ``suffixes``: those that a file of the hub may have.
    """
    if (registered := _REGISTERED.fullmatch(path)) is not None:
        groups = registered.groupdict(default="")
        return RegisteredFile(groups["name"], groups["tenant"], groups["digest"])
    if is_file_url(path):
        return FileUrl(path)
    place, at, revision = path.rpartition("@")
    if not at:
        place, revision = path, ""
    owner, _, rest = place.partition("/")
    name, _, file = rest.partition("/")
    known = _REPOSITORY.fullmatch(f"{owner}/{name}") and (not at or _REVISION.fullmatch(revision))
    if not known or ".." in PurePosixPath(file).parts or "\\" in file or place.endswith("/"):
        raise ValueError(f"Input should be {FORMS}")
    if file and not file.endswith(suffixes):
        raise ValueError("Only *.safetensors files are loaded: pickle files can run code")
    return HubFile(f"{owner}/{name}", file or None, revision or None)


MAX_WORDS = 12
MAX_WORD_LENGTH = 200  # characters


@dataclass(frozen=True, slots=True)
class LoraMetadata:
    """What a LoRA file says about itself."""

    trigger_words: Sequence[str] = ()
    base_model: str | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> LoraMetadata:
        """Read the metadata of a safetensors file. It is from a stranger: what cannot be read is
        left out."""
        phrase = metadata.get("modelspec.trigger_phrase")
        words = phrase.split(",") if isinstance(phrase, str) and phrase.strip() else _tags(metadata)
        trimmed = (_storable(word).strip()[:MAX_WORD_LENGTH] for word in words)
        unique = tuple(dict.fromkeys(word for word in trimmed if word))
        bases = (metadata.get("modelspec.architecture"), metadata.get("ss_base_model_version"))
        base = next(
            (candidate for candidate in bases if isinstance(candidate, str) and candidate), ""
        )
        return cls(unique[:MAX_WORDS], _storable(base)[:MAX_WORD_LENGTH] or None)


MAX_FACTS = 100
MAX_FACT_LENGTH = 500  # characters, with the name


def model_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file of weights says of its model (``modelspec``), as far as it is kept. Long values,
    such as the image in ``modelspec.thumbnail``, are left out."""
    kept = {
        _storable(name): _storable(value)
        for name, value in metadata.items()
        if name.startswith("modelspec.") and len(name) + len(value) <= MAX_FACT_LENGTH
    }
    return dict([*kept.items()][:MAX_FACTS])


def _storable(text: str) -> str:
    """The text without NUL and halves of surrogate pairs, which neither PostgreSQL nor UTF-8
    has."""
    return text.replace("\0", "").encode(errors="ignore").decode()


def _tags(metadata: Mapping[str, Any]) -> list[str]:
    """Captions of the training, the most frequent first. Kohya's trainer counts them by folder."""
    counts: dict[str, int] = {}
    for folder in json_object(metadata.get("ss_tag_frequency")).values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int):
                counts[tag] = counts.get(tag, 0) + count
    return sorted(counts, key=lambda tag: -counts[tag])


def json_object(text: object) -> dict[str, Any]:
    """Object in a JSON text; empty if there is none."""
    try:
        document = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
