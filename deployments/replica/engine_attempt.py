"""Execution of one lease by the engine, from loading weights to uploaded files."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.engine.loop.options import GenerationOptions
from deployments.families.base import (
    Family,
    GenerationCall,
    GenerationResult,
    Product,
    family_loras,
)
from deployments.families.image_io import seed_of
from deployments.families.multi_output import merge, seeds_of, split
from deployments.families.options import ADAPTERS
from deployments.replica import weights
from deployments.replica.attempt import CANCELLED, Attempt, may_preview
from deployments.replica.attempt_state import Phase, StopReason, computed_steps
from deployments.replica.files import ArtifactDelivery, Files, InputFiles
from deployments.replica.poller import SlotQueue
from deployments.replica.previewer import Previewer
from deployments.replica.refusals import refusal
from deployments.replica.resources import ReplicaResources
from deployments.replica.resume import (
    FinishedOutput,
    GenerationStart,
    MadeDraft,
    SeparatedFiles,
    StartPoint,
    request_start,
    start_point,
)
from deployments.transfer.fetcher import OwnFiles
from deployments.transfer.lora_fetcher import LoraUse
from serve_app.domain.errors import (
    Cancelled,
    ForkRefused,
    InvalidInput,
    LoraRefused,
    Misconfigured,
    SnapshotRefused,
    Unsupported,
)
from serve_app.domain.lease import Lease
from serve_app.domain.media.safety import VIOLATION
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.loading.loads import PipelineHandle
    from deployments.engine.lora.format import Lora

log = logging.getLogger(__name__)

Generate = Callable[[GenerationStart], Awaitable[tuple[GenerationCall, GenerationResult]]]

MAX_LORA_NOTES = 100  # lines about LoRAs that wait for a report


class FamilyMissing(Misconfigured):
    """Raised when the replica does not have the endpoint's family. It does not leave the replica:
    the attempt is handed back."""


class EngineAttempt(Attempt):
    """Execution of one lease by the engine."""

    ended_by_itself = "The engine was stopped."
    hands_back = (*Attempt.hands_back, FamilyMissing)

    def __init__(
        self,
        lease: Lease,
        family: Family | None,
        resources: ReplicaResources,
        on_engine_left: Callable[[], None],
        slots: SlotQueue | None = None,
        beside: PipelineHandle | None = None,
    ) -> None:
        """``family`` None hands the attempt back. ``slots``: where it takes its slot once its files
        are fetched. None: it has one already. ``beside``: a handle of its pipeline that is held."""
        self._previewer = Previewer(resources.encoders, marked=lease.has_marked_files)
        phase = Phase.LOADING if slots is None else Phase.WAITING
        super().__init__(
            lease, resources.clock, on_engine_left, self._previewer, phase, MAX_LORA_NOTES
        )
        self._slots = slots
        self._family = family
        self._resources = resources
        self._beside = beside
        self._handle: PipelineHandle | None = None
        scope = resources.cache_scope(lease.tenant)
        self._loras = LoraUse(resources.loras, scope, lease.tenant)
        self._own: list[Lora] = []  # the endpoint's adapters
        self._delivery = ArtifactDelivery(lease, resources, self.state.set_progress)

    async def _execute(self) -> Outcome:
        try:
            product, files = await self._produce()
        except LoraRefused as error:
            raise self._explain(error) from error
        except (RuntimeError, ValueError, TypeError) as error:
            if (refused := refusal(error, self.lease.endpoint)) is None:
                raise
            raise refused from error
        separated = SeparatedFiles.of(product, files)
        return Outcome(
            output=separated.output,
            artifacts=separated.artifacts,
            usage=replace(self._usage(), units=product.units, share=product.share),
            drafts=separated.drafts,
        )

    async def _release(self) -> None:
        self.state.generation = None
        self._previewer.unfollow()
        self._release_pipeline()
        self._loras.release()
        self._delivery.close()

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        await self._delivery.discard()

    async def _produce(self) -> tuple[Product, Files]:
        lease, state = self.lease, self.state
        family = self._runnable_family()
        inputs = InputFiles(lease, self._resources)
        await self._fetch(family, inputs)
        seed = _seed(lease.request_id)
        begin = await request_start(lease, seed, self._resources)
        if self._slots is not None:
            await self._take_slot(self._slots)
        handle = self._handle = self._acquire_handle(family)
        pipeline = await _await_pipeline(handle)
        state.enter_stage(None)
        if lease.snapshot_url is None:
            start = StartPoint(split(lease, seed))
        else:
            start = await start_point(lease, lease.snapshot_url, seed, self._resources)
        state.parts = len(start.parts)
        files: list[Files] = []
        for output in start.finished:
            files.append(await self._delivery.deliver_again(output.product))
            state.add_resumed(output)
        snapshot = start.snapshot
        for number, part in list(enumerate(start.parts))[len(start.finished) :]:
            prepare = partial(inputs.prepare, family, pipeline, part.input, seed)
            self._delivery.describe(part.standalone_input, seed)
            generate = partial(self._generate, handle, prepare, number=number)
            draft, begins = None, replace(begin, snapshot=snapshot)
            if begin.point is not None:
                draft = await self._draft(generate, begins, seed_of(part.input, seed))
                begins = draft.preview
            call, result = await generate(begins)
            if draft is not None:
                result = draft.of(result)
            snapshot = None  # it belongs to the first part only
            # A view keeps the weights in memory, and delivery takes a while.
            call = replace(call, view=None)
            state.end_generation()
            if number == state.parts - 1:  # before, a stop ends the delivery too
                self._release_pipeline()
                state.enter(Phase.DELIVERING)
            product, uploaded = await self._delivery.deliver(
                family, call, result, part.tickets, draft
            )
            state.outputs.append(FinishedOutput(begin.with_charged_units(product), result.steps))
            files.append(uploaded)
        seeds = lease.input.get("seeds")
        if begin.point is not None:
            seeds = seeds_of(lease.input, seed)
        for note in inputs.notes:
            self.printed.append("WARNING", note)
        product = merge([finished.product for finished in state.outputs], seeds)
        return product, tuple(file for part_files in files for file in part_files)

    async def _fetch(self, family: Family, inputs: InputFiles) -> None:
        """Fetch the files that the endpoint and the input name, without a slot."""
        lease, state = self.lease, self.state
        if lease.endpoint.options.get(ADAPTERS):
            self._own = await asyncio.to_thread(
                weights.adapters, self._resources.store, lease.endpoint, lease.input
            )
        requested = family_loras(family, lease.input)
        if self._slots is not None and (inputs.are_remote or not self._loras.are_here(requested)):
            state.enter(Phase.FETCHING)
        await inputs.fetch(state.set_progress)
        if requested:
            state.set_progress(Progress(Stage.FETCHING))
            await self._loras.fetch(requested, OwnFiles.of(lease))
            used = {lora.file.stem for lora in self._loras.loras()}  # named by their digests
            if used & lease.blocked_loras:
                message = "the operator of this installation does not allow this LoRA"
                raise InvalidInput.of_field("loras", message, VIOLATION)

    def _runnable_family(self, if_stopped: str = CANCELLED) -> Family:
        """Family of the endpoint. Raises if there is none, or, with the message ``if_stopped``, if
        the attempt was stopped before its task first ran."""
        if self.state.stopped is not None:
            raise Cancelled(if_stopped)
        if self._family is None:
            endpoint = self.lease.endpoint
            raise FamilyMissing(
                f"The replica started without the family {endpoint.family}, which {endpoint.id} "
                "needs. Deploy the pool again if its families have changed."
            )
        return self._family

    async def _generate(
        self,
        handle: PipelineHandle,
        prepare: Callable[[], Awaitable[GenerationCall]],
        start: GenerationStart,
        number: int,
    ) -> tuple[GenerationCall, GenerationResult]:
        """Prepare the call of part ``number`` and run it, from the snapshot if it fits."""
        call = self._with_loras(await prepare())
        try:
            return call, await self._run(handle, call, start, number)
        except (ForkRefused, Unsupported) as error:
            if start.point is None and start.fork is None:
                raise
            raise start.refusal(error) from error
        except SnapshotRefused as error:
            # For example, the snapshot comes from another version of torch, during an update.
            log.warning("Attempt %d cannot resume: %s", self.lease.attempt, error.message)
            # The arguments of the first call may be used up.
            call = self._with_loras(await prepare())
            return call, await self._run(handle, call, replace(start, snapshot=None), number)

    async def _draft(self, generate: Generate, start: GenerationStart, seed: int) -> MadeDraft:
        """Make a draft. ``generate`` runs the call of its part."""
        _, generated = await generate(start)
        self.state.end_generation()
        return MadeDraft(generated.result, generated, seed)

    def _with_loras(self, call: GenerationCall) -> GenerationCall:
        return replace(call, loras=[*self._own, *call.loras, *self._loras.loras()])

    def _explain(self, error: LoraRefused) -> Exception:
        """Error of the field that names the file, or of the endpoint if it is one of its own."""
        if error.number is None:
            return self._loras.as_owners_error(error)
        if error.number < len(self._own):
            return Misconfigured(f"{self.lease.endpoint.id}: `options.{ADAPTERS}`: {error.message}")
        return self._loras.as_owners_error(
            LoraRefused(error.message, error.number - len(self._own))
        )

    def _acquire_handle(self, family: Family) -> PipelineHandle:
        """Handle of the pipeline, which is loaded now or later."""
        resources = self._resources
        if self._beside is not None and (shared := resources.residency.share(self._beside)):
            return shared
        return resources.acquire(family, self.lease.endpoint, self.state.set_progress)

    def _release_pipeline(self) -> None:
        """Release the pipeline, so that other pipelines may use its memory."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._resources.residency.release(handle)

    async def _run(
        self, handle: PipelineHandle, call: GenerationCall, start: GenerationStart, number: int
    ) -> GenerationResult:
        """Run the call in the engine."""
        state, clock = self.state, self._clock
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        started = clock.monotonic()
        tiles = self._resources.needs_tiles(self.lease.endpoint, call.work)
        recording = None if start.point is not None else call.recording  # a draft is not decoded
        state.begin_generation(start.earlier_steps)
        state.generation = generation = self._resources.engine.submit(
            pipeline=handle.name,
            view=call.view,
            loras=call.loras,
            on_progress=partial(state.set_step, number, start.planned_steps()),
            deterministic=self.lease.alone,
            snapshot=start.snapshot,
            options=GenerationOptions(
                priority=int(self.lease.priority),
                deadline_s=self._remaining_s(),
                on_frames=self._delivery.record(recording),
                tiles=tiles,
                step_cache=self._resources.step_cache(self.lease.endpoint, self.lease.input),
                draft=start.point,
                fork=start.fork,
                cache_scope=self._resources.cache_scope(self.lease.tenant),
                set_up=call.set_up,
            ),
            **call.arguments,
        )
        if may_preview(self.lease):
            self._previewer.follow(generation)
        if recording is not None:
            recording.follow(generation)
        generation.add_done_callback(lambda _: loop.call_soon_threadsafe(_resolve, ended))
        try:
            await ended
        except asyncio.CancelledError:
            generation.cancel()
            raise
        for index, note in generation.lora_notes if number == 0 else ():
            self.printed.append("WARNING", self._loras.note(index - len(self._own), note))
        steps = computed_steps(generation.steps_done, start.earlier_steps)
        if state.timeline is not None and not start.is_preview:
            state.timeline.note(steps=steps, batch_size=round(generation.mean_batch, 2))
        result = generation.result(timeout=0)
        if state.stopped is StopReason.HANDED_BACK and number == state.parts - 1:
            state.stopped = None  # the generation ended before the stop: deliver it
        if state.stopped is not None:
            raise Cancelled(CANCELLED)
        return GenerationResult(result, clock.monotonic() - started, steps)

    def _usage(self) -> Usage:
        """Usage since the lease, without the time that other attempts had all slots."""
        run_s = self._clock.monotonic() - self.state.leased_at - self._waited_s
        return Usage(run_s=round(run_s, 4), steps=self.state.steps)


async def _await_pipeline(handle: PipelineHandle) -> Any:
    """The pipeline. If it is loaded, it is returned without yielding to the event loop."""
    if handle.future.done():
        return handle.future.result()
    return await asyncio.wrap_future(handle.future)


def _seed(request_id: str) -> int:
    """Seed for an input without one. It is derived from the request id, so that another attempt
    makes the same image, and is below 2^53, so that JavaScript reads it exactly."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") >> 11


def _resolve(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
