"""LoRAs on the layers of a shared model; each row of a forward uses its own.

A layer that some LoRA changes is wrapped in peft's layer while such a LoRA is attached. The engine
uses peft's adapter names for **mixes**: a mix is the LoRAs of a generation with their scales.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Conv2d, Linear, LoraLayer
from torch.nn.utils.rnn import pad_sequence

from deployments.engine.lora.changes import (
    AppliedChange,
    Change,
    LoraPair,
    Upload,
    apply_on_device,
)
from deployments.engine.lora.rows import Lineup, LoraRows, RowNames, Stacks
from deployments.engine.merging.compile import run_as_written, run_compiled
from serve_app.domain.errors import Misconfigured


class _PerRow:
    """Override of peft's forward for mixed batches.

    peft looks for the rows of each mix again in each layer. In a small model, that took longer than
    computing them.
    """

    base_layer: Any
    lora_A: Any  # noqa: N815
    lora_B: Any  # noqa: N815
    scaling: dict[str, float]
    lora_variant: dict[str, Any]

    def _check_forward_args(self, *_: Any, **__: Any) -> None:
        """Do nothing: ``RowNames`` has counted the entries, once for all layers."""

    def _mixed_batch_forward(
        self, x: torch.Tensor, *arguments: Any, adapter_names: RowNames, **_: Any
    ) -> torch.Tensor:
        result = self.base_layer(x, *arguments)
        for name, places in adapter_names.places().items():
            if name in self.lora_A:
                its = x.index_select(0, places).to(self.lora_A[name].weight.dtype)
                self._apply_mix(name, its, result, places)
        return result

    def _apply_mix(
        self, name: str, x: torch.Tensor, result: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Apply the mix to the rows ``places`` of ``result``, whose inputs are ``x``."""
        variant = self.lora_variant.get(name)
        if isinstance(variant, _Changes):
            made = variant.forward(self, x=x, result=result.index_select(0, places))
            result.index_copy_(0, places, made.to(result.dtype))
            return
        if variant is not None:
            added = variant.added(self, x)
        else:
            added = self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        result.index_add_(0, places, added.to(result.dtype))


class _Linear(_PerRow, Linear):
    """Linear layer that computes all rows with two batched matrix products.

    Applying one LoRA after the other takes five kernel calls for each.
    """

    def _mixed_batch_forward(
        self, x: torch.Tensor, *arguments: Any, adapter_names: RowNames, **more: Any
    ) -> torch.Tensor:
        lineup = adapter_names.lineup
        here = {mix for mix in lineup.mixes if mix in self.lora_A}
        if not here or not here.isdisjoint(self.lora_variant):
            return super()._mixed_batch_forward(x, *arguments, adapter_names=adapter_names, **more)
        result = self.base_layer(x, *arguments)
        stacks = lineup.stacked(self, lambda: self._stack(lineup, here))
        rows = x.reshape(len(lineup.mixes), -1, x.shape[-1]).to(stacks.downs.dtype)
        inner = torch.bmm(rows, stacks.downs.mT) * stacks.factors
        return result + torch.bmm(inner, stacks.ups).view(result.shape).to(result.dtype)

    def _stack(self, lineup: Lineup, here: Container[str]) -> Stacks:
        mixes = lineup.mixes
        some = next(mix for mix in mixes if mix in here)
        # For rows without a LoRA: rank 0, so that no other row's LoRA changes them.
        no_down, no_up = self.lora_A[some].weight[:0], self.lora_B[some].weight.mT[:0]
        downs = stack_padded([self.lora_A[mix].weight if mix in here else no_down for mix in mixes])
        ups = stack_padded([self.lora_B[mix].weight.mT if mix in here else no_up for mix in mixes])
        factors = tuple(self.scaling.get(mix, 0.0) for mix in mixes)
        return Stacks(downs, ups, lineup.factors(factors, downs))


def stack_padded(weights: list[torch.Tensor]) -> torch.Tensor:
    """Stack one [rank, …] for each row to [rows, rank, …], zero-padded to the largest rank."""
    if len({len(weight) for weight in weights}) == 1:
        return torch.stack(weights)
    return pad_sequence(weights, batch_first=True)


class _Conv2d(_PerRow, Conv2d):
    pass


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
    kind = _Linear if isinstance(base, torch.nn.Linear) else _Conv2d
    with torch.device("meta"):  # affects this thread only; draws no random numbers
        layer = kind(base, name, settings, r=rank, lora_alpha=rank)
    layer.training = base.training
    layer.set_adapter([], inference_mode=True)  # none, unless the hook selects one
    layer.register_forward_pre_hook(rows.select_mix, with_kwargs=True)
    return layer


Halves = tuple[Any, Any, float]
"""Modules of one adapter on a layer, before and after its rank, and its factor."""


def halves_of(layer: Any, name: str) -> Halves:
    """What another device needs to build the same layer around its own copy of the base."""
    return layer.lora_A[name], layer.lora_B[name], layer.scaling[name]


def layer_of_halves(
    component: torch.nn.Module, path: str, name: str, halves: Halves, rows: LoraRows
) -> Any:
    """Build the layer for ``path`` of ``component`` from halves that are on its device."""
    base: Any = component.get_submodule(path)
    layer = _empty_layer(base.base_layer if isinstance(base, LoraLayer) else base, name, 1, rows)
    layer.lora_A[name], layer.lora_B[name], layer.scaling[name] = halves
    return layer


def _set_weight(half: Any, given: torch.Tensor, upload: Upload) -> None:
    weight = upload(given.reshape(half.weight.shape))
    # No parameter: offloading moves the parameters of a component, and group offloading fails for
    # those that it did not know when it formed its groups. LoRAs stay on the device.
    del half.weight
    half.weight = weight


Mirror = Callable[..., None]
"""Gets the name of a method of ``LoraLayers`` that was called, and its arguments but the component.
Of ``attach`` it gets the halves of the layers."""


class LoraLayers:
    """Layers of a component that some LoRA changes, inside the component or set aside.

    While no generation has a LoRA, the component has its own layers: a wrapped layer takes 28 µs of
    the host's time in each forward, and compiled blocks cannot run. Putting the wrapped layers back
    is quick, as they stay built.
    """

    def __init__(self, mirror: Mirror = lambda *_: None) -> None:
        """``mirror``: makes the same changes on other devices that have the component."""
        self._mirror = mirror
        self._layers: dict[str, Any] = {}  # by path
        self._mixes: set[str] = set()
        self._wraps = False  # they are inside the component

    def attach(self, component: torch.nn.Module, layers: Mapping[str, Any], name: str) -> None:
        """Attach the layers from ``build_layer``, by path. This is quick.

        ``component``: the one of all calls. It is not kept, so that it can be freed.
        """
        self._mirror("attach", {path: halves_of(each, name) for path, each in layers.items()}, name)
        for path, layer in layers.items():
            if (there := self._layers.get(path)) is not None:
                _copy(layer, name, there, name)
                continue
            self._layers[path] = layer
            if self._wraps:
                _put(component, path, layer)

    def create_mix(self, component: torch.nn.Module, name: str, parts: Sequence[LoraSlice]) -> None:
        """Create the mix ``name`` from attached LoRAs, and wrap the layers if they are not.

        It takes almost no memory.
        """
        self._mirror("create_mix", name, tuple(parts))
        self._mixes.add(name)
        for layer in self._layers.values():
            here = [each for each in parts if each.name in layer.lora_A]
            if not here:
                continue
            _copy(layer, here[0].name, layer, name)
            factors = [(each.name, layer.scaling[each.name] * each.scale) for each in here]
            if any(isinstance(layer.lora_A[each.name], AppliedChange) for each in here):
                layer.lora_variant[name] = _Changes(factors)
            elif len(here) > 1:
                layer.lora_variant[name] = _Sum(factors)
            else:
                layer.scaling[name] *= here[0].scale
        if not self._wraps:
            self._wrap(component)

    def detach(self, component: torch.nn.Module, name: str) -> None:
        """Remove a LoRA or a mix. Layers without any are gone, as before the first LoRA."""
        self._mirror("detach", name)
        self._mixes.discard(name)
        for path, layer in list(self._layers.items()):
            if name not in layer.lora_A:
                continue
            layer._active_adapter = []  # noqa: SLF001  # otherwise peft would select another
            layer.delete_adapter(name)
            if not layer.lora_A:
                del self._layers[path]
                if self._wraps:
                    _put(component, path, layer.base_layer)
        if not self._layers:
            self.unwrap(component)

    def unwrap(self, component: torch.nn.Module) -> None:
        """Set the wrapped layers aside, unless a mix needs them."""
        if not self._wraps or self._mixes:
            return
        self._mirror("unwrap")
        self._wraps = False
        for path, layer in self._layers.items():
            _put(component, path, layer.base_layer)
        run_compiled(component)

    def _wrap(self, component: torch.nn.Module) -> None:
        self._wraps = True
        run_as_written(component)
        for path, layer in self._layers.items():
            _put(component, path, layer)


def check_no_foreign_loras(component: torch.nn.Module, rows: LoraRows) -> None:
    """Raise ``Misconfigured`` when other code than the engine has put LoRAs on ``component``."""
    for layer in component.modules():
        hooks = getattr(layer, "_forward_pre_hooks", {}).values()
        if isinstance(layer, LoraLayer) and rows.select_mix not in hooks:
            raise Misconfigured(
                f"The {type(component).__name__} has LoRAs that the engine did not load. Call "
                "unload_lora_weights() on the pipeline, and pass them as submit(loras=…)."
            )


class _Sum:
    """Replacement for peft's LoRA variants that applies several LoRAs to the same rows."""

    def __init__(self, factors: Sequence[tuple[str, float]]) -> None:
        self._factors = factors

    def forward(
        self, module: Any, *, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Return ``result`` with the sum added.

        peft calls it, with these parameter names, when all rows have this mix.
        """
        return result + self.added(module, x)

    def added(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        return sum(  # pyright: ignore[reportReturnType]
            module.lora_B[name](module.lora_A[name](x)) * factor for name, factor in self._factors
        )


class _Changes:
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
                added = half.added(module.base_layer, x, result, factor)
            else:
                added = module.lora_B[name](half(x)) * factor
            result = result + added
        return result


def _copy(source: Any, name: str, target: Any, new: str) -> None:
    """Register the same weights under another name or in another layer."""
    for kind in (*LoraLayer.adapter_layer_names, *LoraLayer.other_param_names):
        held = getattr(source, kind)
        if name in held:
            getattr(target, kind)[new] = held[name]


def _put(component: torch.nn.Module, path: str, layer: torch.nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(component.get_submodule(parent), child, layer)
