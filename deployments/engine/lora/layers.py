"""LoRAs on the layers of a shared model; each row of a forward uses its own.

A layer that some LoRA changes is wrapped in peft's layer while such a LoRA is attached. The engine
uses peft's adapter names for **mixes**: a mix is the LoRAs of a generation with their scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Conv2d, Conv3d, Linear, LoraLayer
from torch.nn.utils.rnn import pad_sequence

from deployments.engine.lora.changes import (
    AppliedChange,
    Change,
    LoraPair,
    Upload,
    apply_on_device,
)
from deployments.engine.lora.rows import Lineup, LoraRows, Stacks


class _PerRow:
    """Override of peft's forward.

    peft looks for the rows of each mix again in each layer, and expects a hook that names them. In
    a small model, both took longer than computing the mixes.
    """

    rows: LoraRows
    base_layer: Any
    lora_A: Any  # noqa: N815
    lora_B: Any  # noqa: N815
    scaling: dict[str, float]
    lora_variant: dict[str, Any]

    def forward(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        rows = self.rows
        if rows.lineup is not None:
            return self._of_rows(x, rows.lineup, *arguments, **keywords)
        if rows.single not in self.lora_A:
            return self.base_layer(x, *arguments, **keywords)
        self._active_adapter = [rows.single]
        return super().forward(x, *arguments, **keywords)  # pyrefly: ignore[missing-attribute]

    def _of_rows(
        self, x: torch.Tensor, lineup: Lineup, *arguments: Any, **keywords: Any
    ) -> torch.Tensor:
        """Compute rows that differ in their mixes."""
        result = self.base_layer(x, *arguments, **keywords)
        for name, places in lineup.places(len(x), x.device).items():
            if name in self.lora_A:
                its = x.index_select(0, places).to(self.lora_A[name].weight.dtype)
                self._apply_mix(name, its, result, places)
        return result

    def _apply_mix(
        self, name: str, x: torch.Tensor, result: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Apply the mix to the rows ``places`` of ``result``, whose inputs are ``x``."""
        variant = self.lora_variant.get(name)
        if isinstance(variant, ChangesInTurn):
            output = variant.forward(self, x=x, result=result.index_select(0, places))
            result.index_copy_(0, places, output.to(result.dtype))
            return
        if variant is not None:
            added = variant.compute_delta(self, x)
        else:
            added = self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        result.index_add_(0, places, added.to(result.dtype))


class LoraLinear(_PerRow, Linear):  # pyrefly: ignore[inconsistent-inheritance]
    """Linear layer that computes all rows with two batched matrix products.

    Applying one LoRA after the other takes five kernel calls for each.
    """

    def _of_rows(
        self, x: torch.Tensor, lineup: Lineup, *arguments: Any, **keywords: Any
    ) -> torch.Tensor:
        if (stacks := lineup.stacks_of(self, self._stack)) is None:
            return super()._of_rows(x, lineup, *arguments, **keywords)
        lineup.check(len(x))
        result = self.base_layer(x, *arguments, **keywords)
        downs, ups = stacks.downs, stacks.ups
        rows = x.reshape(len(downs), -1, x.shape[-1])
        inner = torch.bmm(rows if rows.dtype is downs.dtype else rows.to(downs.dtype), downs.mT)
        if result.dtype is not ups.dtype:
            return result + torch.bmm(inner, ups).view(result.shape).to(result.dtype)
        shape = result.shape
        return result.reshape(len(ups), -1, shape[-1]).baddbmm_(inner, ups).view(shape)

    def _stack(self, lineup: Lineup) -> Stacks | None:
        """Stack the weights of the rows; None if they are not plain LoRAs, or there are none."""
        mixes = lineup.mixes
        here = {mix for mix in mixes if mix in self.lora_A}
        if not here or not here.isdisjoint(self.lora_variant):
            return None
        some = next(mix for mix in mixes if mix in here)
        # For rows without a LoRA: rank 0, so that no other row's LoRA changes them.
        no_down, no_up = self.lora_A[some].weight[:0], self.lora_B[some].weight.mT[:0]
        downs = stack_padded([self.lora_A[mix].weight if mix in here else no_down for mix in mixes])
        ups = stack_padded([self.lora_B[mix].weight.mT if mix in here else no_up for mix in mixes])
        factors = tuple(self.scaling.get(mix, 0.0) for mix in mixes)
        return Stacks(downs, ups * lineup.factors(factors, ups))


def stack_padded(weights: list[torch.Tensor]) -> torch.Tensor:
    """Stack one [rank, …] for each row to [rows, rank, …], zero-padded to the largest rank."""
    if len({len(weight) for weight in weights}) == 1:
        return torch.stack(weights)
    return pad_sequence(weights, batch_first=True)


class _Conv2d(_PerRow, Conv2d):
    pass


class _Conv3d(_PerRow, Conv3d):
    pass


class _WithoutRank(torch.nn.Module, LoraLayer):
    """Layer that only differences can change, such as a norm. peft has none for those."""

    def __init__(self, base: Any) -> None:
        torch.nn.Module.__init__(self)
        LoraLayer.__init__(self, base)

    def forward(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        result = self.base_layer(x, *arguments, **keywords)
        for name in self.active_adapters:
            variant: Any = self.lora_variant[name]
            result = variant.forward(self, x=x, result=result)
        return result

    def _get_in_out_features(self, module: Any) -> tuple[None, None]:
        del module
        return None, None


class _Norm(_PerRow, _WithoutRank):
    pass


@dataclass(frozen=True, slots=True)
class LoraPart:
    """LoRA of a linear layer in a mix, on the device."""

    down: torch.Tensor  # [rank, in]
    up: torch.Tensor  # [out, rank]
    factor: float


def parts_of(layer: Any, mix: str) -> list[LoraPart] | None:
    """LoRAs that the mix applies to the layer; None if it is of another kind or layer."""
    variant = layer.lora_variant.get(mix)
    if not isinstance(layer, LoraLinear) or isinstance(variant, ChangesInTurn):
        return None
    those = variant.factors if isinstance(variant, SumOfLoras) else [(mix, layer.scaling[mix])]
    return [
        LoraPart(layer.lora_A[name].weight, layer.lora_B[name].weight, factor)
        for name, factor in those
    ]


@dataclass(frozen=True, slots=True)
class LoraSlice:
    """LoRA of a mix."""

    name: str  # of an attached LoRA
    scale: float


def build_layer(base: Any, name: str, change: Change, rows: LoraRows, upload: Upload) -> Any:
    """Build peft's layer around ``base`` with one adapter. ``base`` is not changed.

    ``upload``: copies a part to the device; the layer may be used once the copies are done.

    It is also safe while another thread loads a pipeline, when parameters that are registered
    anywhere lose their contents (diffusers#14347): the weights of an adapter are no parameters.
    """
    layer = _empty_layer(base, name, change.rank if isinstance(change, LoraPair) else 1, rows)
    if isinstance(change, LoraPair):
        _set_weight(layer.lora_A[name], change.down, upload)
        _set_weight(layer.lora_B[name], change.up, upload)
    else:
        layer.lora_A[name] = apply_on_device(change, base, upload)
        layer.lora_B[name] = torch.nn.Identity()
    layer.scaling[name] = change.factor
    return layer


def _empty_layer(base: Any, name: str, rank: int, rows: LoraRows) -> Any:
    """Build peft's layer around ``base``, whose adapter has no weights yet."""
    settings = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, inference_mode=True)
    kind = next((ours for theirs, ours in _KINDS.items() if isinstance(base, theirs)), None)
    with torch.device("meta"):  # affects this thread only; draws no random numbers
        layer: Any = kind(base, name, settings, r=rank, lora_alpha=rank) if kind else _Norm(base)
    layer.training = base.training
    layer.set_adapter([], inference_mode=True)  # none, unless the forward selects one
    layer.rows = rows
    return layer


_KINDS: dict[type, Any] = {
    torch.nn.Linear: LoraLinear,
    torch.nn.Conv2d: _Conv2d,
    torch.nn.Conv3d: _Conv3d,
}

Halves = tuple[Any, Any, float]
"""Modules of one adapter on a layer, before and after its rank, and its factor."""


def halves_of(layer: Any, name: str) -> Halves:
    """What another device needs to build the same layer around its own copy of the base."""
    return layer.lora_A[name], layer.lora_B[name], layer.scaling[name]


def layer_of_halves(
    component: torch.nn.Module, path: str, name: str, halves: Halves, rows: LoraRows
) -> Any:
    """Build the layer for ``path`` of ``component`` from halves that are on its device."""
    there: Any = component.get_submodule(path)
    base = getattr(there, "base_layer", there)  # it may have a LoRA already
    layer = _empty_layer(base, name, 1, rows)
    layer.lora_A[name], layer.lora_B[name], layer.scaling[name] = halves
    return layer


def _set_weight(half: Any, tensor: torch.Tensor, upload: Upload) -> None:
    weight = upload(tensor.reshape(half.weight.shape))
    # No parameter: offloading moves the parameters of a component, and group offloading fails for
    # those that it did not know when it formed its groups. LoRAs stay on the device.
    del half.weight
    half.weight = weight


class SumOfLoras:
    """Replacement for peft's LoRA variants that applies several LoRAs to the same rows."""

    def __init__(self, factors: Sequence[tuple[str, float]]) -> None:
        self.factors = factors

    def forward(
        self, module: Any, *, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Return ``result`` with the sum added.

        peft calls it, with these parameter names, when all rows have this mix.
        """
        return result + self.compute_delta(module, x)

    def compute_delta(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        total: Any = sum(
            module.lora_B[name](module.lora_A[name](x)) * factor for name, factor in self.factors
        )
        return total


class ChangesInTurn:
    """Replacement for peft's LoRA variants that applies adapters of any kind, one after another.

    As in peft, a DoRA scales what the adapters before it have made.
    """

    def __init__(self, factors: Sequence[tuple[str, float]]) -> None:
        self._factors = factors

    def forward(
        self, module: Any, *, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Return ``result`` with the changes. peft calls it, with these parameter names."""
        for name, factor in self._factors:
            half = module.lora_A[name]
            if isinstance(half, AppliedChange):
                added = half.compute_delta(module.base_layer, x, result, factor)
            else:
                added = module.lora_B[name](half(x)) * factor
            result = result + added
        return result
