"""Main loop of the engine's thread.

Each iteration takes new generations, answers requests for snapshots and previews, and runs one
turn: it chooses the generations that share the next call, computes their calls in one forward, and
continues each of their pipelines up to its next call.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch

from deployments.engine.accelerator.errors import concerns_device, is_out_of_memory
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.default_dtype import TURNS
from deployments.engine.errors import as_callers_error, release_frames
from deployments.engine.interception.chunked_decode import in_tiles_for_once
from deployments.engine.interception.components import ComponentKind, KnownDenoisers
from deployments.engine.interception.isolation import run_in_context
from deployments.engine.interception.pipeline import InterceptedPipeline
from deployments.engine.loop.encoders import Encoders
from deployments.engine.loop.generation import Generation, GenerationInbox
from deployments.engine.loop.graphs import Graphs
from deployments.engine.loop.merge_history import (
    BusyPeriod,
    ForwardTimes,
    MeasuredForwards,
    StepDemand,
)
from deployments.engine.loop.metrics import EngineCounters, Timer, TurnWatch
from deployments.engine.loop.model_runner import ModelRunner
from deployments.engine.loop.options import EngineOptions
from deployments.engine.loop.pending_call import CallResult, PendingCall
from deployments.engine.loop.prompt_cache import prompt_cache_of
from deployments.engine.loop.results import Results
from deployments.engine.loop.run import Run
from deployments.engine.loop.run_queue import RunQueue
from deployments.engine.loop.step_batcher import Candidate
from deployments.engine.lora.residency import LoraResidency
from deployments.engine.memory.admission import Admission, bytes_in
from deployments.engine.memory.placement import vacate_slots
from deployments.engine.memory.reservations import CommonMemory, MemoryPressure, Reservations
from deployments.engine.preview.preview import PreviewRenderer
from serve_app.domain.errors import Cancelled, DarkroomError, Misconfigured, ReplicaDied

log = logging.getLogger(__name__)

STOPPED = "The engine was stopped."


@dataclass(frozen=True, slots=True)
class _Lap:
    """What the device does between two timestamps."""

    of: tuple[str, str]  # a pipeline's name and a stage
    times: ForwardTimes | None = None  # if it is one denoiser forward to be measured
    calls: int = 0  # in that forward


class Loop:
    """Main loop. ``run`` is the engine's thread; the other public methods may run on any thread."""

    def __init__(
        self,
        accelerator: Accelerator,
        options: EngineOptions,
        inbox: GenerationInbox,
        loras: LoraResidency,
        memory: CommonMemory,
        monotonic: Callable[[], float],
    ) -> None:
        self.counts = EngineCounters()
        self.stopping = False
        self.short_of_memory = False
        self.turn = 0  # number of the current turn, from 1
        self._accelerator = accelerator
        self._device_error: BaseException | None = None  # of another thread
        self._options = options
        self._inbox = inbox
        self._loras = loras
        self._memory = memory
        self._pipelines: dict[str, InterceptedPipeline] = {}
        self._known_denoisers = KnownDenoisers()
        self._on_memory_available: list[Callable[[], None]] = []
        self._pressure = MemoryPressure(memory)
        self._admission = Admission(memory)
        self.reservations = Reservations(memory, self._pressure.relieve, inbox.wake)
        self._graphs = Graphs(accelerator, memory)
        self._model_runner = ModelRunner(
            self.counts,
            loras.rows,
            options,
            memory=memory,
            pressure=self._pressure,
            graphs=self._graphs,
            in_company=self._in_company,
        )
        self._model_runner.on_forward = self._admission.record_call_bytes
        self.prompts = prompt_cache_of(options, accelerator, self.counts)
        self.add_reclaimer(self._vacate_slots)
        self.add_reclaimer(self.prompts.clear)
        self.add_reclaimer(self._graphs.release)
        self.add_reclaimer(loras.evict_idle)
        self._encoders = Encoders(
            self._model_runner, self.prompts, options.traits, self._in_company
        )
        self._previews = PreviewRenderer(accelerator)
        self._results = Results(accelerator, self.check_device)
        self._runs = RunQueue(options.max_generations or options.max_batch, self._fits)
        self._timer = Timer(accelerator.timestamps(monotonic), self._took)
        self._monotonic = monotonic
        self._demand = StepDemand()
        self._busy = BusyPeriod()
        self._submitted = 0
        self._turn_watch = TurnWatch(monotonic)

    def run(self) -> None:
        """Run until ``stop``. Generations that are running then end with ``Cancelled``.

        They end with ``ReplicaDied`` when the device has failed.
        """
        torch.set_grad_enabled(mode=False)  # per thread
        if self._options.threads:
            torch.set_num_threads(self._options.threads)  # per thread as well, under OpenMP
        why: Callable[[], DarkroomError] = partial(Cancelled, STOPPED)
        try:
            while not self.stopping:
                self._receive()
                with TURNS.turn():
                    self._answer_requests()
                    self._end_cancelled()
                    self._admit()
                    with self._turn_watch.measure():
                        self._take_turn()
        except BaseException as error:
            # No caller can catch it. ``Engine.alive`` becomes False, and the replica is replaced.
            if self._fails_device(error):
                why = partial(_device_failed, error)
                log.critical("The device failed. The engine has ended.", exc_info=True)
            else:
                log.critical("The engine's thread ended because of a defect.", exc_info=True)
            release_frames(error)
        finally:
            self.stopping = True
            self._end_all(why)
            self._results.close()
            self.reservations.grant_all()
            self._loras.close()

    # A turn.

    def _take_turn(self) -> None:
        self.turn += 1
        chosen = self._choose()
        self._timer.start()
        for run in self._compute(chosen):
            lap = _Lap(run.generation.timer_key)
            self._resume(run)
            self._timer.end_lap(lap)

    def _choose(self) -> Sequence[Run]:
        """Runs whose calls share this turn's forward, or one run that begins."""
        for run in self._runs.paused_runs:
            run.last_turn = self.turn  # a paused run does not wait for a turn
        runs = {run.number: run for run in self._runs.active}
        now, free = self._monotonic(), self._memory.free()
        alike = Counter(run.call.key for run in runs.values() if run.call is not None)
        self._busy.has(len(self._runs), now)
        load = inf if self._busy.is_sustained else self._demand.load(now, self._options.max_batch)
        candidates: list[Candidate] = []
        for run in runs.values():
            call, most, times = run.call, 1, None
            if call is not None:
                most = min(self._runner_of(call).max_calls(call, free), alike[call.key])
                times = self._model_runner.times_of([call])
            if times is not None and most > 1 and self._options.limit_rows:
                most = times.unknown(most) or times.limit(most, load)
            candidates.append(run.candidate(most, None if times is None else times.seconds(1)))
        chosen = self._options.step_batcher.choose(candidates, self.turn, now)
        batch = [runs[candidate.generation] for candidate in chosen]
        for run in batch:
            run.last_turn = self.turn
        return batch

    def _runner_of(self, call: PendingCall) -> ModelRunner | Encoders:
        return self._model_runner if call.part is ComponentKind.DENOISER else self._encoders

    def _compute(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Compute the calls of ``runs``; return the runs that can continue.

        The results stay on the runs, because an error's traceback keeps this thread's frames alive.
        """
        batch = [run.call for run in runs if run.call is not None]
        if not batch:
            return runs
        others = self._waiting_for(batch[0].module, runs)
        if batch[0].part is ComponentKind.DENOISER:
            results = self._denoise(runs, batch, others)
        else:
            results = self._encoders.run(batch, in_company=bool(others))
            self._timer.end_lap(_Lap(runs[0].generation.timer_key))
        able = list[Run]()
        for run, result in zip(runs, results, strict=True):
            if result.error is not None and self._fails_device(result.error):
                raise result.error
            if result.did_not_fit and self._runs.wait_for_memory(run):
                continue
            run.result = self._last_resort(run.call, result)
            able.append(run)
        return able

    def _last_resort(self, call: PendingCall | None, result: CallResult) -> CallResult:
        """Return the result of an autoencoder's call by tiles, if it did not fit in one piece."""
        if not result.did_not_fit or call is None or call.deterministic:
            return result
        with in_tiles_for_once(call) as possible:
            return self._runner_of(call).run([call], in_company=False)[0] if possible else result

    def _denoise(
        self, runs: Sequence[Run], batch: Sequence[PendingCall], others: Sequence[PendingCall]
    ) -> list[CallResult]:
        """Compute denoiser calls, and measure the forward if it was a single one."""
        counts = self.counts.parts[ComponentKind.DENOISER]
        limited = any(call.key == batch[0].key for call in others)
        before = counts.forwards, counts.trial_forwards
        results = self._model_runner.run(batch, in_company=bool(others), limited=limited)
        after = counts.forwards, counts.trial_forwards
        shared = len(batch) / max(1, after[0] - before[0])
        for run in runs:
            run.generation.count_denoiser_call(shared)
        times = self._model_runner.times_of(batch)
        single = after == (before[0] + 1, before[1]) and not any(result.error for result in results)
        lap = _Lap(runs[0].generation.timer_key, times if single else None, len(batch))
        self._timer.end_lap(lap)
        return results

    def _took(self, lap: _Lap, seconds: float) -> None:
        """Count a lap's seconds, once the device has passed its end."""
        self.counts.took(lap.of, seconds)
        if lap.times is not None:
            lap.times.record(lap.calls, seconds)

    def _waiting_for(self, module: Any, runs: Sequence[Run]) -> list[PendingCall]:
        """Calls of ``module`` by generations outside of ``runs``."""
        return [
            run.call
            for run in [*self._runs.active, *self._runs.paused_runs]
            if run.call is not None and run.call.module is module and run not in runs
        ]

    def _resume(self, run: Run) -> None:
        """Continue a run with its result, up to its next call. The first time, begin it."""
        size = 0 if run.result is None else bytes_in(run.result.output)
        with run_in_context(run.generation.context):
            try:
                with self._admission.measuring(run.number, size):
                    if run.result is None:
                        run.begin(self._called_by(run.generation), self._accelerator)
                    else:
                        run.resume()
            except BaseException as error:
                if self._fails_device(error):
                    raise
                if is_out_of_memory(error):
                    self._pressure.explain(error, f"a generation of {run.generation.pipeline!r}")
                self._end(run, error)
                return
            if run.call is not None:
                self._add_demand(run.call, run)
            if run.ended:
                self._deliver(run)
                self._admission.end_generation(run.number, run.generation.memory_kind, well=True)

    def _add_demand(self, call: PendingCall, run: Run) -> None:
        if (times := self._model_runner.times_of([call])) is not None:
            self._demand.add(times, run.new_demand(), self._monotonic())

    def _deliver(self, run: Run) -> None:
        output = self._runs.finish(run)
        self._busy.count_generation()
        try:
            self._results.deliver(run.generation, output)
        except BaseException as error:
            failed = self._fails_device(error)
            run.generation.fail(_device_failed(error) if failed else as_callers_error(error))
            if failed:
                raise

    # Before a turn.

    def _receive(self) -> None:
        """Take new generations; block for them when there is nothing else to do."""
        if self._device_error is not None:
            raise self._device_error
        loads = self.reservations.is_blocking and not self._runs.active  # only weights are loaded
        idle = not self.reservations.has_requests and (self._runs.idle() or loads)
        if idle:
            self._busy.idle(self._monotonic())
        for generation in self._inbox.take(wait=idle and not self.stopping):
            self._submitted += 1
            self._runs.add(
                Run(
                    generation,
                    self._submitted,
                    self.turn,
                    self._monotonic(),
                    self._model_runner,
                    self._encoders,
                )
            )

    def _answer_requests(self) -> None:
        """Answer requests for snapshots and previews."""
        for run in self._runs:
            generation = run.generation
            if generation.snapshot_requested and run.can_give_snapshot:
                with run_in_context(generation.context):
                    generation.answer_snapshot_requests(run.snapshot)
            requests = generation.previews
            # After the last step, the pipeline's `latents` variable may hold something else.
            if requests and (step := generation.steps_denoised) > 0:
                with run_in_context(generation.context):
                    requests.answer(step, partial(run.preview, self._previews))

    def _end_cancelled(self) -> None:
        for run in self._runs:
            if run.generation.cancel_requested:
                self._end(run, Cancelled("The generation was cancelled."))

    def _admit(self) -> None:
        self.reservations.grant(self._leaves, none_runs=not self._runs.active)
        was_short = self.short_of_memory
        self.short_of_memory = self.reservations.is_blocking or self._runs.admit(self.turn)
        if was_short and not self.short_of_memory:
            for notify in self._on_memory_available:
                notify()
        if self._runs.active:  # otherwise the next one may have LoRAs again
            self._loras.tidy()

    def _fits(self, run: Run, running: Sequence[Run]) -> bool:
        kinds = {peer.number: peer.generation.memory_kind for peer in running}
        return self._admission.fits(run.generation.memory_kind, kinds)

    def _leaves(self, size: int) -> bool:
        """Return whether ``size`` bytes are free beside what the running generations will take."""
        kinds = {run.number: run.generation.memory_kind for run in self._runs.active}
        calls = [run.call for run in self._runs.active if run.call is not None]
        forward = max((self._model_runner.forward_bytes(call) for call in calls), default=0)
        return self._admission.fits_weights(size, kinds, forward)

    def _in_company(self) -> bool:
        """Return whether there is more than one generation."""
        return len(self._runs) > 1

    def _vacate_slots(self) -> None:
        vacate_slots([pipeline.pipeline for pipeline in [*self._pipelines.values()]])

    # The end of a generation.

    def _end(self, run: Run, error: BaseException) -> None:
        with run_in_context(run.generation.context):
            self._runs.end(run, error)
        self._admission.end_generation(run.number, run.generation.memory_kind, well=False)

    def _end_all(self, why: Callable[[], DarkroomError]) -> None:
        self._inbox.refuse(why)
        for run in self._runs:
            self._end(run, why())

    def _fails_device(self, error: BaseException) -> bool:
        """Return whether ``error`` is of a device that cannot compute any more.

        Whatever call notices it, everything that is on the device is lost.
        """
        return concerns_device(error) and self._accelerator.has_failed()

    # For other threads.

    @property
    def stuck_s(self) -> float:
        """Seconds of the current turn, if that is ten times the longest turn so far; else 0."""
        return self._turn_watch.stuck_s

    def forward_times(self) -> Sequence[MeasuredForwards]:
        """See ``Engine.forward_times``."""
        most, histories = self._options.max_batch, self._model_runner.history.times()
        return [
            MeasuredForwards(module, seconds, times.knee(most))
            for module, times in histories
            if (seconds := times.seconds_by_calls())
        ]

    def check_device(self, error: BaseException) -> ReplicaDied | None:
        """See ``Engine.check_device``."""
        if not self._fails_device(error):
            return None
        self._device_error = error
        self._inbox.wake()
        return _device_failed(error)

    def add(self, name: str, pipeline: Any) -> None:
        """Register a pipeline that is already where it should be."""
        self._pipelines[name] = intercepted = self._intercept(pipeline)
        if not intercepted.denoisers:
            log.warning(
                "No denoiser was found yet in %s (%s). Its first generation runs in one piece; "
                "then its denoiser is known.",
                name,
                type(pipeline).__name__,
            )

    def remove(self, name: str) -> None:
        """Forget a pipeline. Generations that were submitted with it keep it until they end."""
        intercepted = self._pipelines.pop(name)
        self._graphs.forget(denoiser.real_module for denoiser in intercepted.denoisers)

    def pipeline_named(self, name: str) -> InterceptedPipeline:
        """Return the pipeline of that name. Raises ``Misconfigured`` when there is none."""
        if (pipeline := self._pipelines.get(name)) is None:
            raise Misconfigured(f"The engine has no pipeline {name!r}. Add it first.")
        return pipeline

    def add_reclaimer(self, reclaim: Callable[[], None]) -> None:
        """See ``Engine.add_reclaimer``."""
        self._pressure.add_reclaimer(reclaim)

    def on_memory_available(self, notify: Callable[[], None]) -> None:
        """See ``Engine.on_memory_available``."""
        self._on_memory_available.append(notify)

    def stop(self) -> None:
        """Make ``run`` end before its next turn."""
        self.stopping = True
        self._inbox.wake()

    def _called_by(self, generation: Generation) -> InterceptedPipeline:
        intercepted, view = generation.take_pipeline_and_view()
        return intercepted if view is None else self._intercept(view)

    def _intercept(self, pipeline: Any) -> InterceptedPipeline:
        traits = self._options.traits.of(type(pipeline))
        return InterceptedPipeline(pipeline, self._known_denoisers, traits)


def _device_failed(error: BaseException) -> ReplicaDied:
    what = str(error).partition("\n")[0]
    return ReplicaDied(
        f"The device failed, and everything that was being computed on it is lost ({what}). The "
        "replica is replaced, and the request is tried again."
    )
