"""LoRAs that are attached to a component, and which of its layers are wrapped when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from deployments.engine.lora.changes import AppliedChange
from deployments.engine.lora.compiled import CompiledLoras
from deployments.engine.lora.layers import ChangesInTurn, LoraSlice, SumOfLoras, halves_of
from deployments.engine.lora.rows import LoraRows
from deployments.engine.merging.compile import rehearsed_calls, run_as_written, run_compiled
from deployments.engine.merging.late_code import CompileLater, use_late_code
from serve_app.domain.errors import Misconfigured

Mirror = Callable[..., None]
"""Gets the name of a method of ``LoraLayers`` that is called, and its arguments but the component.
Of ``attach`` it gets the halves of the layers."""


class LoraLayers:
    """Layers of a component that some LoRA changes, inside the component or set aside.

    While no generation has a LoRA, the component has its own layers: a wrapped layer takes 28 µs of
    the host's time in each forward. Putting the wrapped layers back is quick, as they stay built.
    In a component with compiled blocks, they are exchanged before each forward.
    """

    def __init__(
        self, rows: LoraRows, compile_later: CompileLater, mirror: Mirror | None = None
    ) -> None:
        """``mirror``: makes the same changes on other devices that have the component."""
        self._layers: dict[str, Any] = {}  # by path
        self._mixes: set[str] = set()
        self._wraps = False  # they are inside the component
        self._rows = rows
        self._compile_later = compile_later
        self._mirror = mirror or _no_mirror
        self._compiled: CompiledLoras | None = None  # of a component with compiled blocks

    def attach(self, component: torch.nn.Module, layers: Mapping[str, Any], name: str) -> None:
        """Attach the layers from ``build_layer``, by path. This is quick.

        ``component``: the one of all calls. It is not kept, so that it can be freed.
        """
        self._mirror(
            "attach", {path: halves_of(change, name) for path, change in layers.items()}, name
        )
        self._restore(component)
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
        self._restore(component)
        self._mixes.add(name)
        for layer in self._layers.values():
            here = [part for part in parts if part.name in layer.lora_A]
            if not here:
                continue
            _copy(layer, here[0].name, layer, name)
            factors = [(part.name, layer.scaling[part.name] * part.scale) for part in here]
            if any(isinstance(layer.lora_A[part.name], AppliedChange) for part in here):
                layer.lora_variant[name] = ChangesInTurn(factors)
            elif len(here) > 1:
                layer.lora_variant[name] = SumOfLoras(factors)
            else:
                layer.scaling[name] *= here[0].scale
        use_late_code(component)
        if self._wraps and rehearsed_calls(component):  # since they were wrapped, code has come
            self._take_off(component)
        if not self._wraps:
            self._wrap(component)

    def detach(self, component: torch.nn.Module, name: str) -> None:
        """Remove a LoRA or a mix. Layers without any are gone, as before the first LoRA."""
        self._mirror("detach", name)
        self._restore(component)
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
        chooses = self._compiled is not None and self._compiled.chooses
        if self._mixes or not (chooses or self._wraps):
            return
        self._mirror("unwrap")
        if self._compiled is not None:
            self._compiled.stop(component)
        if self._wraps:
            self._take_off(component)

    def _wrap(self, component: torch.nn.Module) -> None:
        if self._compiled is None and rehearsed_calls(component):
            self._compiled = CompiledLoras(component, self._layers, self._rows, self._compile_later)
        if self._compiled is not None:
            self._compiled.start(component)
            return
        self._wraps = True
        run_as_written(component)  # blocks that were never rehearsed would be compiled again
        for path, layer in self._layers.items():
            _put(component, path, layer)

    def _take_off(self, component: torch.nn.Module) -> None:
        self._wraps = False
        for path, layer in self._layers.items():
            _put(component, path, layer.base_layer)
        run_compiled(component)

    def _restore(self, component: torch.nn.Module) -> None:
        """Give the component its own layers, as the others are about to change."""
        if self._compiled is not None:
            self._compiled.restore(component)


def check_no_foreign_loras(component: torch.nn.Module, rows: LoraRows) -> None:
    """Raise ``Misconfigured`` when other code than the engine has put LoRAs on ``component``."""
    for layer in component.modules():
        if isinstance(layer, LoraLayer) and vars(layer).get("rows") is not rows:
            raise Misconfigured(
                f"The {type(component).__name__} has LoRAs that the engine did not load. Call "
                "unload_lora_weights() on the pipeline, and pass them as submit(loras=…)."
            )


def _no_mirror(*_: Any) -> None:
    pass


def _copy(source: Any, name: str, target: Any, new: str) -> None:
    """Register the same weights under another name or in another layer."""
    for kind in (*LoraLayer.adapter_layer_names, *LoraLayer.other_param_names):
        entries = getattr(source, kind)
        if name in entries:
            getattr(target, kind)[new] = entries[name]


def _put(component: torch.nn.Module, path: str, layer: torch.nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(component.get_submodule(parent), child, layer)
