"""Layers in the names that only diffusers' converters know, found with probes.

A *probe* is a LoRA of rank 1 in place of an adapter, whose values are numbers of rows and columns.
diffusers renames and splits it, and the numbers tell which rows of which layer went where. An
adapter whose probe does not come back has no layer in the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.engine.lora.adapters import MAX_SIDE, Adapter, adapters_in, check_size, size_of
from deployments.engine.lora.names import LayerNames, Target

UNEXPECTED = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError),
    *(ArithmeticError, AssertionError),
)
"""What diffusers raises for names that it does not know, and torch and our own code for tensors of
shapes that no adapter has."""


def find_by_diffusers(
    pipeline: Any, names: LayerNames, adapters: Sequence[Adapter], file: Path
) -> Mapping[str, Sequence[Target]]:
    """Find the layers of adapters by diffusers' converter for ``pipeline``, by adapter's name.

    Raises ``Misconfigured`` for an adapter that is larger than any layer.
    """
    probes, begins = _probes(adapters, file)
    unet = getattr(pipeline, "unet", None)
    config = unet.config if unet is not None else None
    try:
        renamed = pipeline.lora_state_dict(probes, unet_config=config, return_alphas=True)
    except UNEXPECTED:
        return {}
    state = renamed[0] if isinstance(renamed, tuple) else renamed
    targets: defaultdict[str, list[Target]] = defaultdict(list)
    for layer, probe in adapters_in(state, file)[0].items():
        own = names.find(layer)
        up, down = probe.parts.get("lora_up"), probe.parts.get("lora_down")
        if len(own) == 1 and up is not None and down is not None:
            adapter, rows, total = _origin(up, begins)
            columns = torch.arange(down.numel(), dtype=down.dtype)
            if torch.equal(down.flatten(), columns):  # otherwise it was recomputed
                whole = torch.equal(rows, torch.arange(total))
                target = Target(own[0].layer, None if whole else rows, 0 if whole else total)
                targets[adapter.name].append(target)
    return targets


def _probes(
    adapters: Sequence[Adapter], file: Path
) -> tuple[dict[str, Tensor], list[tuple[int, Adapter, int]]]:
    """Return the probes, and each adapter's first number with its count of rows."""
    state: dict[str, Tensor] = {}
    begins: list[tuple[int, Adapter, int]] = []
    begin = 1
    for adapter in adapters:
        if not adapter.kind:  # diffusers does not rename differences
            continue
        out, columns = size_of(adapter, file)
        check_size(adapter, max(out, columns), MAX_SIDE, file)
        begins.append((begin, adapter, out))
        kohya = "." not in adapter.name or any("lora_down" in name for name in adapter.tensors)
        down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
        counted = torch.arange(columns, dtype=torch.float64)
        state[f"{adapter.name}.{down}.weight"] = counted[None]
        rows = torch.arange(begin, begin + out, dtype=torch.float64)
        state[f"{adapter.name}.{up}.weight"] = rows[:, None]
        if kohya:
            state[f"{adapter.name}.alpha"] = torch.tensor(1.0)
        begin += out
    return state, begins


def _origin(up: Tensor, begins: Sequence[tuple[int, Adapter, int]]) -> tuple[Adapter, Tensor, int]:
    """Adapter that the half of a probe comes from, its rows there, and how many there are."""
    numbers = up.flatten().round().long()
    first = int(numbers.min())
    begin, adapter, total = max(
        (entry for entry in begins if entry[0] <= first), key=lambda entry: entry[0]
    )
    return adapter, numbers - begin, total
