"""LoRA files, identified by their contents and built into layers.

Used from one thread, which is not the engine's.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.transfer import Transfer
from deployments.engine.lora.format import Lora, layer_of, read_lora
from deployments.engine.lora.layers import build_layer
from deployments.engine.lora.rows import LoraRows
from serve_app.domain.errors import LoraRefused, Misconfigured, WeightsUnavailable


@dataclass(frozen=True, slots=True)
class LoraFileInfo:
    """Facts about a file, read before it is loaded."""

    file: Path
    state: tuple[int, ...]  # inode, size and mtime; if it changed, the content may have changed
    digest: str  # with the denoiser, if one is given
    parameters: int
    denoiser: str = ""
    is_own: bool = False


class LoraFiles:
    """Reader of LoRA files. It caches the digests of files that did not change."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, tuple[int, ...]], str] = {}

    def inspect(self, loras: Sequence[Lora]) -> Sequence[LoraFileInfo]:
        """Inspect the files of ``loras``.

        Raises ``LoraRefused`` for a file that cannot be read or is not a safetensors file.
        """
        inspected: list[LoraFileInfo] = []
        for number, lora in enumerate(loras):
            try:
                inspected.append(self._inspect(lora))
            except (Misconfigured, WeightsUnavailable) as error:
                raise LoraRefused(error.message, number) from error
        return inspected

    def _inspect(self, lora: Lora) -> LoraFileInfo:
        file = Path(lora.file)
        if file.suffix != ".safetensors":
            raise Misconfigured(
                f"The LoRA {file} is not a *.safetensors file. Other formats are never loaded, "
                "because a pickle can run code."
            )
        try:
            state = _state(file)
            parameters = _parameters_in(file)
            if (digest := self._digests.get((file, state))) is None:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except (OSError, SafetensorError) as error:
            raise WeightsUnavailable(f"The LoRA {file} cannot be read: {error}") from error
        if len(self._digests) >= _MAX_DIGESTS:
            self._digests.clear()
        self._digests[file, state] = digest
        name = f"{digest} {lora.denoiser}" if lora.denoiser else digest
        return LoraFileInfo(file, state, name, parameters, lora.denoiser, lora.is_own)


@dataclass(frozen=True, slots=True)
class BuiltLora:
    """LoRA in peft's layers, which are not attached to the pipeline yet."""

    layers: Mapping[str, Mapping[str, Any]]  # by path, by component
    notes: Sequence[str]  # what of the file is not applied, and why


def load_layers(
    pipeline: Any,
    info: LoraFileInfo,
    name: str,
    rows: LoraRows,
    accelerator: Accelerator,
    dtypes: Mapping[str, torch.dtype],
) -> BuiltLora:
    """Build peft's layers with the LoRA on the device.

    The layers are not attached to the pipeline. Its modules must not be traversed on this thread,
    because the engine's thread attaches and detaches layers at the same time.

    ``dtypes``: the dtype that each component computes in.

    Raises ``Misconfigured`` when the LoRA does not fit the pipeline, and ``WeightsUnavailable``
    when the file cannot be read or changed.
    """
    contents = read_lora(pipeline, info.file, info.denoiser)
    if _state(info.file) != info.state:
        raise WeightsUnavailable(
            f"The LoRA {info.file} changed while it was being read. Try again."
        )
    layers: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    with Transfer(accelerator, "loras") as transfer:
        uploads = _Uploads(transfer)
        for full, change in contents.changes.items():
            component, _, path = full.partition(".")
            base = layer_of(pipeline, full, info.file)
            own = base.weight.dtype  # may be an 8-bit type, which cannot be computed in
            dtype = own if own.itemsize > 1 else dtypes[component]
            upload = partial(uploads.upload, dtype=dtype)
            layers[component][path] = build_layer(base, name, change, rows, upload)
    return BuiltLora(layers, contents.notes)


class _Uploads:
    """Parts of adapters on their way to the device, each once.

    Where diffusers splits a layer of the file, its parts share one half.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        # With the sources, as another tensor could have the address of one that was freed.
        self._uploaded: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def upload(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, dtype
        if place not in self._uploaded:
            self._uploaded[place] = tensor, self._transfer.upload(tensor, dtype)
        return self._uploaded[place][1]


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _parameters_in(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        names: list[str] = opened.keys()
        return sum(prod(opened.get_slice(name).get_shape()) for name in names)


_MAX_DIGESTS = 4096
