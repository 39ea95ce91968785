"""Step caches that a generation asks for: which ones there are, and denoisers that have one.

diffusers switches a cache on by hooks on the blocks of the shared denoiser. Here the hooks are put
on once, taken off again, and are in place only while a *cached copy* of the denoiser computes. The
copy is a module of its own over the same weights, so generations with different caches, or without
one, run side by side, and only those with the same one share forwards.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import update_wrapper
from typing import Any
from weakref import WeakKeyDictionary, ref

from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks.hooks import HookRegistry

from deployments.engine.interception.components import DENOISERS
from serve_app.domain.errors import Misconfigured

CONFIGS: Mapping[str, Any] = {
    "FirstBlockCache": FirstBlockCacheConfig,
    "MagCache": MagCacheConfig,
    "TaylorSeer": TaylorSeerCacheConfig,
}
"""diffusers' configurations by name. The first two merge, with a state per generation."""

CHOOSE_LAYERS = "choose_layers"
"""Attribute of a denoiser with a function that gives it the layers for the running forward. It does
so before hooks are put on them."""

CHOOSES_ITSELF = "chooses_layers_itself"
"""Attribute of a denoiser whose ``forward`` chooses the layers, for each part of it apart."""


def choose_layers(denoiser: Any) -> None:
    """Give the denoiser the layers for the running forward, where there are several kinds."""
    if (choose := vars(denoiser).get(CHOOSE_LAYERS)) is not None:
        choose(denoiser)


StepCacheSettings = Mapping[str, Any]
"""``name`` of a step cache and its settings."""

_OWN = frozenset({"calibrate", "taylor_factors_dtype"})
"""Settings that are not an endpoint's: one prints, the other is the denoiser's dtype."""


def check_step_cache(pipeline: Any, settings: StepCacheSettings) -> None:
    """Raise ``Misconfigured`` if the denoisers of ``pipeline`` cannot have this cache.

    That is for a cache or setting that there is not, settings that contradict each other, and a
    pipeline whose denoiser cannot cache. The pipeline must not be in use.
    """
    for component, module in _able(pipeline, settings).items():
        _capture_hooks(module, settings, component)


def cached_denoisers(pipeline: Any, settings: StepCacheSettings) -> dict[str, Any]:
    """Return the cached copies of the denoisers, by component; the same ones for equal settings.

    For the engine's thread, between two forwards. Raises the errors of ``check_step_cache``.
    """
    denoisers: dict[str, Any] = {}
    for component, module in _able(pipeline, settings).items():
        known = _copies.setdefault(module, {})
        name = settings_name(settings)
        # Weights that were evicted and came back may have other hooks that move them.
        if name not in known or not vars(known[name])["forward"].fits():
            known[name] = _cached_copy(module, settings, component)
        denoisers[component] = known[name]
    return denoisers


def settings_name(settings: StepCacheSettings | None) -> str:
    """Text that is equal for equal settings; empty without a cache."""
    return "" if settings is None else json.dumps(settings, sort_keys=True)


def original_of(module: Any) -> Any:
    """The denoiser whose weights ``module`` has: that of which it is a cached copy, or one with
    another configuration. Any other module is returned as it is."""
    forward = vars(module).get("forward")
    cached = forward.original if isinstance(forward, _CachedForward) else module
    return vars(cached).get(_ORIGINAL, cached)


def with_config(module: Any, **changes: Any) -> Any:
    """Return a denoiser over the same weights, and with the same LoRAs, with other values in its
    configuration. Calls of the two are not merged."""
    own = copy.copy(module)
    own.register_to_config(**changes)
    vars(own)[_ORIGINAL] = module  # not as a submodule
    return own


def _able(pipeline: Any, settings: StepCacheSettings) -> dict[str, Any]:
    name = settings.get("name", "")
    if name not in CONFIGS:
        raise Misconfigured(f"there is no {name!r}. Choose one of {', '.join(CONFIGS)}.")
    known = {field.name for field in fields(CONFIGS[name])} - _OWN
    if unknown := settings.keys() - known - {"name"}:
        raise Misconfigured(
            f"{name} has no {', '.join(sorted(unknown))}. Settings: {', '.join(sorted(known))}."
        )
    modules: dict[str, Any] = {
        component: getattr(pipeline, component, None) for component in DENOISERS
    }
    able = {
        component: module
        for component, module in modules.items()
        if hasattr(module, "enable_cache")
    }
    if not able:
        raise Misconfigured(
            f"the denoiser of {type(pipeline).__name__} has no step caches. Remove the option."
        )
    if any(getattr(part, "_parallel_config", None) for part in able.values()):
        raise Misconfigured("several devices compute this denoiser together, without step caches.")
    return able


_ORIGINAL = "weights_of"  # attribute of a module that has another configuration

# Attributes that diffusers' hooks set on a module.
_FORWARD, _REGISTRY, _CONFIG = "forward", "_diffusers_hook", "_cache_config"
_ABSENT = object()

_Attributes = dict[str, Any]


def _read(part: Any) -> _Attributes:
    return {name: vars(part).get(name, _ABSENT) for name in (_FORWARD, _REGISTRY)}


def _write(part: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if value is _ABSENT:
            vars(part).pop(name, None)
        else:
            vars(part)[name] = value


class _Hooks:
    """Hooks of one cache on a denoiser, which are not in place."""

    def __init__(
        self, config: Any, parts: Sequence[tuple[Any, _Attributes, _Attributes]], children: Any
    ) -> None:
        """``parts``: (submodule, its attributes without the hooks, and with them)."""
        self.config = config
        self.children = children  # registries below the denoiser
        self._parts = parts

    def fit(self) -> bool:
        """Return whether the submodules are as they were without the hooks."""
        return all(
            vars(part).get(name, _ABSENT) is value
            for part, without, _ in self._parts
            for name, value in without.items()
        )

    @contextmanager
    def in_place(self, module: Any) -> Generator[None]:
        # Compiled code was made without the hooks. Nobody may switch it on meanwhile.
        regions = vars(module).get(_REGIONS, _ABSENT)
        compiled = [] if regions is _ABSENT else [part for part, _ in regions]
        calls = [(part, vars(part).get(_COMPILED, _ABSENT)) for part in compiled]
        try:
            _write(module, {_REGIONS: _ABSENT})
            for part in compiled:
                vars(part)[_COMPILED] = None
            for part, _, with_hooks in self._parts:
                _write(part, with_hooks)
            yield
        finally:
            for part, without, _ in self._parts:
                _write(part, without)
            for part, call in calls:
                _write(part, {_COMPILED: call})
            _write(module, {_REGIONS: regions})


def _capture_hooks(module: Any, settings: StepCacheSettings, component: str) -> _Hooks:
    """Let diffusers put its hooks on ``module``, and take them off again."""
    options = {name: value for name, value in settings.items() if name != "name"}
    if settings["name"] == "TaylorSeer":
        options["taylor_factors_dtype"] = module.dtype
    before = [(part, _read(part)) for part in module.modules()]
    try:
        for part, attributes in before:
            if (registry := attributes[_REGISTRY]) is not _ABSENT:
                # The hooks that move weights stay; the cache's are added to a copy of the list.
                vars(part)[_REGISTRY] = _copy_registry(registry, part)
        module.enable_cache(CONFIGS[settings["name"]](**options))
        config = module._cache_config  # noqa: SLF001
        children = HookRegistry.check_if_exists_or_initialize(module)._get_child_registries()  # noqa: SLF001
        both = [(part, without, _read(part)) for part, without in before if part is not module]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise Misconfigured(f"{settings['name']} does not fit the {component}: {error}") from error
    finally:
        for part, attributes in before:
            _write(part, attributes)
        vars(module).pop(_CONFIG, None)
    changed = [entry for entry in both if entry[1][_FORWARD] is not entry[2][_FORWARD]]
    return _Hooks(config, changed, children)


def _copy_registry(registry: Any, module: Any) -> Any:
    new = HookRegistry(module)
    new.hooks = dict(registry.hooks)
    new._hook_order = list(registry._hook_order)  # noqa: SLF001
    new._fn_refs = list(registry._fn_refs)  # noqa: SLF001
    return new


class _CachedForward:
    """``forward`` of a cached copy: the original's call, with the hooks in place."""

    def __init__(self, original: Any, hooks: _Hooks) -> None:
        self._original = ref(original)  # the copy must not keep it alive
        self._hooks = hooks

    @property
    def original(self) -> Any:
        if (module := self._original()) is None:
            raise RuntimeError("The denoiser of this cached copy was freed.")
        return module

    def fits(self) -> bool:
        return self._hooks.fit()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        module = self.original
        choose_layers(module)
        with self._hooks.in_place(module):
            return module(*arguments, **keywords)


def _cached_copy(module: Any, settings: StepCacheSettings, component: str) -> Any:
    hooks = _capture_hooks(module, settings, component)
    copied: Any = copy.copy(module)  # shares parameters, buffers and submodules
    own = vars(copied)
    for name in _OF_CALLS:
        if name in own:
            own[name] = OrderedDict()  # the original's call runs its own
    own.pop("_old_forward", None)  # accelerate's, which would keep the original alive
    own.pop(_COMPILED, None)
    own[_FORWARD] = update_wrapper(_CachedForward(module, hooks), type(module).forward)
    own[_CONFIG] = hooks.config
    own[_REGISTRY] = registry = HookRegistry(copied)
    registry._child_registries_cache = hooks.children  # noqa: SLF001
    return copied


_copies: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_COMPILED, _REGIONS = "_compiled_call_impl", "compiled_regions"
_OF_CALLS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
