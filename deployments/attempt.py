"""One lease being worked on, from weights to uploaded files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.adapter_use import AdapterUse
from deployments.beginning import beginning_of
from deployments.delivery import Delivery, Files
from deployments.failure import as_failure
from deployments.family import Family, GenerationCall, Made, Product, TakesAdapters
from deployments.given import GivenFiles
from deployments.pace import Pace
from deployments.parts import joined
from deployments.parts_snapshot import FinishedPart
from deployments.phase import Phase, Stop
from deployments.previewer import Previewer
from deployments.upload import StorageAway
from deployments.workshop import Workshop
from serve_app.domain.errors import (
    TOO_LATE,
    AdapterRefused,
    Cancelled,
    Expired,
    Misconfigured,
    ReplicaDied,
    SnapshotRefused,
)
from serve_app.domain.lease import Held, Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:  # they import torch
    from deployments.engine.generation import Generation
    from deployments.engine.loan import Loan
    from deployments.engine.snapshot import Snapshot

WORTH_S = 1.0  # in the engine

log = logging.getLogger(__name__)


class Attempt:
    """Use on one event loop; the engine's thread and the loader's write ``progress`` alone."""

    def __init__(
        self,
        lease: Lease,
        family: Family | None,
        workshop: Workshop,
        on_engine_left: Callable[[], None],
    ) -> None:
        """Without a family it fails. ``on_engine_left`` is called when others may have its slot."""
        self.lease = lease
        self.phase = Phase.LOADING
        self.stopped: Stop | None = None
        self.storage_away: str | None = None  # why it hands itself back
        self._why_hung = ""
        self.confirmed = False
        self.leased_at = workshop.clock.monotonic()
        self.progress: Progress | None = None
        self.previewer = Previewer(workshop.encoders)
        self._pace = Pace(workshop.clock)
        self._family = family
        self._workshop = workshop
        self._on_engine_left = on_engine_left
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation: Generation | None = None
        self._parts = 1  # generations that it takes
        self._finished: list[FinishedPart] = []  # of those, delivered
        self._steps = 0  # of those that have ended
        self.in_engine_since = 0.0  # on the workshop's clock
        self.at_decoding: Future[Snapshot] | None = None  # of ``generation``, when that began
        self._loan: Loan | None = None
        self._adapters = AdapterUse(workshop.adapters)
        self._delivery = Delivery(lease, workshop, self._on_progress)

    @property
    def held(self) -> Held:
        return self.lease.held

    @property
    def needs_engine(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.IN_ENGINE)

    @property
    def downloads(self) -> bool:
        """Its weights are on their way to this machine: others may have its slot."""
        progress = self.progress
        return (
            self.phase is Phase.LOADING
            and progress is not None
            and progress.stage is Stage.DOWNLOADING
        )

    @property
    def generation(self) -> Generation | None:
        """What runs in the engine; None before and after, and between two parts."""
        return self._generation if self.phase is Phase.IN_ENGINE else None

    @property
    def finished(self) -> Sequence[FinishedPart] | None:
        """The parts before the one of ``generation``; None: that one is all."""
        return None if self._parts == 1 else tuple(self._finished)

    async def run(self) -> Outcome:
        """How it ended. Raises nothing but ``CancelledError``, and that only when its task is
        cancelled by somebody else than ``stop``."""
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        timer = self._until_out_of_time()
        try:
            product, artifacts = await self._produce()
            return Outcome(
                output=product.output,
                artifacts=artifacts,
                usage=self._usage(product.units),
            )
        except asyncio.CancelledError:
            if self.stopped is None or self._task is None:
                raise
            self._task.uncancel()
            return self._failed(Cancelled("The request was cancelled."))
        except StorageAway as error:
            # What was made can be put nowhere, which is no failure of the request.
            self.stopped = self.stopped or Stop.HANDED_BACK
            self.storage_away = error.message
            return self._failed(error)
        except AdapterRefused as error:
            return self._failed(self._adapters.as_owners_error(error))
        except Exception as error:
            return self._failed(error)
        finally:
            if timer is not None:
                timer.cancel()
            self._generation = None
            self.previewer.unfollow()
            self._give_back()
            self._adapters.release()
            self._delivery.close()
            self._enter(Phase.ENDED)

    def stop(self, why: Stop) -> None:
        """End it soon. What is past the engine is not handed back: it is nearly done."""
        if why is Stop.HANDED_BACK and not self.needs_engine:
            return
        if self.stopped not in (Stop.FENCED, Stop.HUNG) or why is Stop.FENCED:
            self.stopped = why
        if self._generation is not None and self.phase is Phase.IN_ENGINE:
            self._generation.cancel()
        elif self._task is not None and self.phase is not Phase.ENDED:
            self._task.cancel()

    def give_up(self, why: str) -> None:
        """End it as failed, and to be tried again: what it waits for hangs, and its replica is to
        be replaced. ``why`` is for its owner."""
        if self.stopped is None and self._task is not None:
            self.stopped, self._why_hung = Stop.HUNG, why
            self._task.cancel()

    def abandon(self) -> None:
        """Hand it back without waiting for a step, an encoding or an upload to end."""
        if self.phase is Phase.ENDED:
            return
        self.stopped = self.stopped or Stop.HANDED_BACK
        if self._task is not None:
            self._task.cancel()

    async def discard(self) -> None:
        """Delete what it uploaded: nobody will ever read it."""
        await self._delivery.discard()

    async def _produce(self) -> tuple[Product, Files]:
        lease = self.lease
        if self.stopped is not None:  # before the task had its first turn
            raise Cancelled("The request was cancelled.")
        family = self._family
        if family is None:
            raise Misconfigured(f"This pool does not host the family {lease.endpoint.family!r}.")
        given = GivenFiles(lease, self._workshop)
        await given.fetch(self._on_progress)
        if isinstance(family, TakesAdapters) and (asked := family.adapters(lease.input)):
            self.progress = Progress(Stage.FETCHING)
            await self._adapters.fetch(asked, lease.files_url)
        self._loan = loan = self._workshop.borrow(family, lease.endpoint, self._on_progress)
        pipeline = await _lent(loan)
        seed = _seed(lease.request_id)
        begun = await beginning_of(lease, seed, self._workshop)
        self._parts = len(begun.parts)
        files: list[Files] = []
        for part in begun.finished:
            files.append(await self._delivery.deliver_again(part.product))
            self._finished.append(part)
            self._steps += part.steps
        snapshot = begun.snapshot
        for number, part in list(enumerate(begun.parts))[len(self._finished) :]:
            prepare = partial(given.prepare, family, pipeline, part.input, seed)
            call, made = await self._make(loan, prepare, snapshot, number)
            snapshot = None  # it is of one
            # A view keeps the weights in memory, and delivering takes a while.
            call = replace(call, view=None)
            self._end_generation(last=number == self._parts - 1)
            product, uploaded = await self._delivery.deliver(family, call, made, part.tickets)
            self._finished.append(FinishedPart(product, made.steps))
            files.append(uploaded)
        product = joined([each.product for each in self._finished], lease.input.get("seeds"))
        return product, tuple(file for each in files for file in each)

    async def _make(
        self,
        loan: Loan,
        prepare: Callable[[], Awaitable[GenerationCall]],
        snapshot: bytes | None,
        number: int,
    ) -> tuple[GenerationCall, Made]:
        call = self._adapted(await prepare())
        try:
            return call, await self._generate(loan, call, snapshot, number)
        except SnapshotRefused as error:
            # Such as that of another version of torch, during an update.
            log.warning("Attempt %d starts anew. %s", self.lease.attempt, error.message)
            call = self._adapted(await prepare())  # what the other was prepared with may be used up
            return call, await self._generate(loan, call, None, number)

    def _end_generation(self, *, last: bool) -> None:
        """It has left the engine. Between two, a stop ends what is being delivered."""
        self._steps += self._generation.steps_done if self._generation is not None else 0
        self._generation = None
        if last:
            self._give_back()
            self._enter(Phase.DELIVERING)

    def _adapted(self, call: GenerationCall) -> GenerationCall:
        return replace(call, adapters=[*call.adapters, *self._adapters.adapters()])

    def _give_back(self) -> None:
        """Others may have the memory that the weights take."""
        loan, self._loan = self._loan, None
        if loan is not None:
            self._workshop.residency.give_back(loan)

    async def _generate(
        self, loan: Loan, call: GenerationCall, snapshot: bytes | None, number: int
    ) -> Made:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        clock = self._workshop.clock
        started = clock.monotonic()
        if self.phase is not Phase.IN_ENGINE:  # the first
            self.in_engine_since = started
            self._enter(Phase.IN_ENGINE)
        self.at_decoding = None
        self._generation = generation = self._workshop.engine.submit(
            pipeline=loan.name,
            view=call.view,
            adapters=call.adapters,
            on_progress=partial(self._on_progress_of, number),
            on_frames=self._delivery.record(call.recording),
            priority=int(self.lease.priority),
            deadline_s=self._remains_s(),
            deterministic=self.lease.alone,
            snapshot=snapshot,
            **call.arguments,
        )
        self.previewer.follow(generation)
        if call.recording is not None:
            call.recording.follow(generation)
        generation.add_done_callback(lambda _: loop.call_soon_threadsafe(_resolve, ended))
        try:
            await ended
        except asyncio.CancelledError:
            generation.cancel()
            raise
        result = generation.result(timeout=0)
        if self.stopped is Stop.HANDED_BACK and number == self._parts - 1:
            self.stopped = None  # It was faster: finish it.
        if self.stopped is not None:
            raise Cancelled("The request was cancelled.")
        return Made(result, clock.monotonic() - started, generation.steps_done)

    def _until_out_of_time(self) -> asyncio.TimerHandle | None:
        remains_s = self._remains_s()
        if remains_s is None:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(max(remains_s, 0.0), self.stop, Stop.OUT_OF_TIME)

    def _remains_s(self) -> float | None:
        """Of the request's time in all; None: it may take any."""
        if self.lease.deadline_s is None:
            return None
        return self.leased_at + self.lease.deadline_s - self._workshop.clock.monotonic()

    def _on_progress_of(self, number: int, progress: Progress) -> None:
        """Steps are those of all generations together."""
        if progress.stage is Stage.DECODING and not progress.steps:  # that it begins
            self._keep_at_decoding()
        steps = progress.steps
        self._on_progress(
            replace(progress, step=number * steps + progress.step, steps=self._parts * steps)
        )

    def _keep_at_decoding(self) -> None:
        """No snapshot can be taken between the chunks of a clip, so one is taken before the first.
        Not of what is made again as soon as it would be read. On the engine's thread."""
        took_s = self._workshop.clock.monotonic() - self.in_engine_since
        if self._generation is not None and self.at_decoding is None and took_s >= WORTH_S:
            self.at_decoding = self._generation.ask_for_snapshot()

    def _on_progress(self, progress: Progress) -> None:
        """On any thread."""
        downloaded = self.downloads
        self.progress = self._pace.of(progress)
        if self.downloads and not downloaded and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_engine_left)

    def _enter(self, phase: Phase) -> None:
        needed = self.needs_engine
        self.phase = phase
        if needed and not self.needs_engine:
            self._on_engine_left()

    def _usage(self, units: float = 0.0) -> Usage:
        run_s = self._workshop.clock.monotonic() - self.leased_at
        going = self._generation.steps_done if self._generation is not None else 0
        return Usage(run_s=round(run_s, 4), steps=self._steps + going, units=units)

    def _failed(self, error: Exception) -> Outcome:
        if isinstance(error, Cancelled) and self.stopped is None:
            # Nobody asked for it: the engine ended under it, and another attempt can succeed.
            error = ReplicaDied("The engine was stopped.")
        if isinstance(error, Cancelled) and self.stopped is Stop.HUNG:
            error = ReplicaDied(self._why_hung)
        if isinstance(error, Cancelled) and self.stopped is Stop.OUT_OF_TIME:
            error = Expired(TOO_LATE)
        elif not isinstance(error, Cancelled):
            log.warning("The attempt failed.", exc_info=error)
        return Outcome(failure=as_failure(error), usage=self._usage())


async def _lent(loan: Loan) -> Any:
    """The pipeline, in this very turn of the event loop when it is loaded."""
    if loan.future.done():
        return loan.future.result()
    return await asyncio.wrap_future(loan.future)


def _seed(request_id: str) -> int:
    """For an input without one. From the id, so that another attempt makes the same picture; under
    2^53, so that JavaScript reads it exactly."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") >> 11


def _resolve(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
