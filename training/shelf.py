"""Puts a trained pipeline where it is served from, whole or not at all, and takes it down again."""

from __future__ import annotations

import json
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
    for config in coming.glob("*/config.json"):
        _forget_origin(config)
    if folder.exists():
        for kept in folder.glob("*.md"):
            shutil.copy(kept, coming)
        folder.rename(going)
    coming.rename(folder)
    shutil.rmtree(going, ignore_errors=True)


def take(folder: Path) -> DiffusionPipeline:
    """The folder's pipeline in float32, as Darkroom loads it on a CPU."""
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _forget_origin(config: Path) -> None:
    """Without the folder of this machine that the weights were loaded from."""
    read = json.loads(config.read_text())
    if read.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(read, indent=2) + "\n")


def size_bytes(folder: Path) -> int:
    """All files in the folder together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
