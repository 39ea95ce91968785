"""Weights in 8 bits that were computed once, in files that later loads read instead.

A file has the weights and scales of one denoiser. Its name is a digest of the files that they were
computed from, of where each weight lies in them, and of how it was rounded. So what is read is, bit
for bit, what would be computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.engine.reading.headers import UnknownDtype, WeightFile
from deployments.engine.reading.unread import UnreadWeight
from serve_app.domain.errors import WeightsUnavailable

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the files, and of how weights are rounded: change it with either."""

WEIGHT, SCALE = "weight", "scale"

Values = tuple[Tensor, Tensor]
"""Weights [out, in] in 8 bits, and a scale [out] for each output."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # names of files in the store of weights
_REGISTERED = re.compile(r"\.darkroom-registered/files/([0-9a-f]{64})\.safetensors")
"""Ends of paths of registered files, whose names are their digests too."""


class FileCache(Protocol):
    """Files by name that may be gone at any time, such as ``weights.derived.DerivedFiles``."""

    def find(self, name: str) -> Path | None: ...

    def write(self, name: str, size: int, write: Callable[[Path], None]) -> bool: ...

    def discard(self, name: str) -> None: ...


def file_name(weights: Mapping[str, Tensor], stored: torch.dtype) -> str | None:
    """Name of the file for ``weights`` (by layer) in the type ``stored``.

    None without any, or if some were read already: what they are is not known any more.
    """
    if not weights:
        return None
    sources: list[object] = []
    digests: dict[Path, str] = {}
    for layer, weight in sorted(weights.items()):
        if not isinstance(weight, UnreadWeight):
            return None
        place, path = weight.stored, weight.stored.file.path
        if path not in digests:
            digests[path] = _digest_of(path)
        casts = [str(cast) for cast in weight.casts]
        sources.append(
            (layer, digests[path], place.begin, str(place.dtype), list(place.shape), casts)
        )
    facts = json.dumps([FORMAT, torch.__version__, str(stored), sources])
    return f"{hashlib.sha256(facts.encode()).hexdigest()}.safetensors"


def read_later(
    files: FileCache, name: str, weights: Mapping[str, Tensor], stored: torch.dtype
) -> Mapping[str, Values] | None:
    """Values of each layer, which are not read yet. None if there is no such file.

    A damaged file is discarded.
    """
    path = files.find(name)
    if path is None:
        return None
    try:
        tensors = WeightFile(path).header().tensors
    except (WeightsUnavailable, UnknownDtype) as error:
        log.warning("%s is damaged and computed again: %s", path, error)
        tensors = {}
    if {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()} != _facts(
        weights, stored
    ):
        files.discard(name)
        return None
    return {
        layer: (
            UnreadWeight(tensors[f"{layer}.{WEIGHT}"]),
            UnreadWeight(tensors[f"{layer}.{SCALE}"]),
        )
        for layer in weights
    }


def _facts(
    weights: Mapping[str, Tensor], stored: torch.dtype
) -> Mapping[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of each tensor of the file."""
    of_weights = {
        f"{layer}.{WEIGHT}": (stored, tuple(weight.shape)) for layer, weight in weights.items()
    }
    scales = {
        f"{layer}.{SCALE}": (torch.float32, (len(weight),)) for layer, weight in weights.items()
    }
    return {**of_weights, **scales}


def keep(files: FileCache, name: str, values: Mapping[str, Values]) -> None:
    """Write the values of each layer to a file, if there is room."""
    tensors = {
        f"{layer}.{part}": tensor.contiguous()
        for layer, pair in values.items()
        for part, tensor in zip((WEIGHT, SCALE), pair, strict=True)
    }
    size = sum(tensor.nbytes for tensor in tensors.values())
    files.write(name, size, lambda path: save_file(tensors, path))


def _digest_of(path: Path) -> str:
    """Digest of a file of the store; of another one, what changes when it is written."""
    target = path.resolve()
    if _DIGEST.fullmatch(target.name):
        return target.name
    if registered := _REGISTERED.fullmatch("/".join(target.parts[-3:])):
        return registered[1]
    facts = target.stat()
    return f"{target}:{facts.st_size}:{facts.st_mtime_ns}"
