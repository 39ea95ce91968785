"""A realtime session on its replica: a lease that stays, with frames as attempts of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from deployments.attempt import Attempt
from deployments.delivery import Files
from deployments.family import Family, Product
from deployments.media_file import MediaFile
from deployments.phase import Phase, Stop
from deployments.workshop import Workshop
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Cancelled, Fenced, Misconfigured, TooLarge
from serve_app.domain.lease import Held, Lease
from serve_app.domain.outcome import Usage
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.session import Drawn, Frame
from serve_app.telemetry.logs import request_id

ENDED = "The session has ended."


class Session(Attempt):
    """Holds its slot and the endpoint's weights until ``end``, or until nothing was heard of it for
    ``silence_s``: then the ingress that had its client is gone. Use on one event loop."""

    def __init__(
        self,
        lease: Lease,
        family: Family | None,
        workshop: Workshop,
        on_engine_left: Callable[[], None],
        silence_s: float,
    ) -> None:
        super().__init__(lease, family, workshop, on_engine_left)
        self._silence_s = silence_s
        self._opened = asyncio.Event()
        self._heard = asyncio.Event()
        self._over = False
        self._drawing: Attempt | None = None
        self._frames = 0
        self._drawn_s = 0.0

    async def draw(self, frame: Frame) -> Drawn:
        """One at a time. ``Fenced`` when the session has ended."""
        await self._opened.wait()
        if self._over or self.phase is Phase.ENDED:
            raise Fenced(ENDED)
        self._heard.set()
        request_id.set(frame.request_id)
        in_hand = InHand()
        self._drawing = drawing = Attempt(
            replace(
                self.lease,
                request_id=frame.request_id,
                input=frame.input,
                upload_tickets=frame.files,
            ),
            self._family,
            replace(self._workshop, uploader=in_hand),
            _nothing,
        )
        try:
            outcome = await drawing.run()
        finally:
            self._drawing = None
            self._heard.set()
        self._frames += 1
        self._drawn_s += outcome.usage.run_s
        self.progress = Progress(Stage.DENOISING, self._frames)
        return Drawn(outcome, in_hand.files)

    def end(self) -> None:
        """Nobody will draw any more."""
        self._over = True
        self._heard.set()

    def stop(self, why: Stop) -> None:
        super().stop(why)
        if self._drawing is not None:
            self._drawing.stop(Stop.CANCELLED)

    async def _produce(self) -> tuple[Product, Files]:
        try:
            if self.stopped is not None:
                raise Cancelled(ENDED)
            if self._family is None:
                name = self.lease.endpoint.family
                raise Misconfigured(f"This pool does not host the family {name!r}.")
            self._loan = loan = self._workshop.borrow(
                self._family, self.lease.endpoint, self._on_progress
            )
            await asyncio.wrap_future(loan.future)
            self._opened.set()
            await self._until_over()
            return Product({"frames": self._frames}), ()
        finally:
            self._over = True
            self._opened.set()

    def _usage(self, units: float = 0.0) -> Usage:
        """The rest of the time that it held its slot: each frame's is counted with the frame."""
        held = super()._usage(units)
        return Usage(run_s=round(max(held.run_s - self._drawn_s, 0.0), 4))

    async def _until_over(self) -> None:
        while not self._over:
            self._heard.clear()
            try:
                async with asyncio.timeout(None if self._drawing else self._silence_s):
                    await self._heard.wait()
            except TimeoutError:
                return


class InHand:
    """Takes what is uploaded, and keeps it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def put(self, file: MediaFile) -> None:
        ticket = file.ticket
        if file.size > ticket.max_bytes:
            raise TooLarge(
                f"A file of {file.size} bytes was made, and {ticket.max_bytes} are allowed."
            )
        self.files[ticket.key] = await asyncio.to_thread(file.in_memory)

    async def delete(self, ticket: UploadTicket) -> None:
        self.files.pop(ticket.key, None)

    async def aclose(self) -> None:
        """Nothing to close."""


class OpenSessions:
    """The sessions among a replica's attempts."""

    def __init__(self, attempts: Mapping[Held, Attempt]) -> None:
        self._attempts = attempts

    async def draw(self, held: Held, frame: Frame) -> Drawn:
        session = self._attempts.get(held)
        if not isinstance(session, Session):
            raise Fenced(ENDED)
        return await session.draw(frame)

    def end(self, held: Held) -> None:
        session = self._attempts.get(held)
        if isinstance(session, Session):
            session.end()


def _nothing() -> None:
    """Its slot is the session's."""
