"""Step caches (diffusers' ``enable_cache``) keep what a denoiser computed in earlier steps.

Their state lies on the denoiser, by the name that a pipeline gives each of its calls (``cond``,
``uncond``). Interleaved generations use the same names, so each call gets its generation's number
in front of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CacheContext:
    """What a pipeline said around a call of its denoiser."""

    name: str
    more: Mapping[str, Any]  # where the loop is, as diffusers takes it


def caches_steps(module: Any) -> bool:
    return bool(getattr(module, "is_cache_enabled", False))


def entered(
    module: Any, generation: int, context: CacheContext | None
) -> AbstractContextManager[Any]:
    """``context``, for this generation alone."""
    if context is None or not caches_steps(module):
        return nullcontext()
    return module.cache_context(f"{generation}:{context.name}", **context.more)


def forget(module: Any, generation: int) -> None:
    """Drop what the caches of ``module`` keep for a generation that has ended."""
    if not caches_steps(module):
        return
    for states in _states(module):
        for name in [each for each in states if each.startswith(f"{generation}:")]:
            del states[name]


def _states(module: Any) -> Iterator[dict[str, Any]]:
    from diffusers.hooks.hooks import HookRegistry, StateManager  # noqa: PLC0415

    registry = HookRegistry.check_if_exists_or_initialize(module)
    for each in (registry, *registry._get_child_registries()):  # noqa: SLF001
        for hook in each.hooks.values():
            for value in vars(hook).values():
                if isinstance(value, StateManager):
                    yield value._state_cache  # noqa: SLF001
