"""Execution of one lease by an executor, from its input files to its uploaded output."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from PIL import Image

from deployments.engine.media.images import SHOWN
from deployments.executors.base import (
    AppExecutor,
    ExecutorWork,
    LoggedLine,
    MadeOutput,
    PartialOutput,
    PreviewPicture,
)
from deployments.executors.files import RequestFiles
from deployments.executors.hosts import AppHost
from deployments.executors.partials import PartialSender
from deployments.ingress_client.repeating import IngressRetry
from deployments.replica.attempt_state import AttemptState, Phase, StopReason
from deployments.replica.failures import PrintedLines, as_failure
from deployments.replica.poller import SlotQueue
from deployments.transfer.uploader import StorageRetry
from serve_app.domain.errors import TOO_LATE, Cancelled, Expired, PipelineFailed, ReplicaDied
from serve_app.domain.executors.hosted import moves
from serve_app.domain.executors.secrets import named_by
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.media.marking import XMP, MarkPolicy
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import AppSource, Clock
from serve_app.domain.progress import Preview, Progress

log = logging.getLogger(__name__)

CANCELLED = "The request was cancelled."
CANCEL_GRACE_S = 5.0
"""Time for a cancelled request to end by itself. Then its process is ended."""

PREVIEW_SIDE = 256  # largest side in pixels

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""Errors of Pillow for what is no picture: custom nodes of ComfyUI send previews of their own."""

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
        except UNREADABLE as error:
            log.warning("A preview was left out: %s", error)
            return
        self._wanted = False
        self._latest = Preview(max(step, 1), small)

    def take(self) -> Preview | None:
        """The preview, once. None if there is no new one."""
        taken, self._latest = self._latest, None
        return taken


class ExecutorAttempt:
    """Execution of one lease. Use on one event loop; others read ``state``."""

    def __init__(
        self,
        lease: Lease,
        host: AppHost,
        files: RequestFiles,
        partials: PartialSender,
        source: AppSource,
        clock: Clock,
        slots: SlotQueue,
        on_slot_free: Callable[[], None],
    ) -> None:
        self.lease = lease
        self.state = AttemptState(clock, on_slot_free, Phase.WAITING)
        if lease.trace:
            self.state.trace()
        self.hand_back_reason: str | None = None
        # What the operator's policy has to see first is not shown before.
        shown = all(rule["action"] == "flag" for rule in lease.output_rules)
        self.previewer = LatestPreview(shown=shown, marked=lease.marked)
        self.printed = PrintedLines(MAX_LINES)
        self.over = asyncio.Event()  # set when neither it nor its call to the app runs any more
        self._host = host
        self._files = files
        self._partials = partials
        self._source = source
        self._clock = clock
        self._slots = slots
        self._task: asyncio.Task[Any] | None = None
        self._run_s = 0.0
        self._ending: asyncio.Task[None] | None = None  # its call to the app, after a stop
        self._cleaning: asyncio.Task[None] | None = None
        self._earlier: tuple[ExecutorAttempt, ...] = ()

    def follow(self, earlier: Iterable[ExecutorAttempt]) -> None:
        """Stop other attempts of the request, whose leases are lost, and run after they have ended:
        executors know a call by the id of its request. Call before ``run``."""
        self._earlier = tuple(earlier)
        for each in self._earlier:
            if each.state.stopped is None:
                each.stop(StopReason.FENCED)

    @property
    def held(self) -> LeaseKey:
        return self.lease.held

    @property
    def handed_back(self) -> bool:
        return self.state.stopped is StopReason.HANDED_BACK

    async def run(self) -> Outcome:
        """Run the lease and return its outcome. Raises only ``CancelledError``, and only when the
        task is cancelled by a caller other than ``stop``."""
        state, self._task = self.state, asyncio.current_task()
        timer = self._stop_at_deadline()
        try:
            output = await self._make()
            state.enter(Phase.DELIVERING)
            output, artifacts = await self._files.store(output, state.set_progress)
            await self._partials.flush()
            return Outcome(output=output, artifacts=artifacts, usage=self._usage())
        except asyncio.CancelledError:
            if state.stopped is None or self._task is None:
                raise
            self._task.uncancel()
            return self._failed(Cancelled(CANCELLED))
        except (StorageRetry, IngressRetry) as error:
            # The result cannot be stored anywhere, or the app cannot be started without what the
            # ingress has. That is not a failure of the request.
            state.stopped = state.stopped or StopReason.HANDED_BACK
            self.hand_back_reason = error.message
            return self._failed(error)
        except Exception as error:
            return self._failed(error)
        finally:
            if timer is not None:
                timer.cancel()
            # First: the outcome is decided, and a stop from here on must not take it away.
            state.enter(Phase.ENDED)
            self._cleaning = asyncio.create_task(self._clean_up())
            await asyncio.shield(self._cleaning)

    @property
    def must_stay(self) -> bool:
        """True while its result exists only here: it is in the answer to a call that is paid."""
        here = self.state.phase in (Phase.IN_ENGINE, Phase.DELIVERING)
        return here and moves(self.lease.endpoint) is False

    def stop(self, why: StopReason) -> None:
        """End the attempt soon. ``HANDED_BACK`` is ignored after the app: it is nearly done. What
        has its outcome is not ended any more."""
        state = self.state
        if why is StopReason.HANDED_BACK and (not state.needs_engine or self.must_stay):
            return
        if state.stopped is not StopReason.FENCED:
            state.stopped = why
        if self._task is not None and state.phase is not Phase.ENDED:
            self._task.cancel()

    def abandon(self) -> None:
        """Hand the lease back without waiting for the app or an upload, unless it must stay."""
        if self.must_stay:
            return
        self.stop(StopReason.HANDED_BACK)
        if self._task is not None and self.state.phase is not Phase.ENDED:
            self.state.stopped = self.state.stopped or StopReason.HANDED_BACK
            self._task.cancel()

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        await self._files.discard()

    async def _make(self) -> Mapping[str, Any]:
        state = self.state
        if state.stopped is not None:  # before its task first ran
            raise Cancelled(CANCELLED)
        for each in self._earlier:
            await each.over.wait()
        self._earlier = ()
        if self._files.are_remote:
            state.enter(Phase.FETCHING)
        given = await self._files.fetch(state.set_progress)
        state.enter(Phase.WAITING)
        await self._slots.take(self)
        lease = self.lease
        secrets = (
            await self._source.secrets(lease.held, lease.tenant)
            if named_by(lease.endpoint.options)
            else ()
        )
        async with self._host.use(lease.endpoint, secrets, state.set_progress) as executor:
            state.enter(Phase.IN_ENGINE)
            state.enter_stage("running")
            started = self._clock.monotonic()
            work = ExecutorWork(
                lease.request_id,
                lease.endpoint,
                given,
                self._files.folder,
                secrets,
                lease.held,
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
                self.previewer.offer(event.step, event.picture)
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

    def _stop_at_deadline(self) -> asyncio.TimerHandle | None:
        if self.lease.deadline_s is None:
            return None
        left_s = max(self.lease.deadline_s, 0.0)
        return asyncio.get_running_loop().call_later(left_s, self.stop, StopReason.DEADLINE)

    def _usage(self) -> Usage:
        return Usage(run_s=round(self._run_s, 4))

    def _failed(self, error: Exception) -> Outcome:
        stopped = self.state.stopped
        if isinstance(error, Cancelled) and stopped is None:
            error = ReplicaDied("The app cancelled the request by itself.")
        if isinstance(error, Cancelled) and stopped is StopReason.DEADLINE:
            error = Expired(TOO_LATE)
        elif not isinstance(error, Cancelled):
            log.warning("The attempt failed.", exc_info=error)
        return Outcome(failure=as_failure(error), usage=self._usage())


def _small(picture: bytes, *, marked: bool) -> bytes:
    """A picture as a JPEG of at most ``PREVIEW_SIDE`` pixels."""
    with Image.open(io.BytesIO(picture), formats=SHOWN) as opened:
        small = opened.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    written = io.BytesIO()
    mark = {"xmp": XMP.encode()} if marked else {}
    small.save(written, "JPEG", quality=80, **mark)
    return written.getvalue()
