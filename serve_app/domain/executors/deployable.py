"""What ``darkroom deploy`` is asked to serve, and what an executor makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.kinds import facts_of, option_of

OWNER = "apps"
"""First part of the ids of apps whose name has none."""

Entries = Sequence[tuple[str, Mapping[str, Any]]]
"""Ids of endpoints, and their entries of the catalogue."""


class WrongChoice(Misconfigured):
    """Raised for options that make no sense together."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Options of ``darkroom deploy`` that say what is served, and as what."""

    path: Path | None
    class_name: str | None = None
    name: str | None = None
    more: tuple[Path, ...] = ()
    pool: str | None = None
    public: bool = False
    cog_server: str | None = None
    concurrency: int = 1
    prepared: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    comfyui: str | None = None

    def refuse(self, kind: str, *allowed: str) -> None:
        """Refuse options that make no sense for a ``kind`` of thing. ``allowed``: those that do."""
        options = {
            "--app": self.class_name,
            "--with": self.more,
            "--pool": self.pool,
            "--public": self.public,
            "--prepared": self.prepared,
            "--input": self.inputs,
            "--output": self.outputs,
            "--comfyui": self.comfyui,
        }
        if wrong := [name for name, value in options.items() if value and name not in allowed]:
            raise WrongChoice(f"{', '.join(wrong)} cannot be used for {kind}.")

    def base_id(self, name: str) -> str:
        """Id of what is served, from the name that it is given, or from ``name``."""
        return base_id(self.name or name)

    def entry(self, base: str, entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Id of an endpoint of what is served as ``base``, and its entry, with its category and the
        pool that was named for it."""
        family, options = entry["family"], entry["options"]
        suffix = facts_of(family).suffix(option_of(family, options)) or ""
        derived = category(options["input_schema"], options["output_schema"])
        pool = {"pool": self.pool} if self.pool else {}
        return base + suffix, {"category": derived, **entry, **pool}


@dataclass(frozen=True, slots=True)
class Deployable:
    """What is stored: entries, and the zip file with their code if they have any."""

    entries: Entries
    content: bytes | None = None
    notes: Sequence[str] = ()
    secrets: Sequence[str] = ()  # names that the code reads
    app: str = ""  # id of an app, whose other endpoints are old; empty: it is none


def base_id(name: str) -> str:
    """Id of an app, from the name that it is given."""
    return name if "/" in name else f"{OWNER}/{name}"


def category(input_schema: Mapping[str, Any], output_schema: Mapping[str, Any]) -> str:
    """Category such as ``image-to-text``, by the files of input and output."""
    return f"{_kind(input_schema)}-to-{_kind(output_schema)}"


def _kind(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema)
    for kind in ("video", "audio", "image", "file"):
        if f'"x-darkroom-file": "{kind}"' in text:
            return kind
    return "text"
