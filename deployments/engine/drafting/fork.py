"""Forks: generations that go on from a draft, with their own prompt, guidance and LoRAs.

The pipeline's call runs from its start with its own arguments. Until the draft's step, calls of
denoisers return zeros, and nothing is computed for them, except for calls that the draft made
before its first step only, since all steps need what they give. The step of each solver with the
number of the draft's last one returns what the draft's returned, and the solver gets the draft's
state. From there on everything is computed. No variable of the pipeline is read or written. With
the arguments of the draft, the result is bit for bit that of a generation that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deployments.engine.drafting.draft import Draft, RecordedComponent, RecordedSolver
from deployments.engine.drafting.noise import forget_earlier_steps, with_new_noise
from deployments.engine.drafting.recorder import (
    CallRows,
    SolverRecorder,
    index_of,
    rows_of,
    timesteps_of,
)
from deployments.engine.interception.components import ComponentKind
from deployments.engine.interception.pipeline import SolverObserver
from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.interception.solver_step import NoiseLevel, SolverStep
from deployments.engine.interception.step_caches import set_states
from deployments.engine.merging.arguments import CannotCopy, copy_output, tensors_in
from deployments.engine.snapshot.call_log import CallLog, Form, placeholder
from deployments.engine.snapshot.format import Origin
from deployments.engine.snapshot.state import MissingObject, StateDecoder
from serve_app.domain.errors import ForkRefused, SnapshotRefused, Unsupported
from serve_app.domain.media.draft_refusals import REFUSALS

_INVALID = (LookupError, ValueError, TypeError, RuntimeError, MissingObject, CannotCopy)


@dataclass(frozen=True, slots=True, eq=False)
class Fork:
    """How a generation goes on from a draft."""

    draft: Draft
    new_noise: float = 0.0
    """Share of the draft's noise that is replaced, from 0 to 1, so that another picture with the
    same layout comes out."""
    noise_seed: int = 0
    preview: bool = False
    """End at once with what the pipeline makes of the draft's estimate of the clean latents: no
    denoiser is called."""


class ForkedRun:
    """Start of one generation from a draft, in place of a ``ResumedRun``.

    Methods raise ``ForkRefused`` where the draft does not fit the generation.
    """

    def __init__(self, fork: Fork, device: str, *, unchanged: bool) -> None:
        """``unchanged``: the generation is the draft's own."""
        self._fork = fork
        self._draft = fork.draft
        self._device = device
        self._unchanged = unchanged and not fork.new_noise
        self._decoder = StateDecoder(fork.draft.tensors, device)
        self._steps: dict[int, int] = {}  # made, by the solver's number
        self._unshown: dict[int, str] = {}  # why the last step gave no estimate, by the number
        self._answered = False

    @property
    def has_answered(self) -> bool:
        """Return whether the pipeline has received a placeholder output."""
        return self._answered

    @property
    def snapshot(self) -> Any:
        raise SnapshotRefused("The generation has not reached the first step after its draft.")

    def is_resume_point(self, call: ComponentCall) -> bool:
        """Return whether it is the first call that is computed."""
        steps_done = self._steps.get(0, 0)
        return (
            not self._fork.preview
            and steps_done >= self._draft.solvers[0].steps
            and call.part is ComponentKind.DENOISER
        )

    def can_answer(self, call: ComponentCall) -> bool:
        """Return whether a call of a denoiser before the draft's step needs no computing."""
        if call.component not in self._draft.components:
            return False
        recorded = self._recorded_call(call)
        return recorded is None or recorded.in_steps  # None: ``answer`` raises for its shape

    def refusal(self, error: Exception) -> ForkRefused:
        """Return the error for ``error``, which the pipeline raised after a placeholder."""
        return ForkRefused(
            f"Going on from the draft raised {type(error).__name__} before its step: {error}"
        )

    def answer(self, call: ComponentCall, log: CallLog) -> Any:
        """Answer a call before the draft's step with zeros."""
        recorded, rows = self._recorded_call(call), rows_of(call)
        if recorded is None:
            were = [list(component.shape) for component in self._draft.components[call.component]]
            raise ForkRefused(
                f"Latents of this generation have the shape {rows.shape}, and those of the draft "
                f"{' and '.join(map(str, were))}. {_UNCHANGEABLE}"
            )
        try:
            output = placeholder(_form_for(recorded, rows), self._device)
        except _INVALID as error:
            raise ForkRefused(f"The draft has an invalid form of an output: {error}.") from error
        self._answered = True
        log.outputs = None  # zeros lead nowhere, so its snapshots are of its frames
        log.add(call, output)
        return output

    def on_step(self, number: int, step: SolverStep) -> Any:
        """Return what the ``number``-th solver's step gives: from the draft if it is that step."""
        solver, output = step.solver, step.output
        self._steps[number] = steps = self._steps.get(number, 0) + 1
        if number >= len(self._draft.solvers):
            raise ForkRefused(f"It has another {type(solver).__name__}, which the draft has not.")
        recorded = self._draft.solvers[number]
        if self._fork.preview:
            return self._estimate(number, recorded, solver, output)
        if steps != recorded.steps:
            return output
        self._require(recorded, solver, output)
        try:
            restored = self._decoder.put(copy_output(output), recorded.output)
            self._decoder.put(solver, recorded.state)
        except _INVALID as error:
            raise ForkRefused(
                f"{type(solver).__name__} is not in the draft's state: {error}."
            ) from error
        return self._replace_noise(recorded, solver, restored) if self._fork.new_noise else restored

    def restore(self, suspended: GenerationGreenlet, call: Any) -> Any:
        """Return the first call that is computed; at the end of a preview, its output."""
        if suspended.dead and not self._fork.preview:
            raise ForkRefused(
                "The generation ended before the draft's step: it has fewer steps, or a scheduler "
                "that was exchanged."
            )
        for why in self._unshown.values():
            raise Unsupported(why)
        if missing := len(self._draft.solvers) - len(self._steps):
            raise ForkRefused(f"It has {missing} schedulers less than the draft.")
        return call

    def restore_step_caches(self, proxies: Sequence[Any], generation: int) -> None:
        """Give the step caches the draft's state, if the generation is the draft's own."""
        if not self._unchanged or self._fork.preview:
            return
        modules = {proxy.component: proxy.real_module for proxy in proxies}
        for component, tree in self._draft.step_caches.items():
            try:
                set_states(modules[component], generation, self._decoder.put(None, tree))
            except _INVALID as error:
                raise ForkRefused(f"Its step cache is another one: {error}.") from error

    def _recorded_call(self, call: ComponentCall) -> RecordedComponent | None:
        shape = rows_of(call).shape
        of_shape = (
            component
            for component in self._draft.components[call.component]
            if list(component.shape) == shape
        )
        return next(of_shape, None)

    def _require(self, recorded: RecordedSolver, solver: Any, output: Any) -> None:
        if type(solver).__qualname__ != recorded.kind:
            raise ForkRefused(
                f"The draft was made with {recorded.kind}, and this generation has "
                f"{type(solver).__name__}. The scheduler cannot be changed."
            )
        shapes, was = _shapes(output), self._decoder.put(None, recorded.output)
        if shapes != _shapes(was):
            raise ForkRefused(
                f"The draft's latents have the shape {_shapes(was)}, and those of this generation "
                f"{shapes}. {_UNCHANGEABLE}"
            )
        if timesteps_of(solver) != list(recorded.timesteps) or index_of(solver) != recorded.index:
            raise ForkRefused(
                f"The draft is at step {recorded.steps} of another schedule. The number of steps, "
                "the strength of an input and the schedule cannot be changed."
            )

    def _estimate(self, number: int, recorded: RecordedSolver, solver: Any, output: Any) -> Any:
        """Output of a step with the estimate of the clean latents in place of its own. One of
        another shape stays, if a later one has that of the latents: Cosmos makes a step for all
        rows of its guidance, whose latents it drops, and then the one that counts."""
        if recorded.clean is None:
            raise Unsupported(f"The estimate of {type(solver).__name__} is not known.")
        clean = self._decoder.put(None, recorded.clean)
        shape = next(tensors_in(output)).shape
        if clean.shape != shape:
            self._unshown[number] = (
                f"The estimate has the shape {list(clean.shape)}, not {list(shape)}."
            )
            return output
        self._unshown.pop(number, None)
        if isinstance(output, tuple):
            return tuple(_in_place_of(part, clean) for part in output)
        for name, value in list(vars(output).items()):
            output[name] = _in_place_of(value, clean)
        return output

    def _replace_noise(self, recorded: RecordedSolver, solver: Any, output: Any) -> Any:
        if recorded.clean is None or recorded.level is None:
            raise ForkRefused(
                f"The noise of {type(solver).__name__} is not known, so it cannot be replaced."
            )
        try:
            forget_earlier_steps(solver)
        except Unsupported as error:
            raise ForkRefused(error.message) from None
        fork, level = self._fork, NoiseLevel(*map(torch.tensor, recorded.level))
        generator = torch.Generator().manual_seed(fork.noise_seed)
        latents = output[0] if isinstance(output, tuple) else output.prev_sample
        clean = self._decoder.put(None, recorded.clean)
        varied = with_new_noise(latents, clean, level, fork.new_noise, generator)
        if isinstance(output, tuple):
            return (varied, *output[1:])
        output.prev_sample = varied
        return output


class _Observers:
    """First the fork, which may replace an output, then the recorder of the next draft."""

    def __init__(self, fork: ForkedRun, recorder: SolverRecorder) -> None:
        self._fork = fork
        self._recorder = recorder

    def on_step(self, number: int, step: SolverStep) -> Any:
        forked = replace(step, output=self._fork.on_step(number, step))
        return self._recorder.on_step(number, forked)


def observer_of(fork: ForkedRun | None, recorder: SolverRecorder | None) -> SolverObserver | None:
    """Observer for a generation that goes on from a draft, or becomes one, or both."""
    if fork is not None and recorder is not None:
        return _Observers(fork, recorder)
    return fork or recorder


def require_drafts(pipeline: Any) -> None:
    """Raise ``ForkRefused`` for a pipeline that cannot make drafts."""
    name = type(pipeline).__name__
    if (why := REFUSALS.get(name)) is not None:
        raise ForkRefused(f"{name} cannot make drafts: {why}.")


def forked_run(
    fork: Fork, here: Origin, loras: Sequence[str], step_cache: str, device: str
) -> ForkedRun:
    """Start of a generation with these properties from a draft; see ``ForkedRun``."""
    fork.draft.require(here)
    return ForkedRun(fork, device, unchanged=fork.draft.is_unchanged(here, loras, step_cache))


def _in_place_of(value: Any, clean: Tensor) -> Any:
    if isinstance(value, Tensor) and value.shape == clean.shape:
        return clean.to(value.dtype, copy=True)
    return value


def _shapes(output: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors_in(output)]


def _form_for(recorded: RecordedComponent, rows: CallRows) -> Form:
    """Form of the component's output for as many rows as it is called with."""
    if (rows.number, rows.listed) == (recorded.rows, recorded.listed):
        return recorded.form
    return _with_rows(recorded.form, recorded.rows, rows.number, listed=rows.listed)


def _with_rows(form: Form, before: int, rows: int, *, listed: bool) -> Form:
    match form:
        case {"shape": [first, *others]} if not listed and first == before:
            return {**form, "shape": [rows, *others]}
        case {"list": [first, *others]} if listed and len(others) + 1 == before:
            return {"list": [first] * rows}
        case {"tuple": items}:
            return {"tuple": [_with_rows(item, before, rows, listed=listed) for item in items]}
        case {"list": items}:
            return {"list": [_with_rows(item, before, rows, listed=listed) for item in items]}
        case {"fields": fields}:
            changed = {
                name: _with_rows(field, before, rows, listed=listed)
                for name, field in fields.items()
            }
            return {**form, "fields": changed}
        case _:
            return form


_UNCHANGEABLE = "Size, length and number of images cannot be changed."
