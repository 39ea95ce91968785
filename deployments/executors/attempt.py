"""Execution of one lease by an executor, from its input files to its uploaded output."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.images import read_image
from deployments.executors.base import (
    AppExecutor,
    ExecutorWork,
    LoggedLine,
    MadeOutput,
    PartialOutput,
    PreviewPicture,
)
from deployments.executors.files import RequestFiles
from deployments.executors.hosts import AppHost, AppRetry
from deployments.executors.partials import PartialSender
from deployments.replica.attempt import CANCELLED, Attempt, may_preview
from deployments.replica.attempt_state import Phase, StopReason
from deployments.replica.poller import SlotQueue
from serve_app.domain.errors import Cancelled, PipelineFailed
from serve_app.domain.executors.secrets import named_by
from serve_app.domain.lease import Lease
from serve_app.domain.media.marking import XMP, MarkPolicy
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import AppSource, Clock
from serve_app.domain.progress import MAX_STEPS, Preview, Progress

log = logging.getLogger(__name__)

CANCEL_GRACE_S = 5.0
"""Time for a cancelled request to end by itself. Then its process is ended."""

PREVIEW_SIDE = 256  # largest side in pixels

MAX_LINES = 1000  # printed lines that wait for a report


class LatestPreview:
    """The latest preview of an attempt, for its next report. Executors make previews also when
    nobody looks; only a wanted one is kept."""

    def __init__(self, *, shown: bool, marked: bool) -> None:
        """``shown``: False keeps none. ``marked``: they say that they are AI-generated."""
        self._shown = shown
        self._marked = marked
        self._wanted = False
        self._latest: Preview | None = None

    def want(self) -> None:
        """Keep the next preview: somebody looks."""
        self._wanted = True

    def offer(self, step: int, picture: bytes) -> None:
        """Take a picture that an executor has made after ``step`` steps, in any format. One that
        cannot be read is left out: it is never worth the request."""
        if not (self._wanted and self._shown):
            return
        try:
            small = _small(picture, marked=self._marked)
        except ValueError as error:  # custom nodes of ComfyUI send previews of their own
            log.warning("A preview was left out: %s", error)
            return
        self._wanted = False
        self._latest = Preview(min(max(step, 1), MAX_STEPS), small)

    def take(self) -> Preview | None:
        """The preview, once. None if there is no new one."""
        taken, self._latest = self._latest, None
        return taken


@dataclass(frozen=True, slots=True)
class AttemptParts:
    """What an attempt works with."""

    host: AppHost
    files: RequestFiles
    partials: PartialSender
    source: AppSource
    clock: Clock
    slots: SlotQueue
    on_slot_free: Callable[[], None]


class ExecutorAttempt(Attempt):
    """Execution of one lease by an executor."""

    ended_by_itself = "The app cancelled the request by itself."
    hands_back = (*Attempt.hands_back, AppRetry)

    def __init__(self, lease: Lease, parts: AttemptParts) -> None:
        self._previews = LatestPreview(shown=may_preview(lease), marked=lease.has_marked_files)
        super().__init__(
            lease, parts.clock, parts.on_slot_free, self._previews, max_lines=MAX_LINES
        )
        self.over = asyncio.Event()  # set when neither it nor its call to the app runs any more
        self._host = parts.host
        self._files = parts.files
        self._partials = parts.partials
        self._source = parts.source
        self._slots = parts.slots
        self._run_s = 0.0
        self._ending: asyncio.Task[None] | None = None  # its call to the app, after a stop
        self._cleaning: asyncio.Task[None] | None = None
        self._earlier: tuple[ExecutorAttempt, ...] = ()

    def follow(self, earlier: Iterable[ExecutorAttempt]) -> None:
        """Stop other attempts of the request, whose leases are lost, and run after they have ended:
        executors know a call by the id of its request. Call before ``run``."""
        self._earlier = tuple(earlier)
        for attempt in self._earlier:
            if attempt.state.stopped is None:
                attempt.stop(StopReason.FENCED)

    async def _execute(self) -> Outcome:
        try:
            output = await self._make()
            self.state.enter(Phase.DELIVERING)
            output, artifacts = await self._files.store(output, self.state.set_progress)
        except Exception:
            await self._partials.flush()  # what was made before the error
            raise
        await self._partials.flush()
        return Outcome(output=output, artifacts=artifacts, usage=self._usage())

    async def _release(self) -> None:
        self._cleaning = asyncio.create_task(self._clean_up())
        await asyncio.shield(self._cleaning)

    @property
    def must_stay(self) -> bool:
        """True while its result exists only here: it is in the answer to a call that is paid."""
        here = self.state.phase in (Phase.IN_ENGINE, Phase.DELIVERING)
        return here and self._files.is_paid

    @property
    def goes_elsewhere(self) -> bool:
        """True if a replica that ends hands it back at once: its provider goes on with it, and
        another replica takes the result."""
        return self.lease.endpoint.executor.is_hosted and not self._files.is_paid

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        await self._files.discard()

    async def _make(self) -> Mapping[str, Any]:
        state = self.state
        if state.stopped is not None:  # before its task first ran
            raise Cancelled(CANCELLED)
        for attempt in self._earlier:
            await attempt.over.wait()
        self._earlier = ()
        if self._files.are_remote:
            state.enter(Phase.FETCHING)
        inputs = await self._files.fetch(state.set_progress)
        await self._take_slot(self._slots)
        lease = self.lease
        secrets = (
            await self._source.secrets(lease.key, lease.tenant)
            if named_by(lease.endpoint.options)
            else ()
        )
        # It was in a process that died: either it is the cause, or it must not be blamed again for
        # what another one does.
        suspect = lease.alone and lease.attempt > 1 and not lease.endpoint.executor.is_hosted
        async with self._host.use(
            lease.endpoint, secrets, state.set_progress, alone=suspect
        ) as executor:
            state.enter(Phase.IN_ENGINE)
            state.enter_stage("running")
            started = self._clock.monotonic()
            work = ExecutorWork(
                lease.request_id,
                lease.endpoint,
                inputs,
                self._files.folder,
                secrets,
                lease.key,
                lease.tenant,
                may_link=not lease.output_rules and lease.marking != MarkPolicy.REQUIRED,
                stopped=lambda: state.stopped,
            )
            try:
                return await self._output(executor, work)
            except BaseException:
                # Whatever the reason, else the app would go on, or wait, in a slot that counts as
                # free. Shielded: a second stop does not wait for the app, which must end
                # nevertheless.
                self._ending = asyncio.create_task(self._end_call(executor))
                await asyncio.shield(self._ending)
                raise
            finally:
                self._run_s = self._clock.monotonic() - started

    async def _output(self, executor: AppExecutor, work: ExecutorWork) -> Mapping[str, Any]:
        async for event in executor.run(work):
            if isinstance(event, LoggedLine):
                self.printed.append(event.level, event.text)
            elif isinstance(event, PartialOutput):
                await self._add_partial(event)
            elif isinstance(event, PreviewPicture):
                self._previews.offer(event.step, event.picture)
            elif isinstance(event, MadeOutput):
                return event.output
            elif isinstance(event, Progress):
                self.state.set_progress(event)
        raise PipelineFailed("The app ended the request without a result.")

    async def _add_partial(self, event: PartialOutput) -> None:
        """Send a partial result. One that cannot be shown is left out, and the log says so."""
        try:
            await self._partials.add(await self._files.inline(event.output))
        except PipelineFailed as error:
            self.printed.append("WARNING", f"A partial result was left out: {error.message}")

    async def _clean_up(self) -> None:
        try:
            await self._partials.aclose()
            await self._files.remove()
        finally:
            if self._ending is None or self._ending.done():
                self.over.set()
            else:
                self._ending.add_done_callback(lambda _: self.over.set())

    async def _end_call(self, executor: AppExecutor) -> None:
        if not await executor.cancel(self.lease.request_id, CANCEL_GRACE_S):
            log.warning("The app goes on with a cancelled request, so its process is ended.")
            await self._host.end(executor)

    def _usage(self) -> Usage:
        return Usage(run_s=round(self._run_s, 4))


def _small(picture: bytes, *, marked: bool) -> bytes:
    """A picture as a JPEG of at most ``PREVIEW_SIDE`` pixels."""
    small = read_image(io.BytesIO(picture), small=True)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    written = io.BytesIO()
    mark = {"xmp": XMP.encode()} if marked else {}
    small.save(written, "JPEG", quality=80, **mark)
    return written.getvalue()
