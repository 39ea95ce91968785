"""Adapters' files: told apart by their contents, and made into layers. For one thread that is not
the engine's."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from deployments.engine.adapter import Adapter, layer_of, read_adapter
from deployments.engine.adapter_layers import AdapterRows, built
from deployments.engine.module_building import ONE_BUILDER
from serve_app.domain.errors import AdapterRefused, Misconfigured, WeightsUnavailable


@dataclass(frozen=True, slots=True)
class Look:
    """At a file, before it is loaded."""

    file: Path
    state: tuple[int, ...]  # of the file system; another one, another content
    digest: str
    numbers: int  # weights in it


class AdapterFiles:
    """Remembers the digests of files that did not change."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, tuple[int, ...]], str] = {}

    def look(self, adapters: Sequence[Adapter]) -> Sequence[Look]:
        """``AdapterRefused`` for a file that cannot be read or is no safetensors file."""
        looks: list[Look] = []
        for number, each in enumerate(adapters):
            try:
                looks.append(self._look(Path(each.file)))
            except (Misconfigured, WeightsUnavailable) as error:
                raise AdapterRefused(error.message, number) from error
        return looks

    def _look(self, file: Path) -> Look:
        if file.suffix != ".safetensors":
            raise Misconfigured(
                f"The adapter {file} is no *.safetensors; a pickle can run code and is never "
                "loaded."
            )
        try:
            state = _state(file)
            numbers = _numbers_in(file)
            if (digest := self._digests.get((file, state))) is None:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except (OSError, SafetensorError) as error:
            raise WeightsUnavailable(f"The adapter {file} cannot be read: {error}") from error
        if len(self._digests) >= _MOST_DIGESTS:
            self._digests.clear()
        self._digests[file, state] = digest
        return Look(file, state, digest, numbers)


def load_layers(
    pipeline: Any,
    look: Look,
    name: str,
    rows: AdapterRows,
    device: str,
    dtypes: Mapping[str, torch.dtype],
) -> Mapping[str, Mapping[str, Any]]:
    """peft's layers with the adapter, on ``device``: by path, by component. They are not in the
    pipeline yet, whose modules must not be walked through here: others come and go meanwhile.

    ``dtypes``: of the components, in which they compute.

    ``Misconfigured`` when the adapter does not fit the pipeline.
    """
    pairs = read_adapter(pipeline, look.file)
    if _state(look.file) != look.state:
        raise WeightsUnavailable(f"The adapter {look.file} changed while it was read. Try again.")
    layers: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    with ONE_BUILDER:
        for full, pair in pairs.items():
            component, _, path = full.partition(".")
            base = layer_of(pipeline, full, look.file)
            own = base.weight.dtype  # may be eight bits, in which nothing is computed
            dtype = own if own.itemsize > 1 else dtypes[component]
            layers[component][path] = built(base, name, pair, rows, device, dtype)
    return layers


def _state(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _numbers_in(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        names: list[str] = opened.keys()
        return sum(prod(opened.get_slice(name).get_shape()) for name in names)


_MOST_DIGESTS = 4096
