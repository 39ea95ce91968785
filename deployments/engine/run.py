"""A generation's coroutine, on the engine's thread."""

from __future__ import annotations

from functools import partial
from typing import Any

from greenlet import GreenletExit, getcurrent

from deployments.engine.generation import Generation
from deployments.engine.interception import InterceptedPipeline, main_solver, steps_ahead
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet
from deployments.engine.thread_state import ThreadState
from serve_app.domain.errors import PipelineFailed
from serve_app.domain.progress import Progress, Stage


class Interrupted(BaseException):
    """Thrown into a generation to end it. No ``Exception``, so that pipelines do not catch it."""


class Run:
    """Drives one generation from denoiser call to denoiser call.

    ``pending`` is the call it waits for, None before the beginning and after the end. All methods
    are for the engine's thread.
    """

    def __init__(self, generation: Generation, number: int, turn: int) -> None:
        self.generation = generation
        self.number = number
        self.last_turn = turn
        self.pending: DenoiserCall | None = None
        self.ended = False
        self.output: Any = None
        self._greenlet: GenerationGreenlet | None = None
        self._state: ThreadState | None = None
        self._step = 0
        self._steps = 0
        self._solver_counts = False
        self._pipeline: Any = None

    def begin(self, intercepted: InterceptedPipeline) -> None:
        """Run up to the first denoiser call, or to the end."""
        self._pipeline = pipeline = intercepted.copy(self._on_step)
        self._solver_counts = main_solver(pipeline) is not None
        arguments = self.generation.take_arguments()
        self._steps = arguments.get("num_inference_steps") or 0
        # No closure: the traceback of an error would keep it, and with it the pipeline's tensors.
        self._greenlet = GenerationGreenlet(partial(pipeline, **arguments), getcurrent())
        self.generation.report(Progress(Stage.ENCODING_TEXT))
        self._go_on(self._greenlet.switch)

    def answer(self, output: Any) -> None:
        """Give the pending call its output and run up to the next one."""
        self._go_on(self._greenlet_alive().switch, output)

    def throw(self, error: BaseException) -> None:
        """Let the pending call raise ``error``, and run up to the next one."""
        self._go_on(self._greenlet_alive().throw, error)

    def answered(self) -> None:
        """Count a step where no solver does."""
        if not self._solver_counts:
            self._on_step()

    def forward(self) -> Any:
        """The output of the pending call, computed under the generation's own thread state."""
        call = self.pending
        if call is None or self._state is None:
            raise RuntimeError("No call is pending.")
        engine_state = ThreadState.of_this_thread()
        self._state.apply()
        try:
            return call.run()
        finally:
            engine_state.apply()

    def interrupt(self) -> None:
        """End it now. Its pipeline's own ``finally`` blocks run; it gets no further step."""
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
        self.ended = True
        self.pending = None
        self._greenlet = None
        self._pipeline = None
        self.output = None

    def _greenlet_alive(self) -> GenerationGreenlet:
        if self._greenlet is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._greenlet

    def _go_on(self, resume: Any, *values: Any) -> None:
        self.pending = None
        engine_state = ThreadState.of_this_thread()
        if self._state is not None:
            self._state.apply()
        try:
            outcome = resume(*values)
            self._state = ThreadState.of_this_thread()
        finally:
            engine_state.apply()
        if not self._greenlet_alive().dead:
            self._suspended(outcome)
        elif isinstance(outcome, GreenletExit):  # greenlets return this one instead of raising it
            raise PipelineFailed("The pipeline raised GreenletExit.")
        else:
            self.output = outcome
            self.ended = True

    def _suspended(self, call: DenoiserCall) -> None:
        self.pending = call
        if self.generation.progress != Progress(Stage.ENCODING_TEXT):
            return
        if self._solver_counts:
            self._steps = steps_ahead(self._pipeline) or self._steps
        self.generation.report(Progress(Stage.DENOISING, 0, self._steps))

    def _on_step(self) -> None:
        self._step += 1
        if self._step > self._steps:
            self._steps = 0  # It was a guess, and a wrong one.
        self.generation.report(Progress(Stage.DENOISING, self._step, self._steps))
        if self._solver_counts and self._step == self._steps:
            self.generation.report(Progress(Stage.DECODING, self._step, self._steps))


_INTERRUPTIONS = 100  # for a pipeline that catches even these and calls its denoiser again
