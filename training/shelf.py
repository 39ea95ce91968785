"""Puts a trained pipeline where it is served from, whole or not at all, and takes it down again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline


def put(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in bf16 in place of what the folder held; other files in it are kept.

    The new folder is complete before it is moved in, so a reader finds the old pipeline or the new.
    The pipeline itself is left in bf16.
    """
    coming, going = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (coming, going):
        shutil.rmtree(leftover, ignore_errors=True)
    pipeline.to(torch.bfloat16).save_pretrained(coming, safe_serialization=True)
    if folder.exists():
        for kept in folder.glob("*.md"):
            shutil.copy(kept, coming)
        folder.rename(going)
    coming.rename(folder)
    shutil.rmtree(going, ignore_errors=True)


def take(folder: Path) -> DiffusionPipeline:
    """The folder's pipeline in float32, as Darkroom loads it on a CPU."""
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def size_bytes(folder: Path) -> int:
    """All files in the folder together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
