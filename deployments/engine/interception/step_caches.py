"""Step caches of several generations in one forward.

diffusers keeps the state of a cache under the name of the call. A merged forward gets a state of
its own, woven of what each generation has, and gives it back in parts when it has gone well.
Whether blocks are computed or answered from the cache is decided for each, as if it were alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.hooks.hooks import CacheContext, HookRegistry, StateManager
from diffusers.hooks.mag_cache import MagCacheBlockHook, MagCacheHeadHook, MagCacheState

from deployments.engine.merge_plan import MergePlan
from deployments.engine.stand_in import DenoiserCall
from deployments.engine.step_caches import caches_steps, hooks_with_state, name_of
from deployments.engine.weaving import Parting

Keep = Callable[[], None]
"""Gives each generation its part of the state, once its output is known to be good."""


class Parted(Exception):
    """Some of the calls are to be computed and others are not: they are two forwards."""

    def __init__(self, computes: Sequence[bool]) -> None:
        super().__init__("Calls were merged of which some reuse what the others compute.")
        self.computes = computes


class StepCache(Protocol):
    """Of one denoiser. Names are those of ``name_of``."""

    def key(self, name: str) -> Hashable:
        """What is known of a call before its forward, and has to be equal for a merge."""
        ...

    def together(
        self, module: Any, names: Sequence[str], parting: Parting, *, computes: bool | None
    ) -> Any:
        """A context around the merged forward, which gives a ``Keep``. ``Parted`` comes out of the
        forward, unless ``computes`` says what all of them do."""
        ...


def key_of(call: DenoiserCall, generation: int, plan: MergePlan) -> Hashable:
    """What a step cache adds to the batch key."""
    cache = _step_cache_of(call.module) if caches_steps(call.module) else None
    if cache is None:
        return None
    # What is kept of a padded argument has to fit what comes at the next step.
    padded = tuple(plan.arguments.named[name].shape for name in plan.declared.pad)
    return cache.key(name_of(generation, call.cache)), padded


def may_merge(call: DenoiserCall) -> bool:
    """Whether there is no step cache, or one that is known here."""
    if not caches_steps(call.module):
        return True
    return call.cache is not None and _step_cache_of(call.module) is not None


@contextmanager
def together(
    calls: Sequence[tuple[DenoiserCall, int]], parting: Parting, *, computes: bool | None
) -> Generator[Keep]:
    """Around the merged forward of ``calls``, each with its generation's number. See
    ``StepCache.together``."""
    module = calls[0][0].module
    cache = _step_cache_of(module) if caches_steps(module) else None
    if cache is None:
        yield _nothing
        return
    names = [name_of(generation, call.cache) for call, generation in calls]
    with cache.together(module, names, parting, computes=computes) as keep:
        yield keep


class FirstBlock:
    """diffusers' FirstBlockCache: what comes after the first block is reused where that block's
    residual is near to that of the last computed step."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self._manager = head.state_manager

    def key(self, name: str) -> Hashable:  # noqa: ARG002
        return None  # it shows after the first block

    @contextmanager
    def together(
        self, module: Any, names: Sequence[str], parting: Parting, *, computes: bool | None
    ) -> Generator[Keep]:
        own = [_state(self._manager, name) for name in names]
        merged = copy.copy(own[0])

        def decide(residual: torch.Tensor) -> bool:
            parts = zip(names, parting.apart(residual), strict=True)
            each = [self._decides(*it) for it in parts] if computes is None else [computes]
            if any(each) and not all(each):
                raise Parted(each)
            if not each[0]:
                merged.tail_block_residuals = parting.together(
                    [state.tail_block_residuals for state in own]
                )
            return each[0]

        # The hook asks itself, so this comes before the method of its class.
        vars(self._head)[_DECIDES] = decide
        try:
            with _in_place(module, self._manager, merged):
                yield partial(self._keep, own, merged, parting)
        finally:
            del vars(self._head)[_DECIDES]

    def _decides(self, name: str, residual: torch.Tensor) -> bool:
        """What the hook itself would say for that generation."""
        before = self._manager._context  # noqa: SLF001
        self._manager.set_context(CacheContext(name))
        try:
            return getattr(type(self._head), _DECIDES)(self._head, residual)
        finally:
            self._manager.set_context(before)

    def _keep(self, own: Sequence[Any], merged: Any, parting: Parting) -> None:
        if not merged.should_compute:
            return
        residuals = parting.apart(merged.head_block_residual)
        tails = parting.apart(merged.tail_block_residuals)
        for state, residual, tail in zip(own, residuals, tails, strict=True):
            state.head_block_residual = _own(residual)
            state.tail_block_residuals = _own(tail)


class Magnitude:
    """diffusers' MagCache: by the step and known ratios, so it is decided before the forward."""

    def __init__(self, head: Any, tail: Any) -> None:
        self._tail = tail
        self._manager = head.state_manager
        self._config = head.config

    def key(self, name: str) -> Hashable:
        return self._decides(_state(self._manager, name))[0]

    @contextmanager
    def together(
        self, module: Any, names: Sequence[str], parting: Parting, *, computes: bool | None
    ) -> Generator[Keep]:
        own = [_state(self._manager, name) for name in names]
        computes = self._decides(own[0])[0]  # equal for all: it is in the batch key
        merged = MagCacheState()
        if computes:
            merged.step_index = -1  # before all that may be reused
        else:
            merged.step_index = _LATE
            merged.accumulated_err = -inf
            merged.previous_residual = parting.together([each.previous_residual for each in own])
        with _in_place(module, self._manager, merged):
            yield partial(self._keep, own, merged, parting)

    def _keep(self, own: Sequence[Any], merged: Any, parting: Parting) -> None:
        parts = parting.apart(merged.previous_residual) if merged.should_compute else own
        for state, part in zip(own, parts, strict=True):
            state.should_compute, *accumulated = self._decides(state)
            state.accumulated_ratio, state.accumulated_steps, state.accumulated_err = accumulated
            if merged.should_compute:
                state.previous_residual = _own(part)
            self._tail._advance_step(state)  # noqa: SLF001

    def _decides(self, state: Any) -> tuple[bool, Any, int, Any]:
        """Whether the next step is computed, and what is accumulated then: ratio, steps, error."""
        ratios, step = self._config.mag_ratios, state.step_index
        kept = int(self._config.retention_ratio * self._config.num_inference_steps + 0.5)
        if step < kept:  # these are always computed
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
    """None for one whose generations cannot be merged here."""
    registry = HookRegistry.check_if_exists_or_initialize(module)
    below = registry._get_child_registries()  # noqa: SLF001  # a new list when a cache is enabled
    known = _known.get(module)
    if known is None or known[0] is not below:
        known = _known[module] = (below, _find(module))
    return known[1]


def _find(module: Any) -> StepCache | None:
    hooks = [hook for _, hook in hooks_with_state(module)]
    if len({id(each) for hook in hooks for each in _managers(hook)}) != 1:
        return None
    first, *rest = hooks
    if isinstance(first, FBCHeadBlockHook) and rest:
        return FirstBlock(first)
    # In a model of one block, both hooks are on it, and a reused step is not counted.
    blocks = {id(registry) for registry, _ in hooks_with_state(module)}
    if not isinstance(first, MagCacheHeadHook) or first.config.calibrate or len(blocks) == 1:
        return None
    tail = next((it for it in rest if isinstance(it, MagCacheBlockHook) and it.is_tail), None)
    return None if tail is None else Magnitude(first, tail)


def _managers(hook: Any) -> Iterator[StateManager]:
    return (each for each in vars(hook).values() if isinstance(each, StateManager))


def _state(manager: Any, name: str) -> Any:
    """Of a generation; made where there is none, as the hooks do."""
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


def _own(value: Any) -> Any:
    """Not a view into the merged forward's memory."""
    if isinstance(value, tuple):
        return tuple(map(_own, value))
    return None if value is None else value.clone()


def _nothing() -> None:
    pass


_DECIDES = "_should_compute_remaining_blocks"
_MERGED = "merged"  # those of generations have a colon
_LATE = 10**9  # a step after all others
