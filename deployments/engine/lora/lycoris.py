"""LoKr, LoHa and DoRA in files, in the names of LyCORIS, kohya and peft.

diffusers renames and splits the halves of plain LoRAs only: ``double_blocks.0.img_attn.qkv`` of
Flux becomes three layers, for example. So it gets the halves of a *probe* in place of an adapter's
parts: a LoRA whose values are numbers of rows and columns. They tell which rows of which layer went
where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.engine.lora.changes import (
    Change,
    DoraPair,
    HadamardChange,
    KroneckerChange,
    LoraPair,
)
from serve_app.domain.errors import Misconfigured

_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_DORA = ("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight")
_HALVES = {
    "lora_down.weight": "lora_down",
    "lora_A.weight": "lora_down",
    "lora_up.weight": "lora_up",
    "lora_B.weight": "lora_up",
}
_REFUSED = {
    "oft_blocks": "an OFT",
    "oft_diag": "an OFT",
    "oft_R.weight": "an OFT",
    "a1.weight": "a GLoRA",
    "b1.weight": "a GLoRA",
    "on_input": "an (IA)³ adapter",
    "ia3_l": "an (IA)³ adapter",
    "diff": "a difference of whole weights",
    "diff_b": "a difference of biases",
    "w_norm": "a change of normalization layers",
    "b_norm": "a change of normalization layers",
    "lora_mid.weight": "a LoCon with a third matrix",
    "vera_lambda_b": "a VeRA",
}
_OF_ENCODERS = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_OF_DENOISER = ("lycoris_", "lora_unet_", "lora_transformer_")
_BARE = ("diffusion_model.", "base_model.model.")


@dataclass
class Adapter:
    """Adapter of one layer that is no plain LoRA, as it is in the file."""

    name: str  # of the layer, as the file has it
    parts: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None

    @property
    def kind(self) -> str:
        names = self.parts.keys()
        found = [
            kind
            for kind, its in (("LoKr", _LOKR), ("LoHa", _LOHA), ("DoRA", _DORA))
            if not names.isdisjoint(its)
        ]
        return " with ".join(found)


@dataclass(frozen=True)
class LayerAdapter:
    """Layer of the model that an adapter changes."""

    layer: str  # component.layer
    adapter: Adapter
    rows: Tensor | None = None  # of the adapter's output; None: all


def separate(
    given: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], Mapping[str, Adapter]]:
    """Return the tensors of plain LoRAs in a file, and its other adapters by name of the layer.

    Raises ``Misconfigured`` for a kind that cannot be applied.
    """
    adapters: dict[str, Adapter] = {}
    plain = dict(given)
    for name in given:
        layer, part = _split(name, (*_LOKR, *_LOHA, *_DORA, *_REFUSED))
        if part in _REFUSED:
            raise Misconfigured(
                f"The LoRA {file} is {_REFUSED[part]} ({name}), which cannot be applied. Use a "
                "LoRA, LoKr, LoHa or DoRA."
            )
        if part:
            adapters.setdefault(layer, Adapter(layer)).parts[part] = plain.pop(name)
    for layer, adapter in adapters.items():
        if (alpha := plain.pop(f"{layer}.alpha", None)) is not None:
            adapter.alpha = float(alpha)
        for half, part in _HALVES.items():
            if (tensor := plain.pop(f"{layer}.{half}", None)) is not None:
                adapter.parts[part] = tensor
    return plain, adapters


def _split(name: str, parts: Iterable[str]) -> tuple[str, str]:
    for part in parts:
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    return name, ""


# Layers of the model.


def find_targets(
    pipeline: Any, adapters: Mapping[str, Adapter]
) -> tuple[list[LayerAdapter], list[Adapter]]:
    """Return the adapters whose names are the model's own, and those to be renamed by diffusers."""
    targets, others = list[LayerAdapter](), list[Adapter]()
    for adapter in adapters.values():
        layer = _own_name(pipeline, adapter.name)
        if layer is None:
            others.append(adapter)
        else:
            targets.append(LayerAdapter(layer, adapter))
    return targets, others


def _own_name(pipeline: Any, name: str) -> str | None:
    """Return ``component.layer`` for a name with dots or underscores in the model's own words."""
    denoiser = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
    for start in _OF_DENOISER:
        if name.startswith(start):
            return _found(pipeline, denoiser, name.removeprefix(start))
    for start, component in _OF_ENCODERS.items():
        if name.startswith(start):
            rest = name.removeprefix(start)
            return _found(pipeline, component, rest) or _found(
                pipeline, component, rest.removeprefix("text_model_")
            )
    for start in _BARE:
        if name.startswith(start):
            return _found(pipeline, denoiser, name.removeprefix(start).replace(".", "_"))
    component, _, path = name.partition(".")
    return _found(pipeline, component, path.replace(".", "_")) if path else None


def _found(pipeline: Any, component: str, underscored: str) -> str | None:
    module = getattr(pipeline, component, None)
    path = _path(module, underscored) if isinstance(module, torch.nn.Module) else None
    return None if path is None else f"{component}.{path}"


def _path(module: Any, underscored: str) -> str | None:
    """Return the path of a submodule by its name with underscores for dots."""
    for name, child in list(module._modules.items()):  # noqa: SLF001  # see `load_layers`
        if underscored == name:
            return name
        if child is not None and underscored.startswith(f"{name}_"):
            rest = _path(child, underscored.removeprefix(f"{name}_"))
            if rest is not None:
                return f"{name}.{rest}"
    return None


# Probes.


class Probes:
    """LoRAs of rank 1 in place of adapters: ``down`` counts columns, ``up`` rows of all probes."""

    def __init__(self, adapters: Iterable[Adapter], file: Path) -> None:
        self.state: dict[str, Tensor] = {}  # to be renamed by diffusers
        self._file = file
        self._begins: list[tuple[int, Adapter]] = []
        rows = 1
        for adapter in adapters:
            out, columns = _size(adapter, file)
            _check_size(adapter, max(out, columns), _MAX_SIDE, file)
            self._begins.append((rows, adapter))
            kohya = "." not in adapter.name
            down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
            counted = torch.arange(columns, dtype=torch.float64)
            self.state[f"{adapter.name}.{down}.weight"] = counted[None]
            self.state[f"{adapter.name}.{up}.weight"] = torch.arange(
                rows, rows + out, dtype=torch.float64
            )[:, None]
            if kohya:
                self.state[f"{adapter.name}.alpha"] = torch.tensor(1.0)
            rows += out

    def target(self, layer: str, down: Tensor, up: Tensor) -> LayerAdapter:
        """Return what the renamed halves say. Raises ``Misconfigured`` if they were recomputed."""
        numbers = up.flatten().round().long()
        begin, adapter = max(
            (each for each in self._begins if each[0] <= int(numbers[0])), key=lambda each: each[0]
        )
        out, columns = _size(adapter, self._file)
        rows = numbers - begin
        first = int(rows[0])
        consecutive = torch.equal(rows, torch.arange(first, first + len(rows)))
        same = torch.equal(down.flatten(), torch.arange(columns, dtype=down.dtype))
        if not consecutive or not same or first + len(rows) > out:
            raise Misconfigured(
                f"The LoRA {self._file} is a {adapter.kind}, and {adapter.name} cannot be made to "
                f"fit {layer} of this model. Use one that was trained with diffusers' layers."
            )
        return LayerAdapter(layer, adapter, None if len(rows) == out else rows)


def is_probe(half: Tensor) -> bool:
    """Return whether a renamed half is a probe's. Halves of files are never in 64 bits."""
    return half.dtype is torch.float64


# Changes.


def change_of(target: LayerAdapter, kernel: tuple[int, ...], factor: float, file: Path) -> Change:
    """Return the change that the adapter makes to its target.

    ``kernel``: size of the layer's, () for a linear layer. ``factor``: of an adapter without alpha.
    """
    adapter, rows = target.adapter, target.rows
    match adapter.kind:
        case "LoKr":
            return _kronecker(adapter, rows, kernel, file)
        case "LoHa":
            return _hadamard(adapter, rows, file)
        case "DoRA":
            return _dora(adapter, rows, kernel, factor, file)
        case both:
            raise Misconfigured(
                f"The LoRA {file} is a {both} ({adapter.name}), which cannot be applied. Use a "
                "LoRA, LoKr or LoHa, or a DoRA of a plain LoRA."
            )


def rank_of(adapter: Adapter) -> int | None:
    """Rank of an adapter; None for a LoKr of two whole matrices, which has no factor."""
    for name in ("lokr_w2_b", "lokr_w1_b", "hada_w1_b", "lora_down"):
        if (part := adapter.parts.get(name)) is not None:
            return part.shape[0]
    return None


def _factor(adapter: Adapter) -> float:
    rank = rank_of(adapter)
    return 1.0 if adapter.alpha is None or rank is None else adapter.alpha / rank


def _kronecker(
    adapter: Adapter, rows: Tensor | None, kernel: tuple[int, ...], file: Path
) -> KroneckerChange:
    parts = adapter.parts
    if (left := parts.get("lokr_w1")) is None:
        one, two = _require(adapter, file, "lokr_w1_a", "lokr_w1_b")
        _check_size(adapter, len(one) * two.shape[1], _MAX_VALUES, file)
        left = one.float() @ two.float()
    if (whole := parts.get("lokr_w2")) is not None:
        right: tuple[Tensor, ...] = (whole,)
    else:
        up, down = _require(adapter, file, "lokr_w2_a", "lokr_w2_b")
        right = _up_and_down(adapter, up, down, parts.get("lokr_t2"), file)[::-1]
    if right[0][0].numel() % prod(kernel):
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: {adapter.name} does not have "
            f"a kernel of {kernel}."
        )
    return KroneckerChange(left, right, _factor(adapter), rows)


def _hadamard(adapter: Adapter, rows: Tensor | None, file: Path) -> HadamardChange:
    pairs: list[Tensor] = []
    for number in "12":
        up, down = _require(adapter, file, f"hada_w{number}_a", f"hada_w{number}_b")
        core = adapter.parts.get(f"hada_t{number}")
        up, down = _up_and_down(adapter, up, down, core, file)
        pairs += [up if rows is None else up[rows], down.flatten(1)]
    return HadamardChange(*pairs, factor=_factor(adapter))


def _up_and_down(
    adapter: Adapter, up: Tensor, down: Tensor, core: Tensor | None, file: Path
) -> tuple[Tensor, Tensor]:
    """Return the factors [out, rank] and [rank, in, …] of a product, which may have a Tucker core.

    With a core [rank, rank, …kernel], ``up`` is [rank, out] and ``down`` is [rank, in].
    """
    if core is None:
        return up, down
    _check_size(adapter, core.numel() * down.shape[1], _MAX_VALUES, file)
    return up.mT, torch.einsum("ijkl,jd->idkl", core.float(), down.float())


def _dora(
    adapter: Adapter, rows: Tensor | None, kernel: tuple[int, ...], factor: float, file: Path
) -> DoraPair:
    down, up = _require(adapter, file, "lora_down", "lora_up")
    magnitude = next(adapter.parts[name] for name in _DORA if name in adapter.parts)
    by_input = "dora_scale" in adapter.parts and magnitude.shape[0] == 1 != up.shape[0]
    if by_input or magnitude.numel() != up.shape[0]:
        raise Misconfigured(
            f"The LoRA {file} is a DoRA with one magnitude for each input of {adapter.name}. Only "
            "those with one for each output can be applied (wd_on_out of LyCORIS)."
        )
    magnitude = magnitude.flatten()
    if rows is not None:
        up, magnitude = up[rows], magnitude[rows]
    if not kernel:
        down, up = down.flatten(1), up.flatten(1)
    factor = factor if adapter.alpha is None else _factor(adapter)
    return DoraPair(LoraPair(down, up, factor), magnitude)


def _size(adapter: Adapter, file: Path) -> tuple[int, int]:
    """Rows of the weight that the adapter was made for, and its columns with the kernel."""
    parts = adapter.parts
    if adapter.kind == "DoRA":
        down, up = _require(adapter, file, "lora_down", "lora_up")
        return up.shape[0], down[0].numel()
    if adapter.kind == "LoHa":
        change = _hadamard(adapter, None, file)
        return len(change.up1), change.down1.shape[1]
    kernel = () if (whole := parts.get("lokr_w2")) is None else tuple(whole.shape[2:])
    change = _kronecker(adapter, None, kernel, file)
    return (
        change.left.shape[0] * change.right[-1].shape[0],
        change.left.shape[1] * change.right[0][0].numel(),
    )


_MAX_SIDE = 2**20  # rows or columns of a weight; 27,648 are many
_MAX_VALUES = 2**24  # of a factor; rank 128, 5,120 columns and a kernel of 9 are 5.9 million


def _check_size(adapter: Adapter, size: int, most: int, file: Path) -> None:
    """Raise ``Misconfigured`` before something is computed that would fill the host's memory."""
    if size > most:
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: {adapter.name} is larger than "
            "any layer."
        )


def _require(adapter: Adapter, file: Path, *names: str) -> list[Tensor]:
    if missing := [name for name in names if name not in adapter.parts]:
        raise Misconfigured(
            f"The LoRA {file} is a {adapter.kind} that lacks {' and '.join(missing)} of "
            f"{adapter.name}. Save it again."
        )
    return [adapter.parts[name] for name in names]
