"""Makes a pipeline's steps visible without changing the pipeline."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from deployments.engine.declarations import NOTHING, Declaration
from deployments.engine.denoisers import KnownDenoisers, is_of_transformers, modules_of
from deployments.engine.stand_in import let_suspend, stand_in_for
from deployments.engine.surroundings import SharedParts
from deployments.engine.whereabouts import class_of_copies


class InterceptedPipeline:
    """A loaded pipeline from which every generation gets a copy of its own.

    The copies share the weights. What a call changes is per copy: the solvers are deep copies, and
    attributes that the pipeline sets on itself land on the copy. So are pipelines inside the
    pipeline. The pipeline itself is never called.
    """

    def __init__(
        self, pipeline: Any, known: KnownDenoisers, declared: Declaration = NOTHING
    ) -> None:
        """``declared``: of the pipeline's class."""
        self.pipeline = pipeline
        self.draws_globally = declared.draws_globally
        self._known = known
        kind = type(pipeline)
        self._stand_ins = {
            name: stand_in_for(module, name, suspends=known.is_denoiser(kind, name, module))
            for name, module in modules_of(pipeline)
        }
        self.shared = SharedParts(each.real_module for each in self.denoisers)

    @property
    def denoisers(self) -> list[Any]:
        """Their stand-ins."""
        return [each for each in self._stand_ins.values() if each.suspends]

    def learn(self, calls: Mapping[str, int], steps: int) -> None:
        """Look at how often each component was called in a generation of ``steps`` steps."""
        may_be = {
            name: count
            for name, count in calls.items()
            if not is_of_transformers(self._stand_ins[name].real_module)
        }
        self.let_suspend(self._known.learn(type(self.pipeline), may_be, steps))

    def let_suspend(self, names: Iterable[str]) -> None:
        """From now on these components are denoisers."""
        inert = [self._stand_ins[name] for name in names if name in self._stand_ins]
        if new := [stand_in for stand_in in inert if not stand_in.suspends]:
            for stand_in in new:
                let_suspend(stand_in)
            self.shared = SharedParts(each.real_module for each in self.denoisers)

    def copy(self, on_step: Callable[[], None]) -> Any:
        """A pipeline to call once, inside a generation. ``on_step`` runs after each step."""
        twin = self._copy(self.pipeline, "", {})
        if (solver := main_solver(twin)) is not None:
            vars(solver)["step"] = counted = _CountedStep(solver, on_step)
            if hasattr(twin, "progress_bar"):
                vars(twin)["progress_bar"] = _CountedBars(twin, counted)
        return twin

    def _copy(self, pipeline: Any, prefix: str, solvers: dict[int, Any]) -> Any:
        """``solvers``: copies by the id of the original; pipelines inside share the outer's."""
        twin = copy.copy(pipeline)
        if isinstance(twin, DiffusionPipeline):
            twin.__class__ = class_of_copies(type(pipeline))
        own = vars(twin)
        for name, component in list(own.items()):
            if is_solver(component) or isinstance(component, BaseGuidance):
                if id(component) not in solvers:
                    solvers[id(component)] = copy.deepcopy(component)
                own[name] = solvers[id(component)]
            elif isinstance(component, DiffusionPipeline):
                own[name] = self._copy(component, f"{prefix}{name}.", solvers)
            elif (stand_in := self._stand_ins.get(prefix + name)) is not None:
                own[name] = stand_in
        if hasattr(twin, "maybe_free_model_hooks"):
            # It resets step caches and offloads modules that other generations are using.
            own["maybe_free_model_hooks"] = _do_nothing
        if hasattr(twin, "set_progress_bar_config"):
            twin.set_progress_bar_config(disable=True)
        return twin


def is_solver(component: Any) -> bool:
    """Whether it is what diffusers calls a scheduler."""
    kind = type(component)
    return hasattr(kind, "set_timesteps") and hasattr(kind, "step")


def main_solver(pipeline: Any) -> Any | None:
    """The solver whose steps are the generation's steps, or None when the pipeline has none."""
    solver = vars(pipeline).get("scheduler")
    return solver if is_solver(solver) else None


def steps_ahead(pipeline: Any) -> int:
    """Solver steps that the running call will make; 0 when that is not known."""
    solver = main_solver(pipeline)
    timesteps = getattr(solver, "timesteps", None)
    if timesteps is None:
        return 0
    # From an input picture, a call starts somewhere in the middle of the timesteps.
    return len(timesteps) - (getattr(solver, "begin_index", None) or 0)


class _CountedStep:
    """A solver's ``step`` that is counted. Copies that a pipeline makes of its solver during a call
    (LTX-2 for the sound, SkyReels-V2 for each frame) have a ``step`` of their own, uncounted."""

    def __init__(self, solver: Any, on_step: Callable[[], None]) -> None:
        self.on_step = on_step
        self.used = False
        self._step = solver.step
        functools.update_wrapper(self, self._step)  # pipelines read the signature of `step`

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        output = self._step(*arguments, **keywords)
        self.used = True
        self.on_step()
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        solver = memo[id(self._step.__self__)]
        return MethodType(type(solver).step, solver)


class _CountedBars:
    """A pipeline's ``progress_bar``. Where copies of its solver take the steps and itself none
    (SkyReels-V2 with diffusion forcing), its bars tell how many there were."""

    def __init__(self, pipeline: Any, counted: _CountedStep) -> None:
        self._pipeline = weakref.ref(pipeline)  # which has this
        self._counted = counted

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        pipeline: Any = self._pipeline()
        bar = type(pipeline).progress_bar(pipeline, *arguments, **keywords)
        bar.update = functools.partial(self._updated, bar.update)
        return bar

    def _updated(self, update: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if not self._counted.used:
            self._counted.on_step()
        return update(*arguments, **keywords)


def _do_nothing() -> None:
    """Stands in for methods whose effect would reach other generations."""
