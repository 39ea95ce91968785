"""Division of a forward by tokens, with diffusers' context parallelism (Ulysses).

Each device has some tokens of all rows, and in attention some heads of all tokens. All devices
compute at the same time and exchange tokens in each attention.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.context_parallel import ContextParallelGatherHook, ContextParallelSplitHook
from diffusers.models._modeling_parallel import ParallelConfig

from deployments.engine.interception.step_cache_options import choose_layers
from deployments.engine.merging.compile import as_written
from deployments.engine.parallel.group import ParallelGroup


@dataclass(frozen=True, slots=True)
class _Exchange:
    """diffusers' hook that splits or gathers tokens at a layer."""

    path: str
    layer: torch.nn.Module
    hook: Any
    metadata: Any
    idle: Any  # metadata with which the hook passes on what it gets

    @contextmanager
    def active(self, denoiser: torch.nn.Module) -> Generator[None]:
        now = denoiser.get_submodule(self.path)
        if now is self.layer:
            self.hook.metadata = self.metadata
            try:
                yield
            finally:
                self.hook.metadata = self.idle
            return
        # A LoRA is around the layer, and adds to its output: both are of this device's tokens.
        hook = copy.copy(self.hook)
        hook.metadata = self.metadata
        handles = [
            now.register_forward_pre_hook(
                lambda layer, args, named: hook.pre_forward(layer, *args, **named),
                with_kwargs=True,
            ),
            now.register_forward_hook(lambda layer, _, output: hook.post_forward(layer, output)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class TokenDivision:
    """Division of one denoiser by tokens. Without ``active``, the denoiser computes undivided."""

    def __init__(self, module: Any, group: ParallelGroup) -> None:
        """Prepare ``module`` on each device. Raises ``ValueError`` when diffusers cannot."""
        self._module = module
        self._config = group.config
        _enable(module, group.config)
        processors = (getattr(submodule, "processor", None) for submodule in module.modules())
        self._processors: list[Any] = [
            processor
            for processor in processors
            if getattr(processor, "_parallel_config", None) is not None
        ]
        self._exchanges = [
            _Exchange(path, layer, hook, hook.metadata, _idle(hook))
            for path, layer in module.named_modules()
            if (registry := getattr(layer, "_diffusers_hook", None)) is not None
            for hook in registry.hooks.values()
            if isinstance(hook, ContextParallelSplitHook | ContextParallelGatherHook)
        ]
        for exchange in self._exchanges:
            exchange.hook.metadata = exchange.idle
        self._configure(None)

    @contextmanager
    def active(self) -> Generator[None]:
        """Inside the block, a forward computes this device's part, and returns the whole output.

        Blocks run as written: compiled code is of the undivided denoiser. LoRAs must be set to run
        so as well.
        """
        choose_layers(self._module)  # while the blocks may still be exchanged
        with ExitStack() as stack:
            for exchange in self._exchanges:
                stack.enter_context(exchange.active(self._module))
            self._configure(self._config)
            stack.callback(self._configure, None)
            stack.enter_context(as_written(self._module))
            yield

    def _configure(self, config: ParallelConfig | None) -> None:
        for processor in self._processors:
            processor._parallel_config = config  # noqa: SLF001


def _idle(hook: Any) -> Any:
    if isinstance(hook, ContextParallelGatherHook):
        return [None] * len(hook.metadata)
    return {}


def _enable(module: Any, config: ParallelConfig) -> None:
    def set_config(_: ParallelConfig) -> ParallelConfig:
        module._parallel_config = config  # noqa: SLF001
        return config

    # diffusers' own method creates a mesh for each module, which needs all processes at the
    # same time, while others of them compute; and it divides by the number of accelerators.
    module._resolve_parallel_config = set_config  # noqa: SLF001
    try:
        module.enable_parallelism(config=config)
    finally:
        del module._resolve_parallel_config  # noqa: SLF001
