"""``wss://…/{endpoint}/realtime``: who may open a session, and of which endpoint."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import DarkroomError, NotFound
from serve_app.domain.request import NewRequest, Priority
from serve_app.ingress import query
from serve_app.ingress.caller import caller_at
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.paths import before
from serve_app.ingress.realtime import control
from serve_app.ingress.realtime.control import Close, Control
from serve_app.ingress.realtime.session import Session
from serve_app.telemetry import logs

log = logging.getLogger(__name__)

MOST_BUFFERED = 60
"""What fal's clients may ask for in ``max_buffering``, and what others get."""


async def connected(socket: WebSocket) -> None:
    """Refusals too come as messages: of an HTTP status a browser's WebSocket tells nothing."""
    exchange_of(socket).route = "fal.realtime"
    with logs.about(exchange_of(socket).request_id):
        try:
            await socket.accept()
            end = await _served(socket)
            if end is not None:
                if end.said is not None:
                    await socket.send_text(json.dumps(end.said))
                await socket.close(end.code, end.short_reason)
        except WebSocketDisconnect:
            log.debug("the client went away")


async def _served(socket: WebSocket) -> Close | None:
    core = core_of(socket)
    try:
        entry, new = await _asked(socket, core)
        most = query.whole(socket, "max_buffering", default=MOST_BUFFERED, most=MOST_BUFFERED)
        return await Session(core, _Messages(socket), entry, new, max(most, 1)).run()
    except DarkroomError as error:
        return control.closing(error)
    except WebSocketDisconnect:
        return None
    except Exception as error:
        core.metrics.unexpected("fal.realtime")
        log.exception("unexpected error in a realtime session")
        message = f"Unexpected {type(error).__name__}; the log has it under the session's id."
        return control.closing(DarkroomError(message))


async def _asked(socket: WebSocket, core: Core) -> tuple[CatalogEntry, NewRequest]:
    """The endpoint, and the request whose lease the session is to hold."""
    path: str = socket.path_params["path"]
    endpoint_id = before(path, "realtime", lambda each: core.catalog.find(each) is not None)
    if endpoint_id is None:
        raise NotFound("There is nothing here: a realtime session is at `/{endpoint}/realtime`.")
    caller = await caller_at(socket, endpoint_id)
    entry = core.catalog.get(endpoint_id)
    new = NewRequest(
        id=exchange_of(socket).request_id,
        tenant=caller.tenant,
        endpoint=endpoint_id,
        endpoint_digest=entry.endpoint.digest,
        pool=core.pools.pool_of(entry.endpoint),
        input={"realtime": True},
        priority=Priority.REALTIME,
        work=0.0,  # how long it stays says nothing about how long the endpoint's requests take
        previews=False,
    )
    return entry, new


class _Messages:
    """The client's end, as a session sees it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> bytes | str | None:
        message: dict[str, Any] = dict(await self._socket.receive())
        if message["type"] == "websocket.disconnect":
            return None
        content = message.get("bytes")
        return message.get("text", "") if content is None else content

    async def send(self, frame: bytes) -> None:
        await self._socket.send_bytes(frame)

    async def say(self, message: Control) -> None:
        await self._socket.send_text(json.dumps(message))


PREFIXED = WebSocketRoute("/run/{path:path}", connected)
UNPREFIXED = WebSocketRoute("/{path:path}", connected)
