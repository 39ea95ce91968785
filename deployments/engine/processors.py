"""Attention processors that a pipeline sets on a denoiser while it runs.

Some pipelines (perturbed-attention guidance, for one) replace them on the very module that all
generations share, and put the old ones back at the end. So they belong to the generation: taken off
whenever it is suspended, put back for its calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch

Processors = tuple[Any, ...]
"""One per owner, in a fixed order."""


class ProcessorOwners:
    """The parts of some modules that have a processor."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        owners = {
            id(part): part
            for module in modules
            for part in module.modules()
            if _NAME in vars(part) or _NAME in part._modules  # noqa: SLF001
        }
        self._owners = list(owners.values())

    def current(self) -> Processors:
        return tuple(getattr(owner, _NAME) for owner in self._owners)

    def put(self, processors: Processors) -> None:
        for owner, processor in zip(self._owners, processors, strict=True):
            if getattr(owner, _NAME) is not processor:
                # A processor with weights is a submodule, another is a plain attribute.
                delattr(owner, _NAME)
                setattr(owner, _NAME, processor)


def same(some: Processors, others: Processors) -> bool:
    """The very same objects."""
    return all(one is other for one, other in zip(some, others, strict=True))


def described(processors: Processors, usual: Processors) -> Hashable:
    """What a batch key takes: how they differ from the usual ones. Those of two generations are
    equal when they do the same: of one class, with plain attributes alone, all equal."""
    return tuple(
        (place, _description(processor))
        for place, (processor, other) in enumerate(zip(processors, usual, strict=True))
        if processor is not other
    )


def _description(processor: Any) -> Hashable:
    state = getattr(processor, "__dict__", None)
    if isinstance(processor, torch.nn.Module) or state is None:
        return id(processor)
    if not all(isinstance(value, _PLAIN) for value in state.values()):
        return id(processor)
    return type(processor), tuple(sorted(state.items()))


_NAME = "processor"
_PLAIN = (str, int, float, bool, type(None))
