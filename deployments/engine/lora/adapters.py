"""Adapters of layers in files: LoRA, LoKr, LoHa, DoRA and differences, by the names of trainers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from deployments.engine.lora.changes import (
    Change,
    DifferenceChange,
    DoraPair,
    HadamardChange,
    KroneckerChange,
    LoraPair,
)
from deployments.engine.lora.names import Target
from serve_app.domain.errors import Misconfigured

_LORA = ("lora_down", "lora_up", "lora_mid")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_DORA = ("dora_scale", "magnitude")
_PARTS = {
    **{suffix: suffix for suffix in (*_LOKR, *_LOHA, *_DORA, "alpha", "diff", "diff_b")},
    **{
        f"{down}.weight": "lora_down"
        for down in ("lora_down", "lora_A", "lora.down", "lora_linear_layer.down", "down")
    },
    **{
        f"{up}.weight": "lora_up"
        for up in ("lora_up", "lora_B", "lora.up", "lora_linear_layer.up", "up")
    },
    "lora_mid.weight": "lora_mid",
    "lora_B.bias": "up_bias",
    "lora_up.bias": "up_bias",
    "lora_magnitude_vector": "magnitude",  # peft's; ai-toolkit names it ``magnitude``
    "lora_magnitude_vector.weight": "magnitude",
    "w_norm": "diff",  # LyCORIS', of norms
    "b_norm": "diff_b",
}
"""Parts of an adapter by the ends of their tensors' names."""

_REFUSED = {
    "oft_blocks": "an OFT",
    "oft_diag": "an OFT",
    "oft_R.weight": "an OFT",
    "a1.weight": "a GLoRA",
    "b1.weight": "a GLoRA",
    "on_input": "an (IA)³ adapter",
    "ia3_l": "an (IA)³ adapter",
    "vera_lambda_b": "a VeRA",
    "set_weight": "a replacement of whole weights",
    "reshape_weight": "a LoRA that widens layers",
}
_MOST_DOTS = 3  # in the end of a name
_PEFT_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.[^.]+\.(weight|bias)$")
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora$")  # diffusers' before version 0.22


@dataclass
class Adapter:
    """Adapter of one layer, as it is in the file."""

    name: str  # of the layer, as the file has it
    parts: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None
    tensors: list[str] = field(default_factory=list)  # their names in the file

    @property
    def kind(self) -> str:
        """Kind of the low-rank adapter, "" if there are only differences."""
        names = self.parts.keys()
        kinds = (("LoKr", _LOKR), ("LoHa", _LOHA), ("DoRA", _DORA))
        labels = [kind for kind, its in kinds if not names.isdisjoint(its)]
        is_lora = not names.isdisjoint(_LORA) and "DoRA" not in labels
        return " with ".join([*labels, *(["LoRA"] if is_lora else [])])

    @property
    def is_zero(self) -> bool:
        """True if it changes nothing, as what some tools write for each layer."""
        if "lora_up" in self.parts:
            parts = [
                self.parts[name]
                for name in ("lora_up", "up_bias", *DIFFERENCES)
                if name in self.parts
            ]
        else:
            parts = list(self.parts.values())
        return not any(bool(part.any()) for part in parts)


DIFFERENCES = ("diff", "diff_b")


def adapters_in(
    tensors: Mapping[str, Tensor], file: Path
) -> tuple[Mapping[str, Adapter], Sequence[str]]:
    """Return the adapters in a file by name of the layer, and the names of all other tensors.

    Raises ``Misconfigured`` for a kind that cannot be applied.
    """
    adapters: dict[str, Adapter] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        layer, end = _split(name)
        if end in _REFUSED:
            raise Misconfigured(
                f"The LoRA {file} is {_REFUSED[end]} ({name}), which cannot be applied. Use a "
                "LoRA, LoKr, LoHa or DoRA."
            )
        if not end or not layer:
            others.append(name)
            continue
        adapter = adapters.setdefault(layer, Adapter(layer))
        adapter.tensors.append(name)
        if end == "alpha":
            adapter.alpha = float(tensor)
        else:
            adapter.parts[_PARTS[end]] = tensor
    return adapters, others


def part_of(name: str) -> str:
    """Part of an adapter that a tensor is, by its name in the file."""
    return _PARTS.get(_split(name)[1], "")


def _split(name: str) -> tuple[str, str]:
    """Split a tensor's name into the layer's name and the longest end that is known, or ""."""
    pieces = _PEFT_ADAPTER.sub(r".\1.\2", name).split(".")
    for count in range(min(_MOST_DOTS, len(pieces) - 1), 0, -1):
        end = ".".join(pieces[-count:])
        if end in _PARTS or end in _REFUSED:
            return _PROCESSOR.sub(r".to_\1", ".".join(pieces[:-count])), end
    return name, ""


# Changes.


def change_of(
    adapter: Adapter, target: Target, kernel: tuple[int, ...], factor: float, file: Path
) -> Change:
    """Return the change that the adapter makes to its target.

    ``kernel``: size of the layer's, () for a linear layer. ``factor``: of an adapter without alpha.
    """
    rows, parts = target.rows, adapter.parts
    if rows is not None and (row_count := _rows_of(adapter, file)) != target.total:
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: {adapter.name} has {row_count} "
            f"outputs, and {target.total} are needed for {target.layer}."
        )
    if adapter.alpha is not None:
        factor = _factor(adapter)
    bias = parts.get("diff_b")
    if (scaled := parts.get("up_bias")) is not None:  # as peft has it, part of what alpha scales
        bias = scaled.float() * factor + (0 if bias is None else bias.float())
    whole = parts.get("diff")
    match adapter.kind:
        case "":
            change = None
        case "LoRA":
            change = _lora(adapter, rows, kernel, factor, file)
        case "LoKr":
            change = _kronecker(adapter, rows, kernel, file)
        case "LoHa":
            change = _hadamard(adapter, rows, file)
        case "DoRA":
            change = _dora(adapter, rows, kernel, factor, file)
        case both:
            raise Misconfigured(
                f"The LoRA {file} is a {both} ({adapter.name}), which cannot be applied. Use a "
                "LoRA, LoKr or LoHa, or a DoRA of a plain LoRA."
            )
    if whole is None and bias is None and change is not None:
        return change
    whole, bias = (
        tensor if tensor is None or rows is None else tensor[rows] for tensor in (whole, bias)
    )
    return DifferenceChange(change, whole, bias)


def _rows_of(adapter: Adapter, file: Path) -> int:
    """Rows of the weight that the adapter was made for."""
    parts = adapter.parts
    for name in ("lora_up", *DIFFERENCES, "up_bias"):
        if name in parts:
            return len(parts[name])
    return size_of(adapter, file)[0]


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
        check_size(adapter, len(one) * two.shape[1], _MAX_VALUES, file)
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
    check_size(adapter, core.numel() * down.shape[1], _MAX_VALUES, file)
    return up.mT, torch.einsum("ijkl,jd->idkl", core.float(), down.float())


def _lora(
    adapter: Adapter, rows: Tensor | None, kernel: tuple[int, ...], factor: float, file: Path
) -> LoraPair:
    down, up = _require(adapter, file, "lora_down", "lora_up")
    if not len(down):
        raise Misconfigured(f"The LoRA {file} has a rank of 0 in {adapter.name}.")
    if (core := adapter.parts.get("lora_mid")) is not None:  # LoCon: [rank, rank, …kernel]
        _, down = _up_and_down(adapter, up, down.flatten(1), core, file)
    if rows is not None:
        up = up[rows]
    if not kernel:
        down, up = down.flatten(1), up.flatten(1)
    return LoraPair(down, up, factor)


def _dora(
    adapter: Adapter, rows: Tensor | None, kernel: tuple[int, ...], factor: float, file: Path
) -> DoraPair:
    pair = _lora(adapter, None, kernel, factor, file)
    down, up = pair.down, pair.up
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
    return DoraPair(LoraPair(down, up, factor), magnitude)


def size_of(adapter: Adapter, file: Path) -> tuple[int, int]:
    """Rows of the weight that the adapter was made for, and its columns with the kernel."""
    parts = adapter.parts
    if adapter.kind in ("LoRA", "DoRA"):
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


MAX_SIDE = 2**20  # rows or columns of a weight; 27,648 are many
_MAX_VALUES = 2**24  # of a factor; rank 128, 5,120 columns and a kernel of 9 are 5.9 million


def check_size(adapter: Adapter, size: int, most: int, file: Path) -> None:
    """Raise ``Misconfigured`` before something is computed that would fill the host's memory."""
    if size > most:
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: {adapter.name} is larger than "
            "any layer."
        )


def _require(adapter: Adapter, file: Path, *names: str) -> list[Tensor]:
    if missing := [name for name in names if name not in adapter.parts]:
        raise Misconfigured(
            f"The LoRA {file} has no {' and no '.join(missing)} for {adapter.name}, which it "
            f"changes by a {adapter.kind}. Save it again."
        )
    return [adapter.parts[name] for name in names]
