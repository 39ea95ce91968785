"""Diffusers repository before it is served: its pipeline, sizes, licence, and settings."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.paths import expanded
from weights.folder import INDEX
from weights.selection import select
from weights.store import Store

SAFETENSORS = ".safetensors"
README = "README.md"
BRANCH = "main"

_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Repository:
    """Repository that was inspected."""

    weights: Mapping[str, str]  # the key `weights` of an entry
    index: Mapping[str, Any]  # model_index.json
    sizes: Mapping[str, int]  # component → bytes of its weights
    is_here: bool  # the weights are on this machine
    read: Callable[[str], str | None]  # text of a small file; None: it cannot be read

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def licence(self) -> str:
        """Licence by the front matter of the README; empty if it states none."""
        found = _FRONT_MATTER.match(self.read(README) or "")
        try:
            card = yaml.safe_load(found[1]) if found else None
        except (yaml.YAMLError, ValueError, RecursionError):
            return ""
        if not isinstance(card, dict):
            return ""
        facts = cast("Mapping[str, Any]", card)
        name = facts.get("license_name") or facts.get("license") or ""
        return name if isinstance(name, str) else ""

    def config(self, component: str) -> Mapping[str, Any]:
        """Settings of a component; empty if they cannot be read."""
        try:
            found = json.loads(self.read(f"{component}/config.json") or "{}")
        except (ValueError, RecursionError):
            return {}
        return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def inspected(given: str, variant: str | None, store: Store) -> Repository:
    """Inspect a folder of this machine, or ``owner/name@revision`` of the hub.

    A branch or tag is resolved to its commit. ``Misconfigured`` and ``WeightsUnavailable`` say what
    is wrong.
    """
    try:
        folder = expanded(given)
    except ValueError as error:
        raise Misconfigured(f"{error}.") from None
    if folder.is_dir():
        return _of_folder(folder.resolve(), variant)
    named = _HUB.fullmatch(given)
    if named is None or given.startswith((".", "~")):
        raise Misconfigured(
            f"There is no folder {given} on this machine. Name a folder with a diffusers pipeline, "
            "or a repository of the hub as owner/name@commit."
        )
    return _of_hub(named[1], named[2] or BRANCH, variant, store)


def _of_folder(folder: Path, variant: str | None) -> Repository:
    def read(path: str) -> str | None:
        try:
            return (folder / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    text = read(INDEX)
    if text is None:
        raise Misconfigured(_no_pipeline(str(folder)))
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{folder / INDEX} is not valid JSON: {error}.") from error
    if not isinstance(index, dict):
        raise Misconfigured(f"{folder / INDEX} should be a JSON object.")
    files = {
        each.relative_to(folder).as_posix(): each.stat().st_size
        for each in folder.rglob("*")
        if each.is_file()
    }
    needed = select(list(files), index, variant, str(folder))
    weights = {"directory": str(folder)}
    sizes = _sizes({path: size for path, size in files.items() if path in needed})
    return Repository(_with_variant(weights, variant), index, sizes, is_here=True, read=read)


def _of_hub(name: str, revision: str, variant: str | None, store: Store) -> Repository:
    if not _COMMIT.fullmatch(revision):
        if store.offline:
            raise Misconfigured(
                f"{revision} of {name} is a branch, which only the hub can resolve, and downloads "
                f"are disabled. Name the commit: {name}@<40 hex digits>."
            )
        revision = store.make_hub().commit_of(name, revision)
    weights = Weights(name, revision, variant=variant)
    listing = store.listing(weights)
    if listing.index is None:
        raise Misconfigured(_no_pipeline(f"{name}@{revision}"))
    is_here = store.is_here(weights)

    def read(path: str) -> str | None:
        try:
            if is_here:
                with store.open(weights) as folder:
                    if (folder / path).is_file():
                        return (folder / path).read_text(encoding="utf-8")
            file = next((each for each in listing.files if each.path == path), None)
            if file is None or store.offline:
                return None
            return store.make_hub().read(listing, file).decode(errors="replace")
        except (OSError, UnicodeDecodeError, WeightsUnavailable):
            return None

    sizes = _sizes({each.path: each.size for each in listing.needed(variant)})
    written = _with_variant({"hub": name, "revision": revision}, variant)
    return Repository(written, listing.index, sizes, is_here, read)


def _with_variant(weights: dict[str, str], variant: str | None) -> Mapping[str, str]:
    return weights if variant is None else {**weights, "variant": variant}


def _sizes(files: Mapping[str, int]) -> Mapping[str, int]:
    """Bytes of the weights by component, largest first."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for path, size in files.items():
        if path.endswith(SAFETENSORS):
            sizes[path.split("/")[0]] += size
    return dict(sorted(sizes.items(), key=lambda each: -each[1]))


def _no_pipeline(where: str) -> str:
    return (
        f"{where} has no {INDEX}, so it is not a diffusers pipeline. Convert a single file with "
        "diffusers (`from_single_file`, then `save_pretrained`). LoRAs need no entry: requests "
        "name them (docs/how-to/use-loras.md)."
    )
