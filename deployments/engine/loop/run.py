"""Run of a generation: its coroutine, on the engine's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from greenlet import GreenletExit, getcurrent

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.drafting.fork import ForkedRun, forked_run, observer_of, require_drafts
from deployments.engine.drafting.recorder import SolverRecorder
from deployments.engine.interception.components import ComponentKind
from deployments.engine.interception.isolation import Isolation, RandomState
from deployments.engine.interception.lazy_tensor import fetched_output
from deployments.engine.interception.pipeline import (
    InterceptedPipeline,
    is_scheduler,
    main_scheduler,
    steps_ahead,
)
from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.interception.schedulers import seed_noise
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.interception.step_cache_options import original_of, settings_name
from deployments.engine.interception.step_caches import forget
from deployments.engine.loop.encoders import Encoders
from deployments.engine.loop.generation import Generation
from deployments.engine.loop.merge_history import due_at
from deployments.engine.loop.model_runner import ModelRunner
from deployments.engine.loop.pending_call import CallResult, PendingCall
from deployments.engine.loop.step_batcher import Candidate
from deployments.engine.memory.placement import moves_weights
from deployments.engine.preview.preview import PreviewImage, PreviewRenderer
from deployments.engine.snapshot.call_log import CallLog
from deployments.engine.snapshot.capture import capture
from deployments.engine.snapshot.format import Origin, Snapshot
from deployments.engine.snapshot.resume import ResumedRun
from serve_app.domain.errors import ForkRefused, PipelineFailed, SnapshotRefused, Unsupported
from serve_app.domain.progress import Progress, Stage


class Interrupted(BaseException):
    """Thrown into a generation to end it. Not an ``Exception``, so pipelines do not catch it."""


class Run:
    """Driver of one generation, from one suspending call to the next. Engine's thread only."""

    def __init__(
        self,
        generation: Generation,
        number: int,
        turn: int,
        arrived: float,
        model_runner: ModelRunner,
        encoders: Encoders,
    ) -> None:
        """``arrived``: seconds on the engine's clock."""
        self.generation = generation
        self.number = number
        self.last_turn = turn
        self._arrived = arrived
        self.call: PendingCall | None = None  # that it waits for; None before the first, at the end
        self.result: CallResult | None = None  # of the call
        self.ended = False
        self.overtaken = 0  # later generations that began while it waited for a place
        self.short_of_memory = False  # its call did not fit in memory and waits
        self.output: Any = None
        self.loras = generation.take_loras()
        self._model_runner = model_runner
        self._encoders = encoders
        self._counts = model_runner.counts
        self._greenlet: GenerationGreenlet | None = None
        self._isolation: Isolation | None = None
        self._random_state = RandomState()
        self._last_step: SolverStep | None = None  # None: not known
        self._intercepted: InterceptedPipeline | None = None
        self._cached: Mapping[str, Any] = {}  # proxies of denoisers with a step cache, by component
        self._pipeline: Any = None
        self._device = ""
        self._arguments: dict[str, Any] = {}
        self._log = CallLog(generation.keep_outputs_bytes)
        self._resumed: ResumedRun | ForkedRun | None = None  # until it is where it goes on
        point = generation.draft_point
        self._recorder = None if point is None else SolverRecorder(point)
        self._step = 0
        self._steps = 0
        self._scheduler_counts = False
        self._last_was_step: bool | None = None  # whether the last answered call was a step, if any
        self._first_step: int | None = None  # number of the step whose calls were counted
        self._calls_in_step = 0

    def candidate(self, max_calls: int, seconds_alone: float | None) -> Candidate:
        """State for choosing the next turn.

        ``max_calls``: calls that may share its forward. ``seconds_alone``: of its call; None if
        unknown.
        """
        call, fresh = self.call, self._step == 0
        calls = self._steps * max(1, self._calls_in_step)
        return Candidate(
            generation=self.number,
            priority=self.generation.priority,
            last_turn=self.last_turn,
            key=None if call is None else call.key,
            deadline=self.generation.deadline,
            due_at=due_at(self._arrived, calls * (seconds_alone or 0.0)),
            remaining=self._remaining(),
            max_calls=max_calls,
            steps=call is None or call.is_step,
            fresh=fresh,
            encodes_input=fresh and call is not None and call.frames_left > 0,
            same_kind_as_last=call is not None and call.is_step is self._last_was_step,
            pipeline=self.generation.pipeline,
            moves_weights=call is not None and moves_weights(original_of(call.module)),
        )

    def new_demand(self) -> int:
        """Calls that its pending denoiser call adds to the demand; to be asked once for each.

        Each call of its first step stands for one in every step. If the number of steps is unknown,
        each call counts when it comes.
        """
        if not self._steps:
            return 1
        if self._first_step is None:
            self._first_step = self._step
        if self._step > self._first_step:
            return 0
        self._calls_in_step += 1
        return self._steps - self._step

    @property
    def can_give_snapshot(self) -> bool:
        """Return whether a snapshot request can be answered now, instead of at a later step."""
        if self.call is None or self._resumed is not None or self.generation.paused:
            return True
        return self._log.is_resume_point(self.call)

    def begin(self, intercepted: InterceptedPipeline, accelerator: Accelerator) -> None:
        """Run up to the first suspending call, or to the end.

        ``accelerator``: the device of the denoisers' outputs.
        """
        self._device = accelerator.device
        if self._recorder is not None:
            require_drafts(intercepted.pipeline)
        if (snapshot := self.generation.take_snapshot()) is not None:
            snapshot.require_loras(self._lora_descriptions())
            snapshot.require_step_cache(settings_name(self.generation.step_cache))
            intercepted.let_suspend(snapshot.denoisers)
            self._resumed = ResumedRun(snapshot, accelerator.device)
        self._intercepted = intercepted
        # The call's frames keep them alive anyway.
        self._arguments = arguments = self.generation.take_arguments()
        forked = None
        if (fork := self.generation.take_fork()) is not None and self._resumed is None:
            intercepted.let_suspend(fork.draft.denoisers)
            self._resumed = forked = forked_run(
                fork,
                self._origin(),
                self._lora_descriptions(),
                settings_name(self.generation.step_cache),
                accelerator.device,
            )
        self._isolation = Isolation(intercepted.shared, self.generation.context)
        self._cached = intercepted.cached_denoisers(self.generation.step_cache)
        self._pipeline = pipeline = intercepted.copy(
            self._on_step,
            tiles=self.generation.tiles,
            denoisers=self._cached,
            observer=observer_of(forked, self._recorder),
        )
        self._scheduler_counts = main_scheduler(pipeline) is not None
        if intercepted.draws_globally:
            self._random_state = RandomState.of(arguments, accelerator.generators())
        self._steps = arguments.get("num_inference_steps") or 0
        if (set_up := self.generation.take_set_up()) is not None:
            with self._isolation.in_place(keep=True):
                set_up(pipeline)
        for solver in filter(is_scheduler, vars(pipeline).values()):
            seed_noise(solver, arguments)
        # No closure: an error's traceback would keep it alive, and with it the pipeline's tensors.
        self._greenlet = GenerationGreenlet(
            partial(pipeline, **arguments),
            getcurrent(),
            self._answer,
            self._model_runner.compute_whole,
        )
        self._greenlet.gr_context = self.generation.context
        self.generation.report(Progress(Stage.ENCODING_TEXT))
        self._switch(self._greenlet.switch)

    def resume(self) -> None:
        """Return the output, or raise the error, from the pending call; run up to the next call."""
        result, self.result = self.result, None
        if result is None:
            raise RuntimeError("The pending call has no result.")
        if result.error is not None:
            # The pipeline gets the error where it called, so that it can clean up.
            self.throw(result.error)
            return
        if (call := self.call) is not None:
            self._last_was_step = call.is_step
            self._log.add(call, result.output)
            self._record_call(call, result.output)
            if call.part is ComponentKind.DENOISER and not self._scheduler_counts:
                self._on_step(None)
        self._switch(self._live_greenlet().switch, result.output)

    def throw(self, error: BaseException) -> None:
        """Raise ``error`` from the pending call, and run up to the next one."""
        self._switch(self._live_greenlet().throw, error)

    def snapshot(self) -> Snapshot:
        """Take a snapshot of the current state. Raises ``SnapshotRefused`` if it cannot."""
        if self._intercepted is None or self.call is None:
            if (unused := self.generation.snapshot_to_begin_with) is not None:
                return unused
            raise SnapshotRefused("The generation has not begun, so there is nothing to save yet.")
        if self._resumed is not None:  # it has not reached its resume point yet
            return self._resumed.snapshot
        if not self._log.is_resume_point(self.call):
            raise SnapshotRefused("The generation is paused before a step. Unpause it first.")
        taken = capture(
            self._live_greenlet(),
            self.call,
            self._log,
            origin=self._origin,
            loras=self._lora_descriptions(),
            step=self._step,
            proxies=self._denoisers(),
            arguments=self._arguments,
            generation=self.number,
        )
        return replace(taken, step_cache=settings_name(self.generation.step_cache))

    def preview(self, renderer: PreviewRenderer) -> PreviewImage:
        """Preview of the current state. Raises ``Unsupported`` if there is no image to show."""
        return renderer.of(self._live_greenlet(), self._step, self._last_step)

    def interrupt(self) -> None:
        """End it now. The pipeline's ``finally`` blocks run; it gets no further step."""
        self._resumed = None
        try:
            self._unwind()
        finally:
            self.close()

    def _unwind(self) -> None:
        """Raise ``Interrupted`` in the pipeline until it ends."""
        self._recorder = None
        try:
            for _ in range(_MAX_INTERRUPTIONS):
                if self.ended or self._greenlet is None:
                    break
                self.throw(Interrupted())
        except Interrupted:
            return
        finally:
            if self._intercepted is not None:
                self._intercepted.restore_dtypes()

    def close(self) -> None:
        """Release everything that the run kept alive."""
        for denoiser in self._denoisers():
            forget(denoiser.real_module, self.number)
        if self.loras is not None:
            self.loras.release()
        self.ended = True
        self.loras = None
        self.call = None
        self.result = None
        self._greenlet = None
        self._isolation = None
        self._intercepted = None
        self._cached = {}
        self._pipeline = None
        self._resumed = None
        self._last_step = None
        self._arguments = {}
        self._log = CallLog()
        self.output = None

    def _switch(self, resume: Any, *values: Any) -> None:
        """Continue the pipeline's call by ``resume``, up to its next suspending call or its end."""
        self.call = None
        with self._live_isolation().in_place(keep=True), self._random_state.in_place():
            if self._resumed is None:
                outcome = resume(*values)
            else:
                outcome = self._replay(self._resumed, resume, *values)
            greenlet = self._live_greenlet()
            if greenlet.dead:
                outcome = fetched_output(outcome)
        if not greenlet.dead:
            self._on_suspended(outcome)
        elif isinstance(outcome, GreenletExit):  # greenlets return this exception, not raise it
            raise PipelineFailed("The pipeline raised GreenletExit.")
        else:
            if self._recorder is not None:
                raise ForkRefused(
                    f"The generation ended after {self._step} steps, before it was a draft. A "
                    "draft needs a pipeline that counts its steps, and two steps at least."
                )
            self._record_calls(greenlet)
            self.output = outcome
            self.ended = True

    def _replay(self, resumed: ResumedRun | ForkedRun, resume: Any, *values: Any) -> ComponentCall:
        """Run up to the snapshot's call, or to an earlier call that it has no output for."""
        greenlet = self._live_greenlet()
        try:
            call = resume(*values)
            while not greenlet.dead and not resumed.is_resume_point(call):
                if call.part is not ComponentKind.DENOISER or not resumed.can_answer(call):
                    return call
                output = resumed.answer(call, self._log)
                self._record_call(call, output)
                if not self._scheduler_counts:
                    self._on_step(None)
                call = greenlet.switch(output)
            call = resumed.restore(greenlet, call)
            resumed.restore_step_caches(self._denoisers(), self.number)
        except (SnapshotRefused, ForkRefused, Unsupported):
            raise
        except Exception as error:
            if not resumed.has_answered or is_out_of_memory(error):
                raise
            # With placeholder outputs, a pipeline may fail where it originally did not.
            raise resumed.refusal(error) from error
        self._resumed = None
        return call

    def _on_suspended(self, call: ComponentCall) -> None:
        self.call = self._model_runner.plan(
            call,
            self.number,
            self._live_isolation(),
            mix=self._mix_of(call),
            deterministic=self.generation.deterministic,
        )
        reported = self.generation.progress
        if call.frames and reported is not None and reported.stage is Stage.DECODING:
            self._report(Progress(Stage.DECODING, call.frames - call.frames_left, call.frames))
        if self._resumed is not None or not self._log.is_resume_point(call):
            return
        if reported == Progress(Stage.ENCODING_TEXT):
            if self._scheduler_counts:
                ahead = partial(steps_ahead, self._pipeline)
                self._steps = self._live_greenlet().look_up(ahead) or self._steps
            self._report(Progress(Stage.DENOISING, self._step, self._steps))
        decodes = call.method == "decode" and self._step >= self._steps
        if decodes and (reported is None or reported.stage is not Stage.DECODING):
            self._report(Progress(Stage.DECODING))
        if (
            self._recorder is not None
            and call.part is ComponentKind.DENOISER
            and self._recorder.has_reached_point(self._step, self._steps)
        ):
            self._end_as_draft(self._recorder)

    def _end_as_draft(self, recorder: SolverRecorder) -> None:
        draft = recorder.draft(
            self._origin(),
            self._lora_descriptions(),
            self._step,
            self._steps,
            self._denoisers(),
            self.number,
            settings_name(self.generation.step_cache),
        )
        self._unwind()
        self.call = self.result = None
        self.output = draft
        self.ended = True

    def _record_call(self, call: ComponentCall, output: Any) -> None:
        if self._recorder is not None and call.part is ComponentKind.DENOISER:
            self._recorder.record_call(call, output)

    def _answer(self, call: ComponentCall) -> Any:
        """Answer a call of a component that is not a denoiser, inside the generation."""
        mix = self._mix_of(call)
        return self._encoders.answer(
            call,
            self._live_greenlet(),
            mix=mix,
            loras=self._lora_descriptions() if mix else (),
            scope=self.generation.cache_scope,
            deterministic=self.generation.deterministic,
            on_frames=self.generation.on_frames,
        )

    def _on_step(self, made: SolverStep | None) -> None:
        self._step += 1
        if self._resumed is not None:
            return  # counted and reported the first time; it gave what no denoiser predicted
        self._last_step = made
        self._counts.steps += 1
        if self._step > self._steps:
            self._steps = 0  # the number was a guess, and wrong
        self._report(Progress(Stage.DENOISING, self._step, self._steps))
        if self._scheduler_counts and self._step == self._steps:
            self._report(Progress(Stage.DECODING))

    def _report(self, progress: Progress) -> None:
        self.generation.report(progress, self._step)

    def _record_calls(self, ended: GenerationGreenlet) -> None:
        if self._intercepted is not None:
            steps = self._step if self._scheduler_counts else self._steps
            self._intercepted.record_calls(ended.calls, steps)

    def _remaining(self) -> float:
        """Steps left; infinite if unknown. While a video is processed in chunks, frames left."""
        if self.call is not None and self.call.frames_left:
            return self.call.frames_left
        return self._steps - self._step if self._steps else inf

    def _mix_of(self, call: ComponentCall) -> str:
        """Mix of its LoRAs if they change the called module, else ""."""
        return "" if self.loras is None else self.loras.mix_in(call.module)

    def _denoisers(self) -> Sequence[Any]:
        """Proxies of the denoisers that it calls."""
        if self._intercepted is None:
            return ()
        return [
            self._cached.get(denoiser.component, denoiser)
            for denoiser in self._intercepted.denoisers
        ]

    def _origin(self) -> Origin:
        if self._intercepted is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return Origin.here(self._intercepted.pipeline, self._arguments, self._device)

    def _lora_descriptions(self) -> Sequence[str]:
        return self.loras.descriptions if self.loras is not None else []

    def _live_greenlet(self) -> GenerationGreenlet:
        if self._greenlet is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._greenlet

    def _live_isolation(self) -> Isolation:
        if self._isolation is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._isolation


_MAX_INTERRUPTIONS = 100  # for pipelines that catch even these and call their denoiser again
