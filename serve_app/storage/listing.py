"""Listing of stored objects in the order of their keys, with bounded memory."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

FOLDERS = ("d/", "p/", "r/", "s/", "u/", "w/")
"""Beginnings of keys of drafts, private files, requests' files, snapshots, uploads and
registered weights, in order.
In a bucket without a prefix, other objects may lie beside them."""

NAMES_AT_ONCE = 50_000
"""Names of one directory that are held in memory; a larger one is read several times."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in storage."""

    key: str
    size: int  # bytes
    modified_at: datetime


def walk(root: Path) -> Iterator[StoredObject]:
    """Files of an artifact directory, by key in byte order. Blocks.

    Skips names that begin with a dot, which are uploads under way, and files that are deleted
    meanwhile.
    """
    for folder in FOLDERS:
        yield from _below(root, folder)


def _below(root: Path, prefix: str) -> Iterator[StoredObject]:
    for name in _names(root / prefix):
        if name.endswith("/"):
            yield from _below(root, prefix + name)
            continue
        try:
            state = (root / prefix / name).stat()
        except FileNotFoundError:
            continue
        modified_at = datetime.fromtimestamp(state.st_mtime, UTC)
        yield StoredObject(prefix + name, state.st_size, modified_at)


def _names(directory: Path) -> Iterator[str]:
    """Names in a directory, in order. Those of directories end with a slash, which counts for the
    order as it does in keys."""
    last = ""
    while True:
        batch = heapq.nsmallest(NAMES_AT_ONCE, (n for n in _scan_names(directory) if n > last))
        yield from batch
        if len(batch) < NAMES_AT_ONCE:
            return
        last = batch[-1]


def _scan_names(directory: Path) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
    except (FileNotFoundError, NotADirectoryError):
        return
