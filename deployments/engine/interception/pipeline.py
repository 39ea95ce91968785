"""Interception of a pipeline's calls and steps, without changing the pipeline."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any, Protocol

import diffusers
import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from deployments.engine.interception.chunked_decode import tiled_copy
from deployments.engine.interception.components import (
    KnownDenoisers,
    is_of_transformers,
    modules_of,
)
from deployments.engine.interception.isolation import SharedComponents
from deployments.engine.interception.model_traits import NOTHING, ModelTrait
from deployments.engine.interception.modular import hide_progress_bars, is_modular, modular_view
from deployments.engine.interception.proxy import class_of_copies, let_suspend, proxy_for
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.interception.stack_frames import frames_of_the_pipeline, read
from deployments.engine.interception.step_cache_options import (
    StepCacheSettings,
    cached_denoisers,
)
from serve_app.domain.errors import Misconfigured, Unsupported


class SolverObserver(Protocol):
    """Sees the steps of a generation's schedulers, and may change what they return."""

    def on_step(self, number: int, step: SolverStep) -> Any:
        """Return the output of a step. ``number``: 0 for the main scheduler; copies of it that the
        pipeline makes during its call count from 1, in their order."""
        ...


OnStep = Callable[[SolverStep | None], None]
"""Called after each step; None: copies of the scheduler have made it."""


class InterceptedPipeline:
    """Loaded pipeline that gives every generation its own copy.

    The copies share the weights. Everything that a call changes is per copy: schedulers are deep
    copies, and attributes that the pipeline sets on itself are set on the copy. The same applies to
    pipelines inside the pipeline. The original pipeline is never called.
    """

    def __init__(
        self, pipeline: Any, known: KnownDenoisers, declared: ModelTrait = NOTHING
    ) -> None:
        """``declared``: model rules of the pipeline's class."""
        self.pipeline = pipeline
        if hasattr(pipeline, "set_progress_bar_config"):
            hide_progress_bars(pipeline)
        self.draws_globally = declared.draws_globally
        self._known = known
        kind = type(pipeline)
        self._proxies = {
            name: proxy_for(module, name, suspends=known.is_denoiser(kind, name, module))
            for name, module in modules_of(pipeline)
        }
        self.shared = SharedComponents(denoiser.real_module for denoiser in self.denoisers)

    @property
    def denoisers(self) -> list[Any]:
        """Proxies of the denoisers."""
        return [proxy for proxy in self._proxies.values() if proxy.suspends]

    def record_calls(self, calls: Mapping[str, int], steps: int) -> None:
        """Find denoisers by the calls of each component in a generation of ``steps`` steps."""
        candidates = {
            name: count
            for name, count in calls.items()
            if not is_of_transformers(self._proxies[name].real_module)
        }
        self.let_suspend(self._known.record_calls(type(self.pipeline), candidates, steps))

    def let_suspend(self, names: Iterable[str]) -> None:
        """Treat these components as denoisers from now on."""
        inert = [self._proxies[name] for name in names if name in self._proxies]
        if new := [proxy for proxy in inert if not proxy.suspends]:
            for proxy in new:
                let_suspend(proxy)
            self.shared = SharedComponents(denoiser.real_module for denoiser in self.denoisers)

    def restore_dtypes(self) -> None:
        """Give each component its dtype again, after a call that did not end.

        SDXL in float16 upcasts its autoencoder for each decoding and has no ``finally``.
        """
        for proxy in self._proxies.values():
            module, usual = proxy.real_module, proxy.usual_dtype
            if usual is not None and module.dtype != usual:
                module.to(dtype=usual)

    def cached_denoisers(self, step_cache: StepCacheSettings | None) -> Mapping[str, Any]:
        """Proxies of the denoisers with this step cache, by component. None without one.

        Raises ``Misconfigured`` if the denoisers cannot have it.
        """
        if step_cache is None:
            return {}
        denoisers = cached_denoisers(self.pipeline, step_cache)
        return {name: proxy_for(module, name, suspends=True) for name, module in denoisers.items()}

    def copy(
        self,
        on_step: OnStep,
        *,
        tiles: bool = False,
        denoisers: Mapping[str, Any] | None = None,
        observer: SolverObserver | None = None,
    ) -> Any:
        """Return a copy to call once, inside a generation. ``on_step`` runs after each step.

        ``tiles``: its autoencoder computes by tiles, if it can. ``denoisers``: proxies that replace
        those of the same name. ``observer``: of its schedulers' steps.
        """
        copied = self._copy(self.pipeline, "", {})
        if tiles and (proxy := self._tiled_proxy()) is not None:
            vars(copied)[_AUTOENCODER] = proxy
        vars(copied).update(denoisers or {})
        if (scheduler := main_scheduler(copied)) is not None:
            vars(scheduler)["step"] = counted = _CountedStep(scheduler, on_step, observer)
            if hasattr(copied, "progress_bar"):
                vars(copied)["progress_bar"] = _CountedBars(copied, counted)
        return copied

    def _tiled_proxy(self) -> Any | None:
        """Proxy of the autoencoder that computes by tiles; None if it cannot."""
        usual = self._proxies.get(_AUTOENCODER)
        if usual is None or (module := tiled_copy(usual.real_module)) is None:
            return None
        proxy = proxy_for(module, _AUTOENCODER, suspends=usual.suspends)
        object.__setattr__(proxy, "usual_dtype", usual.usual_dtype)  # it may be upcast now
        return proxy

    def _copy(self, pipeline: Any, prefix: str, schedulers: dict[int, Any]) -> Any:
        """``schedulers``: copies by the original's id; inner pipelines share the outer's copies."""
        copied = copy.copy(pipeline)
        if isinstance(copied, DiffusionPipeline):
            copied.__class__ = class_of_copies(type(pipeline))
        own = vars(copied)
        own.pop("_num_timesteps", None)  # of a call of the original
        for name, component in list(own.items()):
            if is_scheduler(component) or isinstance(component, BaseGuidance):
                if id(component) not in schedulers:
                    schedulers[id(component)] = copy.deepcopy(component)
                own[name] = schedulers[id(component)]
            elif isinstance(component, DiffusionPipeline):
                own[name] = self._copy(component, f"{prefix}{name}.", schedulers)
            elif (proxy := self._proxies.get(prefix + name)) is not None:
                own[name] = proxy
        if hasattr(copied, "maybe_free_model_hooks"):
            # The original method resets step caches and offloads modules that others are using.
            own["maybe_free_model_hooks"] = _do_nothing
        return copied


_AUTOENCODER = "vae"


def is_scheduler(component: Any) -> bool:
    """Return whether it is a scheduler in diffusers' sense."""
    kind = type(component)
    return hasattr(kind, "set_timesteps") and hasattr(kind, "step")


def main_scheduler(pipeline: Any) -> Any | None:
    """Scheduler whose steps are the generation's steps, or None if the pipeline has none."""
    scheduler = vars(pipeline).get("scheduler")
    return scheduler if is_scheduler(scheduler) else None


def steps_ahead(pipeline: Any) -> int:
    """Number of scheduler steps that the running call will make; 0 if unknown. Called inside the
    generation, before its first step."""
    scheduler = main_scheduler(pipeline)
    timesteps = getattr(scheduler, "timesteps", None)
    # Before a scheduler is set, it has those of the training: a prior runs before it.
    if timesteps is None or getattr(scheduler, "num_inference_steps", 0) is None:
        return 0
    # What a pipeline says itself: it may take them several times, such as for each block of a text,
    # and with an input image it leaves the first of them out.
    if in_all := vars(pipeline).get("_num_timesteps"):
        return in_all
    # With an input image, a call starts in the middle of the timesteps.
    ahead = timesteps[getattr(scheduler, "begin_index", None) or 0 :]
    return next(_last_of(ahead), len(ahead))


def _last_of(ahead: Any) -> Iterator[int]:
    """Numbers of timesteps that frames of the call have as the rest of those ``ahead``. Kandinsky 2
    and DeepFloyd IF tell nobody else that they leave some out."""
    for frame in frames_of_the_pipeline():
        names = read(frame)
        for name in _TIMESTEPS:
            left = names.get(name)
            if not isinstance(left, Tensor) or left.ndim != 1 or not 0 < len(left) < len(ahead):
                continue
            if torch.equal(left.to(ahead), ahead[-len(left) :]):
                yield len(left)


_TIMESTEPS = ("timesteps", "timesteps_tensor")
"""Local variables of diffusers' pipelines."""


class _CountedStep:
    """Counted ``step`` of a scheduler.

    Copies that a pipeline makes of its scheduler during a call (LTX-2 for the audio, SkyReels-V2
    for each frame) get their own ``step``, which is observed and not counted.
    """

    def __init__(self, scheduler: Any, on_step: OnStep, observer: SolverObserver | None) -> None:
        self.on_step = on_step
        self.used = False
        self._observed = None if observer is None else _ObservedSolver(0, observer)
        self._step = scheduler.step
        functools.update_wrapper(self, self._step)  # pipelines read the signature of `step`

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        step = _made_by(self._step, arguments, keywords)
        if self._observed is not None:
            step = replace(step, output=self._observed.on_step(step))
        self.used = True
        self.on_step(step)
        return step.output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        scheduler = memo[id(self._step.__self__)]
        step = MethodType(type(scheduler).step, scheduler)
        return step if self._observed is None else _ObservedStep(step, self._observed)


def _made_by(
    step: MethodType, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> SolverStep:
    """Make a step of a scheduler."""
    output = step(*arguments, **keywords)
    return SolverStep.of(step.__self__, arguments, keywords, output)


class _ObservedSolver:
    """A scheduler's number among the copies, for its observer."""

    def __init__(
        self, number: int, observer: SolverObserver, numbers: Iterator[int] | None = None
    ) -> None:
        """``numbers``: of the next copies."""
        self._number = number
        self._observer = observer
        self._numbers = itertools.count(number + 1) if numbers is None else numbers

    def copy(self) -> _ObservedSolver:
        return _ObservedSolver(next(self._numbers), self._observer, self._numbers)

    def on_step(self, step: SolverStep) -> Any:
        return self._observer.on_step(self._number, step)


class _ObservedStep:
    """Observed ``step`` of a copy of a scheduler."""

    def __init__(self, step: MethodType, original: _ObservedSolver) -> None:
        self._step = step
        self._observed = original.copy()
        functools.update_wrapper(self, step)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._observed.on_step(_made_by(self._step, arguments, keywords))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        scheduler = memo[id(self._step.__self__)]
        return _ObservedStep(MethodType(type(scheduler).step, scheduler), self._observed)


class _CountedBars:
    """Counted ``progress_bar`` of a pipeline.

    When copies of the scheduler take all steps (SkyReels-V2 with diffusion forcing), the updates of
    the progress bar are counted as steps.
    """

    def __init__(self, pipeline: Any, counted: _CountedStep) -> None:
        self._pipeline = weakref.ref(pipeline)  # the pipeline holds this object
        self._counted = counted

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        pipeline: Any = self._pipeline()
        bar = type(pipeline).progress_bar(pipeline, *arguments, **keywords)
        bar.update = functools.partial(self._on_update, bar.update)
        return bar

    def _on_update(self, update: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if not self._counted.used:
            self._counted.on_step(None)
        return update(*arguments, **keywords)


def _do_nothing() -> None:
    """Replacement for methods that would affect other generations."""


# Views: other pipeline classes over weights that are already loaded.


def view_of(pipeline: Any, kind: type) -> Any:
    """Create a pipeline of class ``kind`` with the components and settings of ``pipeline``.

    It takes about a millisecond and almost no memory. ``from_pipe`` is not used, because it
    converts the components, which others are using, to one dtype. Raises ``TypeError`` if they are
    not those of a ``kind``.
    """
    if is_modular(kind):
        return modular_view(pipeline, kind)
    has = {**pipeline.config, **pipeline.components}
    takes = inspect.signature(kind.__init__).parameters
    view = kind(**{name: value for name, value in has.items() if name in takes})
    hide_progress_bars(view)
    _correct_scale(view)
    return view


def _correct_scale(view: Any) -> None:
    """Set the scale factors to those of the autoencoder.

    Video-to-video pipelines for Wan in diffusers 0.42 derive them from the number of stages. For
    Wan 2.2 5B that gives half the factor, because its autoencoder also groups pixels in twos.
    """
    config = getattr(getattr(view, "vae", None), "config", {})
    for name in ("spatial", "temporal"):
        factor = config.get(f"scale_factor_{name}")
        if factor is not None and hasattr(view, f"vae_scale_factor_{name}"):
            setattr(view, f"vae_scale_factor_{name}", factor)


# Replacing the scheduler of a loaded pipeline.


def set_scheduler(pipeline: Any, name: str, **changes: Any) -> None:
    """Set the scheduler of ``pipeline`` to diffusers' class ``name``.

    It is configured like the one that came with the weights, except for ``changes``. Raises
    ``Misconfigured`` for an unknown class or setting.
    """
    kind = getattr(diffusers, name, None)
    if not all(hasattr(kind, method) for method in ("from_config", "set_timesteps", "step")):
        raise Misconfigured(f"diffusers {diffusers.__version__} has no scheduler {name!r}.")
    scheduler: Any = kind
    known = inspect.signature(scheduler.__init__).parameters.keys() - {"self"}
    if unknown := sorted(changes.keys() - known):
        raise Misconfigured(
            f"{name} has no setting {', '.join(unknown)}. Its settings: {', '.join(sorted(known))}."
        )
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **changes)


def with_shift(scheduler: Any, shift: float) -> Any:
    """Return a scheduler like ``scheduler`` with another ``shift``.

    The greater ``shift`` is, the more steps it spends at high noise levels. Raises ``Unsupported``
    for a scheduler without such a setting.
    """
    config = scheduler.config
    name = next((setting for setting in ("flow_shift", "shift") if setting in config), None)
    if name is None or config.get("use_dynamic_shifting"):
        raise Unsupported(f"{type(scheduler).__name__} has no shift setting for its schedule.")
    return type(scheduler).from_config(config, **{name: shift})
