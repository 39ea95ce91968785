"""``wss://…/{endpoint}/realtime``: opening of a session, with its authentication."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.billing.price import ONE_FRAME
from serve_app.domain.errors import DarkroomError, NotFound
from serve_app.domain.realtime import session_kind
from serve_app.domain.request import NewRequest, Priority
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate_for_endpoint, until_access_ends
from serve_app.ingress.http.context import context_of, trace_of
from serve_app.ingress.http.errors import http_answer
from serve_app.ingress.http.paths import strip_verb
from serve_app.ingress.http.route_scopes import BY_CALL, ScopedSocketRoute
from serve_app.ingress.realtime import messages
from serve_app.ingress.realtime.app_session import AppSocketSession
from serve_app.ingress.realtime.messages import Close, Control
from serve_app.ingress.realtime.session import RealtimeSession
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.services.session_limit import max_sessions
from serve_app.ingress.submission.admission import Submission, admit
from serve_app.ingress.submission.max_cost import require_no_limit
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.steps import APP_SESSION, SESSION
from serve_app.telemetry import logs
from serve_app.telemetry.trace_context import encoded_headers

log = logging.getLogger(__name__)

MAX_BUFFERED = 60
"""Default and largest ``max_buffering`` that a client can ask for."""


async def serve(socket: WebSocket) -> None:
    """Serve a socket. Errors are sent as messages too, because a browser's WebSocket does not show
    an HTTP status."""
    context_of(socket).route = "fal.realtime"
    with logs.log_context(context_of(socket).request_id):
        try:
            await socket.accept(headers=encoded_headers(trace_of(socket)))
            end = await _serve_session(socket)
            if end is not None:
                if end.message is not None:
                    await socket.send_text(json.dumps(end.message))
                await socket.close(end.code, end.short_reason)
        except WebSocketDisconnect:
            log.debug("the client disconnected")


async def _serve_session(socket: WebSocket) -> Close | None:
    services = services_of(socket)
    try:
        entry, new = await _prepare_request(socket, services)
        logs.describe(new.id, tenant=new.tenant, endpoint=new.endpoint, trace=new.trace)
        most = query.whole_number(
            socket, "max_buffering", default=MAX_BUFFERED, most=MAX_BUFFERED, least=1
        )
        of_app = session_kind(entry.endpoint) == "app"
        kind = AppSocketSession if of_app else RealtimeSession
        ended = partial(until_access_ends, socket)
        session = kind(services, _Messages(socket), entry, new, most, ended)
        limit = max_sessions(services.config, new.pool)
        async with services.session_counts.count(new.pool, new.tenant, limit):
            return await session.run(limit)
    except DarkroomError as error:
        services.count_refusal(http_answer(error).status, error)
        return messages.closing(error)
    except WebSocketDisconnect:
        return None
    except Exception as error:
        services.metrics.count_unexpected_error("fal.realtime")
        log.exception("unexpected error in a realtime session")
        message = (
            f"Unexpected {type(error).__name__}. The server's log has the details under the "
            "session's id."
        )
        return messages.closing(DarkroomError(message))


async def _prepare_request(
    socket: WebSocket, services: Services
) -> tuple[CatalogEntry, NewRequest]:
    """Return the endpoint, and the request whose lease the session will hold."""
    path: str = socket.path_params["path"]
    endpoint_id = _endpoint_of(path.strip("/"), services)
    if endpoint_id is None:
        raise NotFound(
            "There is nothing at this path. A realtime session is at `/{endpoint}/realtime`."
        )
    caller = await authenticate_for_endpoint(socket, endpoint_id)
    caller.require_endpoint(endpoint_id)
    require_no_limit(socket.headers)
    entry = services.catalog_of(caller).get(endpoint_id)
    options = SubmitOptions(
        priority=Priority.REALTIME,
        previews=False,
        trace=trace_of(socket),
        key_id=caller.key_id,
    )
    id_, marked = context_of(socket).request_id, {"realtime": True}
    session = Submission(services, caller.tenant, entry, None, options, id_, input=marked)
    steps = APP_SESSION if session_kind(entry.endpoint) == "app" else SESSION
    new = (await admit(session, steps)).request()
    # The length of a session does not predict the endpoint's requests.
    return entry, replace(new, work=0.0, expected=ONE_FRAME)


def _endpoint_of(path: str, services: Services) -> str | None:
    """Id of the endpoint that a websocket's path means; None if it is no path of a session.

    A route of an app has the path that its author chose, so it may be the endpoint's id alone.
    """
    own = services.catalog.find(path)
    if own is not None and session_kind(own.endpoint) == "app":
        return path
    return strip_verb(
        path, "realtime", lambda endpoint_id: services.catalog.find(endpoint_id) is not None
    )


class _Messages:
    """Connection to the client, as a ``Socket``."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> bytes | str | None:
        message: dict[str, Any] = dict(await self._socket.receive())
        if message["type"] == "websocket.disconnect":
            return None
        content = message.get("bytes")
        return message.get("text", "") if content is None else content

    async def send(self, frame: bytes | str) -> None:
        if isinstance(frame, str):
            await self._socket.send_text(frame)
        else:
            await self._socket.send_bytes(frame)

    async def send_message(self, message: Control) -> None:
        await self._socket.send_text(json.dumps(message))


PREFIXED = ScopedSocketRoute("/run/{path:path}", serve, scope=BY_CALL)
UNPREFIXED = ScopedSocketRoute("/{path:path}", serve, scope=BY_CALL)
