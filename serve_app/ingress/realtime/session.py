"""One realtime session: a lease of its own, and frames that go past the queue to who holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, Fenced, InvalidInput
from serve_app.domain.lease import Held
from serve_app.domain.request import NewRequest, Request, State
from serve_app.domain.session import Frame, Seat
from serve_app.ingress import submission
from serve_app.ingress.core import Core
from serve_app.ingress.realtime import control
from serve_app.ingress.realtime.control import Close, Control
from serve_app.ingress.realtime.inbox import Arrived, Inbox
from serve_app.ingress.realtime.packing import pack, rendered, unpack

log = logging.getLogger(__name__)

LOOK_S = 30.0
"""One wait for a change of the session's request; repeated for as long as the session lasts."""

BYTES_OF_FRAMES = 4
"""So many times the largest frame may wait in the inbox."""

END_S = 2.0
"""So long a replica has to end a session before it is cancelled by way of the queue."""

LOST_S = 10.0
"""So long after a replica has said that it does not hold a session the queue has to say why."""

MOST_WARNINGS = 20


class Socket(Protocol):
    """The client's end."""

    async def receive(self) -> bytes | str | None:
        """The next message; None: it has gone away."""
        ...

    async def send(self, frame: bytes) -> None: ...

    async def say(self, message: Control) -> None: ...


class Session:
    """``run`` once. ``new`` is the request whose lease it holds."""

    def __init__(
        self, core: Core, socket: Socket, entry: CatalogEntry, new: NewRequest, most_buffered: int
    ) -> None:
        self._core = core
        self._socket = socket
        self._entry = entry
        self._new = new
        largest = core.config.max_frame_bytes
        self._inbox = Inbox(most_buffered, BYTES_OF_FRAMES * largest)
        self._seated: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._warned: set[str] = set()

    async def run(self) -> Close | None:
        """How it is to be closed; None: the client is gone. Whatever happens, the lease is given
        back."""
        storing = submission.submit(self._core, self._new)
        self._core.metrics.session_opened(self._new.endpoint)
        try:
            await asyncio.shield(storing)
            return await _first(self._read(), self._draw(), self._watch())
        except DarkroomError as error:
            return control.closing(error)
        finally:
            self._core.metrics.session_ended(self._new.endpoint)
            self._core.background.leave(self._end(storing), f"end of session {self._new.id}")

    async def _read(self) -> None:
        """Until the client goes away."""
        while (message := await self._socket.receive()) is not None:
            echo: Control = {}
            try:
                body = self._unpacked(message)
                echo = _echo(body.get("request_id"))
                valid = self._core.catalog.validate(self._new.endpoint, body)
            except DarkroomError as error:
                self._count("refused")
                await self._socket.say(control.refused(error, **echo))
                continue
            for warning in valid.warnings:
                await self._warn(warning)
            frame = Arrived(self._core.new_id(), valid.input, echo, len(message))
            for each in self._inbox.put(frame):
                self._count("dropped")
                await self._socket.say(control.dropped(each.echo))

    def _unpacked(self, message: bytes | str) -> dict[str, Any]:
        if isinstance(message, str):
            raise InvalidInput("A frame is msgpack in a binary message; this one was text.")
        return unpack(message, self._core.config.max_frame_bytes)

    async def _draw(self) -> Close:
        """Until nothing has come for a while."""
        seat = await asyncio.shield(self._seated)  # it outlives this task
        counting: asyncio.Task[None] | None = None
        while True:
            arrived = await self._inbox.take(self._core.config.realtime_idle_s)
            if arrived is None:
                idle_s = self._core.config.realtime_idle_s
                return Close(control.CLEAN, f"Nothing came for {idle_s:g} s.")
            if counting is not None:
                await counting  # what cannot be counted is not given away
            try:
                counting = await self._frame(seat, arrived)
            except Fenced as error:
                await asyncio.sleep(LOST_S)  # by then it is said with the reason, by ``_watch``
                return control.closing(error)

    async def _frame(self, seat: Seat, arrived: Arrived) -> asyncio.Task[None]:
        began = self._core.clock.monotonic()
        frame = Frame(arrived.request_id, arrived.input, self._files(arrived))
        drawn = await self._core.sessions.draw(seat, frame)
        failure, echo = drawn.outcome.failure, arrived.echo
        state = State.FAILED if failure else State.SUCCEEDED
        counting = self._core.background.leave(
            self._core.queue.drew(seat.held, frame.request_id, state, drawn.outcome.usage),
            f"usage of frame {frame.request_id}",
        )
        if failure is not None:
            self._count("failed")
            await self._socket.say(control.of_failure(failure, **echo))
            return counting
        inline = arrived.input.get("sync_mode") is True
        await self._socket.send(pack(rendered(drawn.outcome, drawn.files, inline=inline) | echo))
        self._count("drawn")
        self._core.metrics.drew(self._new.endpoint, self._core.clock.monotonic() - began)
        return counting

    def _files(self, arrived: Arrived) -> tuple[UploadTicket, ...]:
        most_bytes = self._core.config.max_artifact_bytes
        return tuple(
            UploadTicket(f"{arrived.request_id}/{number}", "", media_type, most_bytes)
            for number, media_type in enumerate(self._entry.schema.media_types(arrived.input))
        )

    async def _watch(self) -> Close:
        """Until the request has lost its lease, or has ended."""
        queue, new = self._core.queue, self._new
        request = await queue.get(new.tenant, new.id)
        while not request.state.final:
            if request.state is State.RUNNING and not self._seated.done():
                held = Held(request.id, request.attempt)
                self._seated.set_result(Seat(request.pool, request.replica_id or "", held))
            elif self._seated.done() and not _holds(request, self._seated.result()):
                return _orphaned(request)
            request = await queue.changed(new.tenant, new.id, LOOK_S, since=request)
        return _ended(request)

    async def _end(self, storing: asyncio.Task[Request]) -> None:
        """Give the lease back: by way of the replica, or else of the queue."""
        try:
            request = await storing
        except DarkroomError:
            return  # it was never stored
        queue = self._core.queue
        request = await queue.get(request.tenant, request.id)
        if self._seated.done() and _holds(request, self._seated.result()):
            try:
                async with asyncio.timeout(END_S):
                    await self._core.sessions.end(self._seated.result())
            except (DarkroomError, TimeoutError):
                log.info("the replica did not end its session; it is cancelled")
            else:
                request = await queue.wait(request.tenant, request.id, END_S)
        if not request.state.final:
            await queue.cancel(request.tenant, request.id)

    async def _warn(self, warning: str) -> None:
        """In the log of the session's request, once each."""
        if warning not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(warning)
            await self._core.queue.log(self._new.id, "WARNING", warning)

    def _count(self, how: str) -> None:
        self._core.metrics.frame(self._new.endpoint, how)


async def _first(*work: Coroutine[Any, Any, Close | None]) -> Close | None:
    """What the first of them came to. The others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _echo(request_id: object) -> Control:
    """What goes into the answer to a frame that brought a ``request_id``."""
    return {} if request_id is None else {"request_id": request_id}


def _holds(request: Request, seat: Seat) -> bool:
    return request.state is State.RUNNING and request.attempt == seat.held.attempt


def _orphaned(request: Request) -> Close:
    if request.failures:
        reason = "The replica that held this session died: connect again."
        return Close(control.BROKEN, reason, control.failed("RUNNER_DISCONNECTED", reason))
    reason = "The replica that held this session stops: connect again."
    return Close(control.RESTART, reason, control.failed("RUNNER_DISCONNECTED", reason))


def _ended(request: Request) -> Close:
    failure = request.outcome.failure if request.outcome else None
    if failure is None:
        return Close(control.CLEAN, "The session has ended.")
    code = control.CLEAN if request.state is State.CANCELLED else control.BROKEN
    return Close(code, failure.message, control.of_failure(failure))
