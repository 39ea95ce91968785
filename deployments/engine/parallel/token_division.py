"""Division of a forward by tokens, with diffusers' context parallelism (Ulysses).

Each device has some tokens of all rows, and in attention some heads of all tokens. All devices
compute at the same time and exchange tokens in each attention.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks.context_parallel import ContextParallelGatherHook, ContextParallelSplitHook
from diffusers.models._modeling_parallel import ParallelConfig

from deployments.engine.merging.compile import as_written
from deployments.engine.parallel.group import ParallelGroup


class TokenDivision:
    """Division of one denoiser by tokens. Without ``active``, the denoiser computes undivided."""

    def __init__(self, module: Any, group: ParallelGroup) -> None:
        """Prepare ``module`` on each device. Raises ``ValueError`` when diffusers cannot."""
        self._module = module
        self._config = group.config
        _enable(module, group.config)
        processors = (getattr(each, "processor", None) for each in module.modules())
        self._processors: list[Any] = [
            each for each in processors if getattr(each, "_parallel_config", None) is not None
        ]
        registries = (getattr(each, "_diffusers_hook", None) for each in module.modules())
        hooks = [hook for each in registries if each for hook in each.hooks.values()]
        self._hooks = [
            (hook, hook.metadata, _idle(hook))
            for hook in hooks
            if isinstance(hook, ContextParallelSplitHook | ContextParallelGatherHook)
        ]
        self._switch(on=False)

    @contextmanager
    def active(self) -> Generator[None]:
        """Inside the block, a forward computes this device's part, and returns the whole output.

        Blocks run as written: compiled code is of the undivided denoiser.
        """
        self._switch(on=True)
        try:
            with as_written(self._module):
                yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for hook, metadata, idle in self._hooks:
            hook.metadata = metadata if on else idle
        for processor in self._processors:
            processor._parallel_config = self._config if on else None  # noqa: SLF001


def _idle(hook: Any) -> Any:
    """Metadata with which a hook passes on what it gets."""
    if isinstance(hook, ContextParallelGatherHook):
        return [None] * len(hook.metadata)
    return {}


def _enable(module: Any, config: ParallelConfig) -> None:
    def resolved(_: ParallelConfig) -> ParallelConfig:
        module._parallel_config = config  # noqa: SLF001
        return config

    # diffusers' own method creates a mesh for each module, which needs all processes at the
    # same time, while others of them compute; and it divides by the number of accelerators.
    module._resolve_parallel_config = resolved  # noqa: SLF001
    try:
        module.enable_parallelism(config=config)
    finally:
        del module._resolve_parallel_config  # noqa: SLF001
