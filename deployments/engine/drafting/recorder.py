"""Recording of a generation's solver steps, for a draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deployments.engine.drafting.draft import (
    Draft,
    DraftPoint,
    RecordedComponent,
    RecordedSolver,
)
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.interception.step_caches import states_of
from deployments.engine.merging.arguments import CannotCopy, copy_output
from deployments.engine.snapshot.call_log import form_of
from deployments.engine.snapshot.format import Origin
from deployments.engine.snapshot.state import OpaqueObject, StateEncoder, Tree
from serve_app.domain.errors import ForkRefused


@dataclass(slots=True)
class _Last:
    """Last step of a solver."""

    step: SolverStep  # with a copy of its output
    steps: int


class SolverRecorder:
    """Observer of the solvers of one generation that is to become a draft.

    Only the last step of each solver is kept.
    """

    def __init__(self, point: DraftPoint) -> None:
        self._point = point
        self._last: dict[int, _Last] = {}
        self._components: dict[str, dict[tuple[int, ...], RecordedComponent]] = {}

    def on_step(self, number: int, step: SolverStep) -> Any:
        """Note a step of the ``number``-th solver; return its output."""
        before = self._last.get(number)
        try:
            kept = copy_output(step.output)  # pipelines may write into the original
        except CannotCopy as error:
            raise ForkRefused(
                f"{type(step.solver).__name__} gives what no draft can hold: {error}."
            ) from None
        self._last[number] = _Last(replace(step, output=kept), before.steps + 1 if before else 1)
        return step.output

    def record_call(self, call: ComponentCall, output: Any) -> None:
        """Note the answer of a denoiser, for the form of placeholders."""
        rows = rows_of(call)
        self._components.setdefault(call.component, {})[tuple(rows.shape)] = RecordedComponent(
            form_of(output), rows.shape, rows.number, rows.listed, in_steps=0 in self._last
        )

    def has_reached_point(self, step: int, steps: int) -> bool:
        """Return whether the draft ends after ``step`` of ``steps`` steps, 0: unknown."""
        if step < 1 or 0 not in self._last:
            return False
        if steps and step >= self._point.step_of(steps):
            return True
        if not self._point.noise:
            return False
        level = self._last[0].step.level_after()
        return level is not None and level.share <= self._point.noise + _ROUNDING

    def draft(
        self,
        origin: Origin,
        loras: Sequence[str],
        step: int,
        steps: int,
        proxies: Sequence[Any],
        generation: int,
        step_cache: str,
    ) -> Draft:
        """Make the draft, while the generation is suspended before its next step.

        ``proxies``: of the denoisers. ``generation``: its number. Raises ``ForkRefused`` if a
        solver cannot be saved.
        """
        encoder = StateEncoder()
        caches = {
            proxy.component: _pack(encoder, states)
            for proxy in proxies
            if (states := states_of(proxy.real_module, generation))
        }
        solvers = [_record_solver(encoder, last) for _, last in sorted(self._last.items())]
        return Draft(
            origin,
            list(loras),
            step,
            steps,
            sorted(proxy.component for proxy in proxies),
            self._component_calls(),
            solvers,
            encoder.tensors,
            step_cache,
            caches,
        )

    def _component_calls(self) -> dict[str, list[RecordedComponent]]:
        """Return the components. Calls that ended with the first step were made for all steps: a
        language model's tokens, keys and values. After one step alone, this is not known."""
        known = any(last.steps > 1 for last in self._last.values())
        return {
            name: [
                replace(component, in_steps=component.in_steps or not known)
                for component in by_shape.values()
            ]
            for name, by_shape in self._components.items()
        }


def _record_solver(encoder: StateEncoder, last: _Last) -> RecordedSolver:
    solver, level = last.step.solver, last.step.level_after()
    return RecordedSolver(
        kind=type(solver).__qualname__,
        steps=last.steps,
        timesteps=timesteps_of(solver),
        index=index_of(solver),
        output=_pack(encoder, last.step.output),
        state=_pack(encoder, solver),
        clean=_pack(encoder, last.step.clean_latents()),
        level=None if level is None else [float(level.signal), float(level.noise)],
    )


def _pack(encoder: StateEncoder, value: Any) -> Tree:
    try:
        return encoder.pack(value)
    except OpaqueObject as error:
        raise ForkRefused(f"The solver holds {error}, which a draft cannot contain.") from None


def timesteps_of(solver: Any) -> list[float]:
    timesteps = getattr(solver, "timesteps", None)
    return [] if timesteps is None else torch.as_tensor(timesteps).flatten().tolist()


def index_of(solver: Any) -> int | None:
    """Number of the schedule's step that comes next; None for a solver that does not count."""
    index = getattr(solver, "step_index", None)
    return None if index is None else int(index)


@dataclass(frozen=True, slots=True)
class CallRows:
    """CallRows of a denoiser's call."""

    number: int
    shape: list[int]  # of one row of the first tensor
    listed: bool  # whether the first tensor is a list with an entry for each row


def rows_of(call: ComponentCall) -> CallRows:
    for value in [*call.arguments, *call.keywords.values()]:
        if isinstance(value, Tensor) and value.ndim:
            return CallRows(value.shape[0], list(value.shape[1:]), listed=False)
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return CallRows(len(value), list(value[0].shape), listed=True)
    return CallRows(1, [], listed=False)


_ROUNDING = 1e-4
