"""Realtime session on its replica: a lease that stays open, with one attempt per frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from deployments.families.base import Family, Product
from deployments.replica.attempt_state import Phase, StopReason
from deployments.replica.engine_attempt import EngineAttempt
from deployments.replica.files import Files
from deployments.replica.leased_attempts import LeasedAttempts
from deployments.replica.resources import ReplicaResources
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Fenced, TooLarge
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.outcome import FRAMES, Usage
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.realtime import Frame, FrameResult
from serve_app.telemetry.logs import set_request

ENDED = "The session has ended."


class ReplicaSession(EngineAttempt):
    """Attempt that holds its slot and the endpoint's weights until ``end``, or until it hears
    nothing for ``silence_s``: then the ingress with its client is gone. Use on one event loop."""

    def __init__(
        self,
        lease: Lease,
        family: Family | None,
        resources: ReplicaResources,
        on_engine_left: Callable[[], None],
        silence_s: float,
    ) -> None:
        super().__init__(lease, family, resources, on_engine_left)
        self._silence_s = silence_s
        self._opened = asyncio.Event()
        self._activity = asyncio.Event()
        self._over = False
        self._frame_attempt: EngineAttempt | None = None
        self._frames = 0
        self._frames_s = 0.0

    async def generate_frame(self, frame: Frame) -> FrameResult:
        """Make a frame. Only one call at a time. ``Fenced`` if the session has ended."""
        await self._opened.wait()
        if self._over or self.state.phase is Phase.ENDED:
            raise Fenced(ENDED)
        self._activity.set()
        lease = self.lease
        set_request(frame.request_id, tenant=lease.tenant, endpoint=lease.endpoint.id)
        files = FrameFiles()
        self._frame_attempt = attempt = EngineAttempt(
            replace(
                self.lease,
                trace="",  # a session has thousands of frames
                request_id=frame.request_id,
                input=frame.input,
                upload_tickets=frame.files,
            ),
            self._family,
            replace(self._resources, uploader=files),
            _nothing,
            # Without it, frames would wait behind requests for other weights, and these for the
            # end of the session.
            beside=self._handle,
        )
        try:
            outcome = await attempt.run()
        finally:
            self._frame_attempt = None
            self._activity.set()
        self._frames += 1
        self._frames_s += outcome.usage.run_s
        self.state.progress = Progress(Stage.DENOISING, self._frames)
        return FrameResult(outcome, files.files)

    def end(self) -> None:
        """End the session: no more frames will be requested."""
        self._over = True
        self._activity.set()

    def stop(self, why: StopReason) -> None:
        """End the attempt soon. One that is cancelled ends as if its client had left: its frames
        were delivered, and its time is billed with them."""
        if why is StopReason.CANCELLED and self._opened.is_set():
            self.end()
        else:
            super().stop(why)
        if self._frame_attempt is not None:
            self._frame_attempt.stop(StopReason.CANCELLED)

    async def _produce(self) -> tuple[Product, Files]:
        try:
            self._handle = handle = self._resources.acquire(
                self._runnable_family(ENDED), self.lease.endpoint, self.state.set_progress
            )
            await asyncio.wrap_future(handle.future)
            self.state.enter_stage(None)
            self._opened.set()
            await self._wait_until_over()
            return Product({FRAMES: self._frames}), ()
        finally:
            self._over = True
            self._opened.set()

    def _usage(self) -> Usage:
        """Time with the slot held and no frame being made. Each frame reports its own time."""
        usage = super()._usage()
        return Usage(run_s=round(max(usage.run_s - self._frames_s, 0.0), 4))

    async def _wait_until_over(self) -> None:
        while not self._over:
            self._activity.clear()
            try:
                async with asyncio.timeout(None if self._frame_attempt else self._silence_s):
                    await self._activity.wait()
            except TimeoutError:
                return


class FrameFiles:
    """Upload target that keeps the files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def put(self, file: MediaFile, *, without_end: bool = False) -> None:
        del without_end  # memory is never away
        ticket = file.ticket
        if file.size > ticket.max_bytes:
            raise TooLarge(f"A file has {file.size} bytes; at most {ticket.max_bytes} are allowed.")
        self.files[ticket.key] = await asyncio.to_thread(file.in_memory)

    async def delete(self, ticket: UploadTicket) -> None:
        self.files.pop(ticket.key, None)

    async def aclose(self) -> None:
        """Do nothing."""


class OpenSessions:
    """Realtime sessions among a replica's attempts."""

    def __init__(self, attempts: LeasedAttempts[EngineAttempt]) -> None:
        self._attempts = attempts

    async def generate_frame(self, lease_key: LeaseKey, frame: Frame) -> FrameResult:
        """Make a frame. ``Fenced``: there is no such session, or no longer."""
        session = await self._attempts.find(lease_key)
        if not isinstance(session, ReplicaSession):
            raise Fenced(ENDED)
        return await session.generate_frame(frame)

    def end(self, lease_key: LeaseKey) -> None:
        session = self._attempts.running.get(lease_key)
        if isinstance(session, ReplicaSession):
            session.end()


def _nothing() -> None:
    """Ignore that a frame left the engine: the slot belongs to the session."""
