"""Realtime session with an app: messages pass between its client and a websocket of the app as they
are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import DarkroomError, Fenced, InvalidInput, TooLarge, Unsupported
from serve_app.domain.realtime import AppSessionRules, ReplicaSlot, SessionEnd
from serve_app.domain.request import NewRequest
from serve_app.ingress.realtime import messages
from serve_app.ingress.realtime.codec import unpack
from serve_app.ingress.realtime.messages import Close, Control, MessageInbox
from serve_app.ingress.realtime.session import (
    BYTES_OF_FRAMES,
    LOST_S,
    RealtimeSession,
    Socket,
    first,
)
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission, admit
from serve_app.ingress.submission.steps import APP_MESSAGE

UNREAD = (
    "The safety policy of this installation checks inputs, and this message cannot be read. Send a "
    "map in msgpack."
)

POLL_S = 2.0
"""Longest wait in seconds for messages of the app; repeated until the end. A replica that stops
waits for it before it hands its requests back."""

NEVER_SENT = frozenset({1004, 1005, 1006, 1015})
"""Close codes that RFC 6455 reserves for what no side sends."""


@dataclass(frozen=True, slots=True)
class AppFrame:
    """Message from the client to the app."""

    content: bytes | str

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def echo(self) -> Control:
        """The client's own id of the message, if it has one."""
        try:
            fields = _fields(self.content, max_bytes=self.size)
        except DarkroomError:
            return {}
        own = fields.get("request_id")
        return {"request_id": own} if isinstance(own, (str, int)) else {}


class AppSocketSession(RealtimeSession):
    """Realtime session of an endpoint whose app has a websocket of its own."""

    _pays_by_frame = False

    def __init__(
        self,
        services: Services,
        socket: Socket,
        entry: CatalogEntry,
        new: NewRequest,
        most_buffered: int,
        access_ended: Callable[[], Coroutine[Any, Any, NoReturn]],
    ) -> None:
        super().__init__(services, socket, entry, new, most_buffered, access_ended)
        self._rules = AppSessionRules.of(entry.endpoint) or AppSessionRules()
        self._largest = services.config.limits.max_frame_bytes
        self._frames: MessageInbox[AppFrame] = MessageInbox(
            most_buffered, BYTES_OF_FRAMES * self._largest
        )

    async def _read(self) -> None:
        """Read messages until the client disconnects. Where none may be dropped, it is read only
        as fast as the app takes them."""
        while (message := await self._socket.receive()) is not None:
            try:
                await self._check(message)
            except DarkroomError as error:
                self._count("refused")
                await self._socket.send_message(messages.of_error(error, **AppFrame(message).echo))
                continue
            frame = AppFrame(message)
            if not self._rules.drops:
                await self._frames.room(frame.size)
            for dropped in self._frames.put(frame):
                self._count("dropped")
                await self._socket.send_message(messages.drop_notice(dropped.echo))

    async def _check(self, message: bytes | str) -> None:
        """Raise for a message that the app must not get."""
        if isinstance(message, str) and self._rules.is_realtime:
            raise InvalidInput("The frame was a text message. Send a binary message.")
        if len(message) > self._largest:
            raise TooLarge(f"The frame has {len(message)} bytes; the limit is {self._largest}.")
        services = self._services
        if services.safety.rules:
            try:
                fields = await in_cpu_thread(_fields, message, self._largest)
            except DarkroomError:
                raise Unsupported(UNREAD) from None
            submission = Submission(services, self._new.tenant, self._entry, fields, input=fields)
            await admit(submission, APP_MESSAGE)

    async def _draw(self) -> Close:
        """Pass messages on in both directions, until one side ends the session."""
        seat = await asyncio.shield(self._seated)  # it outlives this task
        try:
            return await first(self._forward(seat), self._answer(seat))
        except Fenced as error:
            await asyncio.sleep(LOST_S)  # in this time ``_watch`` closes with the reason
            return messages.closing(error)

    async def _forward(self, seat: ReplicaSlot) -> NoReturn:
        while True:
            frame = await self._frames.take()
            if frame is None:
                continue
            try:
                await self._services.sessions.send_message(seat, frame.content)
            except InvalidInput as error:
                self._count("refused")
                await self._socket.send_message(messages.of_error(error, **frame.echo))

    async def _answer(self, seat: ReplicaSlot) -> Close:
        idle_s = self._services.config.limits.realtime_idle_s
        while True:
            got = await self._services.sessions.next_messages(seat, min(idle_s, POLL_S))
            for message in got.messages:
                await self._socket.send(message)
                self._count("drawn")
            if got.end is not None:
                return _close_for(got.end)
            if got.idle_s >= idle_s:
                return Close(messages.CLEAN, f"No message arrived for {idle_s:g} s.")


def _close_for(end: SessionEnd) -> Close:
    if end.failure is not None:
        return Close(messages.BROKEN, end.reason, messages.of_failure(end.failure))
    allowed = 1000 <= end.code < 5000 and end.code not in NEVER_SENT
    return Close(end.code if allowed else messages.BROKEN, end.reason)


def _fields(message: bytes | str, max_bytes: int) -> dict[str, Any]:
    """Fields of a message in msgpack or JSON, which may have an encoding of the app's own.
    ``InvalidInput``: it has."""
    if isinstance(message, bytes) and not message.startswith(b"{"):
        return unpack(message, max_bytes)
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, Mapping):
        raise InvalidInput("The message is neither a map in msgpack nor an object in JSON.")
    return dict(cast("Mapping[str, Any]", fields))
