"""A generation's coroutine, on the engine's thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any

from greenlet import GreenletExit, getcurrent

from deployments.engine.call_log import CallLog
from deployments.engine.codec import Codec
from deployments.engine.failures import is_out_of_memory
from deployments.engine.forwards import Forwards
from deployments.engine.generation import Generation
from deployments.engine.interception import InterceptedPipeline, main_solver, steps_ahead
from deployments.engine.part import Part
from deployments.engine.pending_call import Answer, PendingCall
from deployments.engine.place import Place, is_place, place_after
from deployments.engine.preview import Preview, Previews
from deployments.engine.randomness import Randomness
from deployments.engine.resumption import Resumption
from deployments.engine.snapshot import Origin, Snapshot
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet
from deployments.engine.step_caches import forget
from deployments.engine.surroundings import Surroundings
from deployments.engine.taking import take
from serve_app.domain.errors import PipelineFailed, SnapshotRefused
from serve_app.domain.progress import Progress, Stage


class Interrupted(BaseException):
    """Thrown into a generation to end it. No ``Exception``, so that pipelines do not catch it."""


class Run:
    """Drives one generation from one call that suspends it to the next.

    ``pending`` is the call it waits for, None before the beginning and after the end; ``given`` the
    answer to it. All methods are for the engine's thread.
    """

    def __init__(
        self,
        generation: Generation,
        number: int,
        turn: int,
        forwards: Forwards,
        codec: Codec,
    ) -> None:
        self.generation = generation
        self.number = number
        self.last_turn = turn
        self.pending: PendingCall | None = None
        self.given: Answer | None = None
        self.ended = False
        self.passed = 0  # while it waited for a place: by so many that came later
        self.short_of_memory = False  # its pending call did not fit, and waits
        self.output: Any = None
        self.adapters = generation.take_adapters()
        self._forwards = forwards
        self._codec = codec
        self._counts = forwards.counts
        self._greenlet: GenerationGreenlet | None = None
        self._surroundings: Surroundings | None = None
        self._randomness = Randomness()
        self._intercepted: InterceptedPipeline | None = None
        self._pipeline: Any = None
        self._arguments: dict[str, Any] = {}
        self._log = CallLog(generation.keep_outputs_bytes)
        self._resumption: Resumption | None = None  # until it has come to its place
        self._place: Place = None
        self._step = 0
        self._steps = 0
        self._solver_counts = False
        self._last_was_step: bool | None = None  # the call that was answered last; None: none was

    @property
    def remaining(self) -> float:
        """Steps that are left; infinite where that is not known. Frames, while a clip is taken in
        chunks."""
        if self.pending is not None and self.pending.call.ahead:
            return self.pending.call.ahead
        return self._steps - self._step if self._steps else inf

    @property
    def fresh(self) -> bool:
        """Whether it has not taken a step yet."""
        return self._step == 0

    @property
    def again(self) -> bool:
        """Whether its last call was of the kind of the pending one: both steps, or neither."""
        return self.pending is not None and self.pending.call.is_step is self._last_was_step

    def begin(self, intercepted: InterceptedPipeline, device: str) -> None:
        """Run up to the first call that suspends it, or to the end.
        ``device``: where denoisers give their outputs."""
        if (snapshot := self.generation.take_snapshot()) is not None:
            snapshot.require_adapters(self._told_adapters())
            intercepted.let_suspend(snapshot.denoisers)
            self._resumption = Resumption(snapshot, device)
        self._intercepted = intercepted
        self._surroundings = Surroundings(intercepted.shared, self.generation.context)
        self._pipeline = pipeline = intercepted.copy(self._on_step)
        self._solver_counts = main_solver(pipeline) is not None
        # The frames of the call keep them anyway.
        self._arguments = arguments = self.generation.take_arguments()
        if intercepted.draws_globally:
            self._randomness = Randomness.of(arguments, device)
        self._steps = arguments.get("num_inference_steps") or 0
        if (set_up := self.generation.take_set_up()) is not None:
            with self._surroundings.in_place(keep=True):
                set_up(pipeline)
        # No closure: the traceback of an error would keep it, and with it the pipeline's tensors.
        self._greenlet = GenerationGreenlet(
            partial(pipeline, **arguments), getcurrent(), self._answer
        )
        self._greenlet.gr_context = self.generation.context
        self.generation.report(Progress(Stage.ENCODING_TEXT))
        self._go_on(self._greenlet.switch)

    def go_on(self) -> None:
        """Take what was given: let the pending call return its output or raise its error, and run
        up to the next one."""
        given, self.given = self.given, None
        if given is None:
            raise RuntimeError("The pending call has no answer.")
        if given.error is not None:
            # The pipeline gets it where it called, so that it can clean up.
            self.throw(given.error)
            return
        if self.pending is not None:
            self._place = place_after(self.pending.call, self._place)
            self._last_was_step = self.pending.call.is_step
            if self.pending.call.part is Part.DENOISER:
                self._log.add(self.pending.call.component, given.output)
                if not self._solver_counts:
                    self._on_step()
        self._go_on(self._greenlet_alive().switch, given.output)

    @property
    def can_be_asked(self) -> bool:
        """Whether it can say now what it gives as a snapshot; else at a step to come."""
        if self.pending is None or self._resumption is not None or self.generation.paused:
            return True
        return is_place(self.pending.call, self._place)

    def snapshot(self, device: str) -> Snapshot:
        """Of where it is. ``SnapshotRefused`` where that cannot be taken along."""
        if self._intercepted is None or self.pending is None:
            if (unused := self.generation.snapshot_to_begin_with) is not None:
                return unused
            raise SnapshotRefused("The generation has not begun; there is nothing to take along.")
        if self._resumption is not None:  # it is on its way to where it was
            return self._resumption.snapshot
        if not is_place(self.pending.call, self._place):
            raise SnapshotRefused("The generation stands still before a step. Unpause it first.")
        pipeline = self._intercepted.pipeline
        return take(
            self._greenlet_alive(),
            self.pending.call,
            self._log,
            origin=partial(Origin.here, pipeline, self._arguments, device),
            adapters=self._told_adapters(),
            step=self._step,
            stand_ins=self._intercepted.denoisers,
            arguments=self._arguments,
        )

    def preview(self, previews: Previews) -> Preview:
        """Of where it is. ``Unsupported`` where nothing shows a picture."""
        return previews.of(self._greenlet_alive(), self._step)

    def throw(self, error: BaseException) -> None:
        """Let the pending call raise ``error``, and run up to the next one."""
        self._go_on(self._greenlet_alive().throw, error)

    def interrupt(self) -> None:
        """End it now. Its pipeline's own ``finally`` blocks run; it gets no further step."""
        self._resumption = None
        try:
            for _ in range(_INTERRUPTIONS):
                if self.ended or self._greenlet is None:
                    break
                self.throw(Interrupted())
        except Interrupted:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything that the run kept alive."""
        for denoiser in self._intercepted.denoisers if self._intercepted is not None else ():
            forget(denoiser.real_module, self.number)
        if self.adapters is not None:
            self.adapters.give_back()
        self.ended = True
        self.adapters = None
        self.pending = None
        self.given = None
        self._greenlet = None
        self._surroundings = None
        self._intercepted = None
        self._pipeline = None
        self._resumption = None
        self._arguments = {}
        self._log = CallLog()
        self.output = None

    def _mix_of(self, call: DenoiserCall) -> str:
        """Its adapters, where they change the module."""
        return "" if self.adapters is None else self.adapters.mix_in(call.module)

    def _told_adapters(self) -> Sequence[str]:
        return self.adapters.told if self.adapters is not None else []

    def _greenlet_alive(self) -> GenerationGreenlet:
        if self._greenlet is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._greenlet

    def _go_on(self, resume: Any, *values: Any) -> None:
        self.pending = None
        with self._surroundings_alive().in_place(keep=True), self._randomness.in_place():
            if self._resumption is None:
                outcome = resume(*values)
            else:
                outcome = self._on_its_way(self._resumption, resume, *values)
        running = self._greenlet_alive()
        if not running.dead:
            self._suspended(outcome)
        elif isinstance(outcome, GreenletExit):  # greenlets return this one instead of raising it
            raise PipelineFailed("The pipeline raised GreenletExit.")
        else:
            self._learn(running)
            self.output = outcome
            self.ended = True

    def _answer(self, call: DenoiserCall) -> Any:
        """Of a component that is no denoiser, inside of the generation."""
        mix = self._mix_of(call)
        return self._codec.answer(
            call,
            self._greenlet_alive(),
            mix=mix,
            adapters=self._told_adapters() if mix else (),
            deterministic=self.generation.deterministic,
            on_frames=self.generation.on_frames,
        )

    def _on_its_way(self, resumption: Resumption, resume: Any, *values: Any) -> DenoiserCall:
        """To the call of the snapshot, or to one before that it has no output for."""
        running = self._greenlet_alive()
        try:
            call = resume(*values)
            while not running.dead and not resumption.arrived(call):
                if call.part is not Part.DENOISER:
                    return call
                output = resumption.answer(call, self._log)
                self._place = place_after(call, self._place)
                if not self._solver_counts:
                    self._on_step()
                call = running.switch(output)
            call = resumption.restored(running, call)
        except SnapshotRefused:
            raise
        except Exception as error:
            if not resumption.has_answered or is_out_of_memory(error):
                raise
            # With outputs that are not the real ones, a pipeline may fail where it did not.
            raise SnapshotRefused(
                f"On the way to the snapshot's place it raised {type(error).__name__}: {error}"
            ) from error
        self._resumption = None
        return call

    def _suspended(self, call: DenoiserCall) -> None:
        self.pending = self._forwards.pending(
            call,
            self.number,
            self._surroundings_alive(),
            alone=self.generation.deterministic,
            mix=self._mix_of(call),
        )
        told = self.generation.progress
        if call.frames and told is not None and told.stage is Stage.DECODING:
            self._report(Progress(Stage.DECODING, call.frames - call.ahead, call.frames))
        if self._resumption is not None or not is_place(call, self._place):
            return
        if told == Progress(Stage.ENCODING_TEXT):
            if self._solver_counts:
                self._steps = steps_ahead(self._pipeline) or self._steps
            self._report(Progress(Stage.DENOISING, self._step, self._steps))
        decodes = call.method == "decode" and self._step >= self._steps
        if decodes and (told is None or told.stage is not Stage.DECODING):
            self._report(Progress(Stage.DECODING))

    def _learn(self, ended: GenerationGreenlet) -> None:
        if self._intercepted is not None:
            self._intercepted.learn(ended.calls, self._step if self._solver_counts else self._steps)

    def _surroundings_alive(self) -> Surroundings:
        if self._surroundings is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._surroundings

    def _on_step(self) -> None:
        self._step += 1
        if self._resumption is not None:
            return  # It was counted and told the first time.
        self._counts.steps += 1
        if self._step > self._steps:
            self._steps = 0  # It was a guess, and a wrong one.
        self._report(Progress(Stage.DENOISING, self._step, self._steps))
        if self._solver_counts and self._step == self._steps:
            self._report(Progress(Stage.DECODING))

    def _report(self, progress: Progress) -> None:
        self.generation.report(progress, self._step)


_INTERRUPTIONS = 100  # for a pipeline that catches even these and calls its denoiser again
