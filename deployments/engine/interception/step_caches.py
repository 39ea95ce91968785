"""Step caches (diffusers' ``enable_cache``), which reuse results of a denoiser's earlier steps.

Their state is stored on the denoiser, by the name that a pipeline gives each of its calls
(``cond``, ``uncond``). Interleaved generations use the same names, so each name is prefixed with
the generation's number.

A merged forward gets its own state, stacked from the generations' states. When it has succeeded,
the state is split and returned to them. Whether blocks are computed or taken from the cache is
decided for each generation, as if it were alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks import hooks as diffusers_hooks
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.hooks.hooks import HookRegistry, StateManager
from diffusers.hooks.mag_cache import MagCacheBlockHook, MagCacheHeadHook, MagCacheState

from serve_app.domain.errors import SnapshotRefused


@dataclass(frozen=True, slots=True)
class CacheContext:
    """Context that a pipeline opened around a call of its denoiser."""

    name: str
    more: Mapping[str, Any]  # position in the loop, as diffusers takes it


def caches_steps(module: Any) -> bool:
    return bool(getattr(module, "is_cache_enabled", False))


def enter_context(
    module: Any, generation: int, context: CacheContext | None
) -> AbstractContextManager[Any]:
    """Enter ``context`` under the generation's own name."""
    if not caches_steps(module):
        return nullcontext()
    if context is not None:
        return module.cache_context(name_of(generation, context), **context.more)
    # Without a name from the pipeline, some caches use one name for all; others raise.
    if any(type(hook).__module__ in _NAME_THEMSELVES for _, hook in hooks_with_state(module)):
        return module.cache_context(name_of(generation, None))
    return nullcontext()


def name_of(generation: int, context: CacheContext | None) -> str:
    """Name under which the caches store the call's state."""
    return f"{generation}:{context.name if context is not None else ''}"


def forget(module: Any, generation: int) -> None:
    """Drop the state in the caches of ``module`` for a generation that has ended."""
    if not caches_steps(module):
        return
    for states in _states(module):
        for name in [key for key in states if key.startswith(f"{generation}:")]:
            del states[name]


def states_of(module: Any, generation: int) -> dict[str, list[dict[str, Any] | None]]:
    """Read a generation's state: by name of the pipeline's call, the values of each cache.

    Raises ``SnapshotRefused`` for a cache whose state cannot be read.
    """
    if not caches_steps(module):
        return {}
    if _step_cache_of(module) is None:
        raise SnapshotRefused(
            "A step cache is enabled on the denoiser, and a snapshot cannot contain its state."
        )
    prefix, caches = f"{generation}:", list(_states(module))
    names = dict.fromkeys(name for states in caches for name in states if name.startswith(prefix))
    return {
        name.removeprefix(prefix): [_values(states.get(name)) for states in caches]
        for name in names
    }


def set_states(
    module: Any, generation: int, states: Mapping[str, Sequence[Mapping[str, Any] | None]]
) -> None:
    """Give a generation the state that ``states_of`` read from another one.

    Raises ``ValueError`` if ``module`` has other caches.
    """
    managers = _state_managers(module) if caches_steps(module) else []
    for name, each_has in states.items():
        for manager, values in zip(managers, each_has, strict=True):
            if values is not None:
                vars(_state(manager, f"{generation}:{name}")).update(values)


def _values(state: Any) -> dict[str, Any] | None:
    if state is None:
        return None
    return {name: None if name in _OF_ONE_CALL else it for name, it in vars(state).items()}


def hooks_with_state(module: Any) -> list[tuple[Any, Any]]:
    """diffusers' hooks on ``module`` and below that store state by name, with their registries."""
    registry = HookRegistry.check_if_exists_or_initialize(module)
    return [
        (owner, hook)
        for owner in (registry, *registry._get_child_registries())  # noqa: SLF001
        for hook in owner.hooks.values()
        if any(isinstance(value, StateManager) for value in vars(hook).values())
    ]


def _states(module: Any) -> Iterator[dict[str, Any]]:
    for manager in _state_managers(module):
        yield manager._state_cache  # noqa: SLF001


def _state_managers(module: Any) -> list[StateManager]:
    """State managers of the caches of ``module``, each once."""
    managers = (manager for _, hook in hooks_with_state(module) for manager in _managers(hook))
    return list({id(manager): manager for manager in managers}.values())


# Merging of the states of several generations.

Keep = Callable[[], None]
"""Function that stores each generation's part of the state, once the output is accepted."""


class OutputSplitter(Protocol):
    """Stacking and splitting of values with one entry per generation."""

    def stack(self, values: Sequence[Any]) -> Any: ...

    def split(self, output: Any) -> list[Any]: ...


class SplitCaches(Exception):
    """Step caches decided to compute some calls and not others, so two forwards are needed."""

    def __init__(self, computes: Sequence[bool]) -> None:
        super().__init__("A step cache computes only some of the merged calls.")
        self.computes = computes


class StepCache(Protocol):
    """Merging of one denoiser's step cache. Names are from ``name_of``."""

    def key(self, name: str) -> Hashable:
        """Part of the cache's decision that is known before the forward; equal within a merge."""
        ...

    def merge_states(
        self, module: Any, names: Sequence[str], splitter: OutputSplitter, *, computes: bool | None
    ) -> Any:
        """Context manager around the merged forward, which gives a ``Keep``.

        The forward raises ``SplitCaches`` when calls decide differently, unless ``computes``
        gives the decision for all.
        """
        ...


def may_merge(module: Any, context: CacheContext | None) -> bool:
    """Return whether there is no step cache, or one that this module can merge."""
    if not caches_steps(module):
        return True
    return context is not None and _step_cache_of(module) is not None


def key_of(module: Any, name: str, padded: Sequence[Sequence[int]]) -> Hashable:
    """Part of the batch key that a step cache adds; None without a step cache.

    ``padded``: shapes of the padded arguments, because cached values have to fit the shape at the
    next step.
    """
    cache = _step_cache_of(module) if caches_steps(module) else None
    return None if cache is None else (cache.key(name), tuple(padded))


@contextmanager
def merged_state(
    module: Any, names: Sequence[str], splitter: OutputSplitter, *, computes: bool | None
) -> Generator[Keep]:
    """Merge the states of ``names`` around a forward; see ``StepCache.merge_states``."""
    cache = _step_cache_of(module) if caches_steps(module) else None
    if cache is None:
        yield _nothing
        return
    with cache.merge_states(module, names, splitter, computes=computes) as keep:
        yield keep


class FirstBlock:
    """diffusers' FirstBlockCache.

    It reuses the output of the blocks after the first one when the first block's residual is close
    to the residual of the last computed step.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._manager = head.state_manager

    def key(self, name: str) -> Hashable:  # noqa: ARG002
        return None  # the decision is known only after the first block

    @contextmanager
    def merge_states(
        self, module: Any, names: Sequence[str], splitter: OutputSplitter, *, computes: bool | None
    ) -> Generator[Keep]:
        own = [_state(self._manager, name) for name in names]
        merged = copy.copy(own[0])

        def decide(residual: torch.Tensor) -> bool:
            parts = zip(names, splitter.split(residual), strict=True)
            decisions = [self._decides(*it) for it in parts] if computes is None else [computes]
            if any(decisions) and not all(decisions):
                raise SplitCaches(decisions)
            if not decisions[0]:
                merged.tail_block_residuals = splitter.stack(
                    [state.tail_block_residuals for state in own]
                )
            return decisions[0]

        # An instance attribute, which overrides the method of the hook's class.
        vars(self._head)[_DECIDES] = decide
        try:
            with _in_place(module, self._manager, merged):
                yield partial(self._keep, own, merged, splitter)
        finally:
            del vars(self._head)[_DECIDES]

    def _decides(self, name: str, residual: torch.Tensor) -> bool:
        """Decision that the hook would make for that generation alone."""
        before = self._manager._context  # noqa: SLF001
        self._manager.set_context(diffusers_hooks.CacheContext(name))
        try:
            return getattr(type(self._head), _DECIDES)(self._head, residual)
        finally:
            self._manager.set_context(before)

    def _keep(self, own: Sequence[Any], merged: Any, splitter: OutputSplitter) -> None:
        if not merged.should_compute:
            return
        residuals = splitter.split(merged.head_block_residual)
        tails = splitter.split(merged.tail_block_residuals)
        for state, residual, tail in zip(own, residuals, tails, strict=True):
            state.head_block_residual = _clone(residual)
            state.tail_block_residuals = _clone(tail)


class Magnitude:
    """diffusers' MagCache. It decides by step and known ratios, so before the forward."""

    def __init__(self, head: Any, tail: Any) -> None:
        self._tail = tail
        self._manager = head.state_manager
        self._config = head.config

    def key(self, name: str) -> Hashable:
        return self._decides(_state(self._manager, name))[0]

    @contextmanager
    def merge_states(
        self, module: Any, names: Sequence[str], splitter: OutputSplitter, *, computes: bool | None
    ) -> Generator[Keep]:
        own = [_state(self._manager, name) for name in names]
        computes = self._decides(own[0])[0]  # equal for all, because it is in the batch key
        merged = MagCacheState()
        if computes:
            merged.step_index = -1  # before the steps that may be reused
        else:
            merged.step_index = _LATE
            merged.accumulated_err = -inf
            merged.previous_residual = splitter.stack([state.previous_residual for state in own])
        with _in_place(module, self._manager, merged):
            yield partial(self._keep, own, merged, splitter)

    def _keep(self, own: Sequence[Any], merged: Any, splitter: OutputSplitter) -> None:
        parts = splitter.split(merged.previous_residual) if merged.should_compute else own
        for state, part in zip(own, parts, strict=True):
            state.should_compute, *accumulated = self._decides(state)
            state.accumulated_ratio, state.accumulated_steps, state.accumulated_err = accumulated
            if merged.should_compute:
                state.previous_residual = _clone(part)
            self._tail._advance_step(state)  # noqa: SLF001

    def _decides(self, state: Any) -> tuple[bool, Any, int, Any]:
        """Return whether the next step is computed, and the accumulated ratio, steps and error."""
        ratios, step = self._config.mag_ratios, state.step_index
        kept = int(self._config.retention_ratio * self._config.num_inference_steps + 0.5)
        if step < kept:  # these steps are always computed
            return True, state.accumulated_ratio, state.accumulated_steps, state.accumulated_err
        ratio = state.accumulated_ratio * (ratios[step] if step < len(ratios) else 1.0)
        error = state.accumulated_err + abs(1.0 - ratio)
        steps = state.accumulated_steps + 1
        near = error <= self._config.threshold and steps <= self._config.max_skip_steps
        if near and state.previous_residual is not None:
            return False, ratio, steps, error
        return True, 1.0, 0, 0.0


_known: WeakKeyDictionary[torch.nn.Module, tuple[Any, StepCache | None]] = WeakKeyDictionary()


def _step_cache_of(module: Any) -> StepCache | None:
    """Step cache of ``module``; None if it cannot be merged."""
    registry = HookRegistry.check_if_exists_or_initialize(module)
    below = registry._get_child_registries()  # noqa: SLF001  # a new list when a cache is enabled
    known = _known.get(module)
    if known is None or known[0] is not below:
        known = _known[module] = (below, _find(module))
    return known[1]


def _find(module: Any) -> StepCache | None:
    hooks = [hook for _, hook in hooks_with_state(module)]
    if len({id(manager) for hook in hooks for manager in _managers(hook)}) != 1:
        return None
    first, *rest = hooks
    if isinstance(first, FBCHeadBlockHook) and rest:
        return FirstBlock(first)
    # In a model with one block, both hooks are on it, and a reused step is not counted.
    blocks = {id(registry) for registry, _ in hooks_with_state(module)}
    if not isinstance(first, MagCacheHeadHook) or first.config.calibrate or len(blocks) == 1:
        return None
    tail = next((it for it in rest if isinstance(it, MagCacheBlockHook) and it.is_tail), None)
    return None if tail is None else Magnitude(first, tail)


def _managers(hook: Any) -> Iterator[StateManager]:
    return (value for value in vars(hook).values() if isinstance(value, StateManager))


def _state(manager: Any, name: str) -> Any:
    """State of a generation, created if missing, as the hooks do."""
    states = manager._state_cache  # noqa: SLF001
    if name not in states:
        states[name] = manager._state_cls()  # noqa: SLF001
    return states[name]


@contextmanager
def _in_place(module: Any, manager: Any, merged: Any) -> Generator[None]:
    states = manager._state_cache  # noqa: SLF001
    states[_MERGED] = merged
    try:
        with module.cache_context(_MERGED):
            yield
    finally:
        del states[_MERGED]


def _clone(value: Any) -> Any:
    """Copy out of the merged forward's memory."""
    if isinstance(value, tuple):
        return tuple(map(_clone, value))
    return None if value is None else value.clone()


def _nothing() -> None:
    pass


_OF_ONE_CALL = frozenset({"head_block_output", "head_block_input"})
"""Values of a state that are not read after the call that set them."""

_DECIDES = "_should_compute_remaining_blocks"
_MERGED = "merged"  # names of generations contain a colon
_LATE = 10**9  # step index after all others
_NAME_THEMSELVES = ("diffusers.hooks.mag_cache", "diffusers.hooks.text_kv_cache")
