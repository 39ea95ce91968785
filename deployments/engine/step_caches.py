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
    if not caches_steps(module):
        return nullcontext()
    if context is not None:
        return module.cache_context(name_of(generation, context), **context.more)
    # Some take a name of their own where the pipeline gives none, one for all; others raise.
    if any(type(hook).__module__ in _NAME_THEMSELVES for _, hook in hooks_with_state(module)):
        return module.cache_context(name_of(generation, None))
    return nullcontext()


def name_of(generation: int, context: CacheContext | None) -> str:
    """Under which the caches keep what belongs to the call."""
    return f"{generation}:{context.name if context is not None else ''}"


def forget(module: Any, generation: int) -> None:
    """Drop what the caches of ``module`` keep for a generation that has ended."""
    if not caches_steps(module):
        return
    for states in _states(module):
        for name in [each for each in states if each.startswith(f"{generation}:")]:
            del states[name]


def hooks_with_state(module: Any) -> list[tuple[Any, Any]]:
    """diffusers' hooks on ``module`` and below that keep something by name, each with the registry
    that it is in."""
    from diffusers.hooks.hooks import HookRegistry, StateManager  # noqa: PLC0415

    registry = HookRegistry.check_if_exists_or_initialize(module)
    return [
        (each, hook)
        for each in (registry, *registry._get_child_registries())  # noqa: SLF001
        for hook in each.hooks.values()
        if any(isinstance(value, StateManager) for value in vars(hook).values())
    ]


def _states(module: Any) -> Iterator[dict[str, Any]]:
    from diffusers.hooks.hooks import StateManager  # noqa: PLC0415

    for _, hook in hooks_with_state(module):
        for value in vars(hook).values():
            if isinstance(value, StateManager):
                yield value._state_cache  # noqa: SLF001


_NAME_THEMSELVES = ("diffusers.hooks.mag_cache", "diffusers.hooks.text_kv_cache")
