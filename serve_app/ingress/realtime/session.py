"""Realtime session: it holds a lease of its own, and its frames bypass the queue and go directly to
the replica with the lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, Protocol, TypeVar

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import (
    BudgetExhausted,
    DarkroomError,
    Fenced,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from serve_app.domain.lease import lease_of
from serve_app.domain.realtime import Frame, ReplicaSlot
from serve_app.domain.request import NewRequest, Request, State
from serve_app.ingress.realtime import messages
from serve_app.ingress.realtime.codec import SMALL, pack, render_output, unpack
from serve_app.ingress.realtime.messages import Close, Control, MessageInbox, ReceivedFrame
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.services.session_limit import too_many_sessions, wait_for_room
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.admission import Submission, admit
from serve_app.ingress.submission.steps import FRAME

log = logging.getLogger(__name__)

CHANGE_WAIT_S = 30.0
"""Longest wait in seconds for one change of the session's request; repeated until the end."""

BYTES_OF_FRAMES = 4
"""Size of the inbox, in largest frames."""

BUDGET_S = 5.0
"""Interval in seconds at which the budget of an open session is looked at."""

END_S = 2.0
"""Seconds for a replica to end a session. After that, the session is cancelled by the queue."""

LOST_S = 10.0
"""Seconds for the queue to report the reason, after a replica has said that it does not hold the
session."""

MAX_WARNINGS = 20

OVER_BUDGET = (
    "User is locked. Reason: Exhausted balance. The budget of this tenant is used up, so the "
    "session has ended. Connect again in the next period, or ask the operator to raise the budget."
)


R = TypeVar("R")


class Socket(Protocol):
    """Connection to the client."""

    async def receive(self) -> bytes | str | None:
        """Next message; None if the client has disconnected."""
        ...

    async def send(self, frame: bytes | str) -> None: ...

    async def send_message(self, message: Control) -> None: ...


class RealtimeSession:
    """Realtime session. Call ``run`` once. ``new``: the request whose lease the session holds."""

    _pays_by_frame = True  # else once, for the whole session

    def __init__(
        self,
        services: Services,
        socket: Socket,
        entry: CatalogEntry,
        new: NewRequest,
        most_buffered: int,
        access_ended: Callable[[], Coroutine[Any, Any, NoReturn]],
    ) -> None:
        """``access_ended``: raises once the client's access has ended."""
        self._services = services
        self._access_ended = access_ended
        self._socket = socket
        self._entry = entry
        self._new = new
        largest = services.config.limits.max_frame_bytes
        self._inbox: MessageInbox[ReceivedFrame] = MessageInbox(
            most_buffered, BYTES_OF_FRAMES * largest
        )
        self._seated: asyncio.Future[ReplicaSlot] = asyncio.get_running_loop().create_future()
        self._warned: set[str] = set()

    async def run(self, limit: int | None = None) -> Close | None:
        """Run the session. Return how to close the socket, or None if the client is gone.

        The lease is always released at the end. Raises ``Overloaded`` if the queue is full, or the
        tenant has ``limit`` sessions in the pool already.
        """
        if limit is not None:
            await wait_for_room(self._services.queue, self._new, limit)
        storing = submission.submit(self._services, self._new)
        self._services.metrics.session_opened(self._new.endpoint)
        try:
            await asyncio.shield(storing)
            await self._check_limit(limit)
            return await first(
                self._read(),
                self._draw(),
                self._watch(),
                self._watch_budget(),
                self._access_ended(),
            )
        except Overloaded:
            raise
        except DarkroomError as error:
            return messages.closing(error)
        finally:
            self._services.metrics.session_ended(self._new.endpoint)
            self._services.background.start_detached(
                self._end(storing), f"end of session {self._new.id}"
            )

    async def _check_limit(self, limit: int | None) -> None:
        """Raise ``Overloaded`` if another session began elsewhere since there was room."""
        if limit is not None:
            number = await self._services.queue.open_sessions(self._new.tenant, self._new.pool)
            if number > limit:
                raise too_many_sessions(number - 1)

    async def _read(self) -> None:
        """Read frames until the client disconnects."""
        while (message := await self._socket.receive()) is not None:
            echo: Control = {}
            try:
                body = await self._unpack_frame(message)
                echo = _echo(body.get("request_id"))
                admitted = await self._admit_frame(body)
            except DarkroomError as error:
                self._count("refused")
                await self._socket.send_message(messages.of_error(error, **echo))
                continue
            for warning in admitted.warnings:
                await self._warn(warning)
            frame = ReceivedFrame(self._services.new_id(), admitted.input, echo, len(message))
            for dropped in self._inbox.put(frame):
                self._count("dropped")
                await self._socket.send_message(messages.drop_notice(dropped.echo))

    async def _admit_frame(self, body: dict[str, Any]) -> Submission:
        """The admitted frame. Raises its refusal."""
        services, new = self._services, self._new
        entry = services.catalog.of_tenant(new.tenant).get(new.endpoint)
        return await admit(Submission(services, new.tenant, entry, body, pool=new.pool), FRAME)

    async def _unpack_frame(self, message: bytes | str) -> dict[str, Any]:
        if isinstance(message, str):
            raise InvalidInput("The frame was a text message. Send msgpack in a binary message.")
        most = self._services.config.limits.max_frame_bytes
        if len(message) > SMALL:
            return await in_cpu_thread(unpack, message, most)
        return unpack(message, most)

    async def _draw(self) -> Close:
        """Process frames until none has arrived for ``realtime_idle_s``."""
        seat = await asyncio.shield(self._seated)  # it outlives this task
        counting: asyncio.Task[None] | None = None
        while True:
            arrived = await self._inbox.take(self._services.config.limits.realtime_idle_s)
            if arrived is None:
                idle_s = self._services.config.limits.realtime_idle_s
                return Close(messages.CLEAN, f"No frame arrived for {idle_s:g} s.")
            if counting is not None:
                await counting  # no further frame if the usage of the last one cannot be recorded
            try:
                counting = await self._frame(seat, arrived)
            except Fenced as error:
                await asyncio.sleep(LOST_S)  # in this time ``_watch`` closes with the reason
                return messages.closing(error)

    async def _frame(self, seat: ReplicaSlot, arrived: ReceivedFrame) -> asyncio.Task[None]:
        began = self._services.clock.monotonic()
        frame = Frame(arrived.request_id, arrived.input, self._files(arrived))
        drawn = await self._services.sessions.generate_frame(seat, frame)
        failure, echo = drawn.outcome.failure, arrived.echo
        state = State.FAILED if failure else State.SUCCEEDED
        counting = self._services.background.start_detached(
            self._services.queue.record_frame(
                seat.lease_key, frame.request_id, state, drawn.outcome.usage
            ),
            f"usage of frame {frame.request_id}",
        )
        if failure is not None:
            self._count("failed")
            await self._socket.send_message(messages.of_failure(failure, **echo))
            return counting
        inline = arrived.input.get("sync_mode") is True
        await self._socket.send(
            pack(render_output(drawn.outcome, drawn.files, inline=inline) | echo)
        )
        self._count("drawn")
        self._services.metrics.frame_generated(
            self._new.endpoint, self._services.clock.monotonic() - began
        )
        return counting

    def _files(self, arrived: ReceivedFrame) -> tuple[UploadTicket, ...]:
        most_bytes = self._services.config.limits.max_artifact_bytes
        return tuple(
            UploadTicket(f"{arrived.request_id}/{number}", "", media_type, most_bytes)
            for number, media_type in enumerate(self._entry.schema.media_types(arrived.input))
        )

    async def _watch(self) -> Close:
        """Wait until the request has lost its lease or has ended."""
        queue, new = self._services.queue, self._new
        request = await queue.get(new.tenant, new.id)
        while not request.state.final:
            if request.state is State.RUNNING and not self._seated.done():
                lease = lease_of(request)
                self._seated.set_result(ReplicaSlot(request.pool, request.replica_id or "", lease))
            elif self._seated.done() and not _holds(request, self._seated.result()):
                return _orphan_close(request)
            request = await queue.wait_for_change(new.tenant, new.id, CHANGE_WAIT_S, since=request)
        return _end_close(request)

    async def _watch_budget(self) -> NoReturn:
        """Raise once the budget for the session's frames is used up. That it cannot be read is no
        reason to end the session."""
        new = self._new
        price = new.price if self._pays_by_frame else None
        while True:
            await asyncio.sleep(BUDGET_S)
            with suppress(Unavailable):
                left = await self._services.queue.budget_left(new.tenant) if price else None
                if price and left and left.forbids(price.currency):
                    raise BudgetExhausted(OVER_BUDGET)

    async def _end(self, storing: asyncio.Task[Request]) -> None:
        """Release the lease through the replica, or if it does not respond, through the queue."""
        try:
            request = await storing
        except DarkroomError:
            return  # it was never stored
        queue = self._services.queue
        request = await queue.get(request.tenant, request.id)
        if self._seated.done() and _holds(request, self._seated.result()):
            try:
                async with asyncio.timeout(END_S):
                    await self._services.sessions.end(self._seated.result())
            except (DarkroomError, TimeoutError):
                log.info("the replica did not end its session; it is cancelled")
            else:
                request = await queue.wait(request.tenant, request.id, END_S)
        if not request.state.final:
            await queue.cancel(request.tenant, request.id)

    async def _warn(self, warning: str) -> None:
        """Write each warning once into the log of the session's request."""
        if warning not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add(warning)
            await self._services.queue.log(self._new.id, ("WARNING", warning))

    def _count(self, how: str) -> None:
        self._services.metrics.frame(self._new.endpoint, how)


async def first(*work: Coroutine[Any, Any, R]) -> R:
    """Return the result of the first that ends. Cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _echo(request_id: object) -> Control:
    """Fields for the response to a frame: the frame's ``request_id``, if it has one."""
    return {} if request_id is None else {"request_id": request_id}


def _holds(request: Request, seat: ReplicaSlot) -> bool:
    return request.state is State.RUNNING and lease_of(request) == seat.lease_key


def _orphan_close(request: Request) -> Close:
    if request.failures:
        reason = "The replica of this session died. Connect again."
        return Close(messages.BROKEN, reason, messages.error_message("RUNNER_DISCONNECTED", reason))
    reason = "The replica of this session is stopping. Connect again."
    return Close(messages.RESTART, reason, messages.error_message("RUNNER_DISCONNECTED", reason))


def _end_close(request: Request) -> Close:
    failure = request.outcome.failure if request.outcome else None
    if failure is None:
        return Close(messages.CLEAN, "The session has ended.")
    code = messages.CLEAN if request.state is State.CANCELLED else messages.BROKEN
    return Close(code, failure.message, messages.of_failure(failure))
