"""Folders of links: files that lie elsewhere, in the layout of one pipeline."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def folder_for(parent: Path, identity: str) -> Path:
    """Folder in ``parent`` for what ``identity`` says is in it."""
    return parent / hashlib.sha256(identity.encode()).hexdigest()[:32]


def is_whole(folder: Path) -> bool:
    """True if it is there, and no link in it leads to a file that was evicted."""
    return folder.is_dir() and all(path.exists() for path in folder.rglob("*"))


def write_folder(folder: Path, links: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    """Make ``folder`` of links to files and of small files, by their paths in it, at once: others
    see all of it or nothing."""
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, target in links.items():
        _place(fresh / name).symlink_to(target.resolve())
    for name, text in texts.items():
        _place(fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process was quicker
        fresh.rename(folder)
    shutil.rmtree(fresh, ignore_errors=True)


def files_in(folder: Path) -> Mapping[str, Path]:
    """Files of a folder by their paths in it, with slashes."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def fingerprint(*places: Path) -> str:
    """Digest of the names, sizes and times of files, and of the files of folders; empty if there
    are none."""
    lines = list[str]()
    for place in places:
        files = {"": place} if place.is_file() else files_in(place)
        facts = [(name, files[name].stat()) for name in sorted(files)]
        lines += [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in facts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
