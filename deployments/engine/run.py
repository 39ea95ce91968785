"""A generation's coroutine, on the engine's thread."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

from greenlet import GreenletExit, getcurrent

from deployments.engine.forwards import Answer, Forwards, PendingCall
from deployments.engine.generation import Generation
from deployments.engine.interception import InterceptedPipeline, main_solver, steps_ahead
from deployments.engine.prompt_cache import PromptCache
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet
from deployments.engine.step_caches import forget
from deployments.engine.surroundings import Surroundings
from serve_app.domain.errors import PipelineFailed
from serve_app.domain.progress import Progress, Stage


class Interrupted(BaseException):
    """Thrown into a generation to end it. No ``Exception``, so that pipelines do not catch it."""


class Run:
    """Drives one generation from denoiser call to denoiser call.

    ``pending`` is the call it waits for, None before the beginning and after the end; ``given`` the
    answer to it. All methods are for the engine's thread.
    """

    def __init__(
        self,
        generation: Generation,
        number: int,
        turn: int,
        forwards: Forwards,
        prompts: PromptCache,
    ) -> None:
        self.generation = generation
        self.number = number
        self.last_turn = turn
        self.pending: PendingCall | None = None
        self.given: Answer | None = None
        self.ended = False
        self.output: Any = None
        self._forwards = forwards
        self._prompts = prompts
        self._counts = forwards.counts
        self._greenlet: GenerationGreenlet | None = None
        self._surroundings: Surroundings | None = None
        self._intercepted: InterceptedPipeline | None = None
        self._pipeline: Any = None
        self._step = 0
        self._steps = 0
        self._solver_counts = False

    @property
    def remaining(self) -> float:
        """Steps that are left; infinite where that is not known."""
        return self._steps - self._step if self._steps else inf

    def begin(self, intercepted: InterceptedPipeline) -> None:
        """Run up to the first denoiser call, or to the end."""
        self._intercepted = intercepted
        self._surroundings = Surroundings(intercepted.owners)
        self._pipeline = pipeline = intercepted.copy(self._on_step)
        self._solver_counts = main_solver(pipeline) is not None
        arguments = self.generation.take_arguments()
        self._steps = arguments.get("num_inference_steps") or 0
        # No closure: the traceback of an error would keep it, and with it the pipeline's tensors.
        self._greenlet = GenerationGreenlet(
            partial(pipeline, **arguments), getcurrent(), self._prompts.call
        )
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
        if not self._solver_counts:
            self._on_step()
        self._go_on(self._greenlet_alive().switch, given.output)

    def throw(self, error: BaseException) -> None:
        """Let the pending call raise ``error``, and run up to the next one."""
        self._go_on(self._greenlet_alive().throw, error)

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
        for denoiser in self._intercepted.denoisers if self._intercepted is not None else ():
            forget(denoiser.real_module, self.number)
        self.ended = True
        self.pending = None
        self.given = None
        self._greenlet = None
        self._surroundings = None
        self._intercepted = None
        self._pipeline = None
        self.output = None

    def _greenlet_alive(self) -> GenerationGreenlet:
        if self._greenlet is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._greenlet

    def _go_on(self, resume: Any, *values: Any) -> None:
        self.pending = None
        with self._surroundings_alive().in_place(keep=True):
            outcome = resume(*values)
        running = self._greenlet_alive()
        if not running.dead:
            self._suspended(outcome)
        elif isinstance(outcome, GreenletExit):  # greenlets return this one instead of raising it
            raise PipelineFailed("The pipeline raised GreenletExit.")
        else:
            self._learn(running)
            self.output = outcome
            self.ended = True

    def _suspended(self, call: DenoiserCall) -> None:
        self.pending = self._forwards.pending(
            call, self.number, self._surroundings_alive(), alone=self.generation.deterministic
        )
        if self.generation.progress != Progress(Stage.ENCODING_TEXT):
            return
        if self._solver_counts:
            self._steps = steps_ahead(self._pipeline) or self._steps
        self.generation.report(Progress(Stage.DENOISING, 0, self._steps))

    def _learn(self, ended: GenerationGreenlet) -> None:
        if self._intercepted is not None:
            self._intercepted.learn(ended.calls, self._step if self._solver_counts else self._steps)

    def _surroundings_alive(self) -> Surroundings:
        if self._surroundings is None:
            raise RuntimeError("The generation has not begun, or has ended.")
        return self._surroundings

    def _on_step(self) -> None:
        self._step += 1
        self._counts.steps += 1
        if self._step > self._steps:
            self._steps = 0  # It was a guess, and a wrong one.
        self.generation.report(Progress(Stage.DENOISING, self._step, self._steps))
        if self._solver_counts and self._step == self._steps:
            self.generation.report(Progress(Stage.DECODING, self._step, self._steps))


_INTERRUPTIONS = 100  # for a pipeline that catches even these and calls its denoiser again
