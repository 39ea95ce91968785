"""Step caches that an endpoint asks for: which ones there are, and switching them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from deployments.engine.interception.components import DENOISERS
from serve_app.domain.errors import Misconfigured

CONFIGS: Mapping[str, Callable[..., Any]] = {
    "FirstBlockCache": FirstBlockCacheConfig,
    "MagCache": MagCacheConfig,
    "TaylorSeer": TaylorSeerCacheConfig,
}
"""diffusers' configurations by name. The first two merge, with a state per generation."""

_OWN = frozenset({"calibrate", "taylor_factors_dtype"})
"""Settings that are not an endpoint's: one prints, the other is the denoiser's dtype."""


def enable_step_cache(pipeline: Any, name: str, **settings: Any) -> None:
    """Switch on the cache ``name`` in the denoisers of ``pipeline``, for good.

    Raises ``Misconfigured`` for a cache or setting that there is not, settings that contradict
    each other, and a pipeline whose denoiser cannot cache.
    """
    if name not in CONFIGS:
        raise Misconfigured(f"there is no {name!r}. Choose one of {', '.join(CONFIGS)}.")
    make = CONFIGS[name]
    known = {each.name for each in fields(make)} - _OWN  # pyright: ignore[reportArgumentType]
    if unknown := settings.keys() - known:
        raise Misconfigured(
            f"{name} has no {', '.join(sorted(unknown))}. Settings: {', '.join(sorted(known))}."
        )
    found: dict[str, Any] = {each: getattr(pipeline, each, None) for each in DENOISERS}
    able = {each: module for each, module in found.items() if hasattr(module, "enable_cache")}
    if not able:
        raise Misconfigured(
            f"the denoiser of {type(pipeline).__name__} has no step caches. Remove the option."
        )
    for component, module in able.items():
        own = {"taylor_factors_dtype": module.dtype} if name == "TaylorSeer" else {}
        try:
            module.enable_cache(make(**settings, **own))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise Misconfigured(f"{name} does not fit the {component}: {error}") from error
