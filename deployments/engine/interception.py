"""Makes a pipeline's steps visible without changing the pipeline."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

from deployments.engine.stand_in import stand_in_for

log = logging.getLogger(__name__)

DENOISERS = ("transformer", "transformer_2", "unet")
"""Attributes under which diffusers pipelines keep what they call in each step."""


class InterceptedPipeline:
    """A loaded pipeline from which every generation gets a copy of its own.

    The copies share the weights. What a call changes is per copy: the solvers are deep copies, and
    attributes that the pipeline sets on itself land on the copy. The pipeline itself is never
    called.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.stand_ins = {
            name: stand_in_for(module)
            for name in DENOISERS
            if (module := vars(pipeline).get(name)) is not None
        }

    @property
    def steps_are_visible(self) -> bool:
        return bool(self.stand_ins)

    def copy(self, on_step: Callable[[], None]) -> Any:
        """A pipeline to call once, inside a generation. ``on_step`` runs after each step."""
        twin = copy.copy(self.pipeline)
        own = vars(twin)
        for name, component in list(own.items()):
            if is_solver(component):
                own[name] = copy.deepcopy(component)
        own.update(self.stand_ins)
        if (solver := main_solver(twin)) is not None:
            _count_steps(solver, on_step)
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


def _count_steps(solver: Any, on_step: Callable[[], None]) -> None:
    original = solver.step

    @functools.wraps(original)  # pipelines read the signature of `step`
    def step(*arguments: Any, **keywords: Any) -> Any:
        output = original(*arguments, **keywords)
        on_step()
        return output

    vars(solver)["step"] = step


def _do_nothing() -> None:
    """Stands in for methods whose effect would reach other generations."""
