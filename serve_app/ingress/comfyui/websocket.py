"""``ws?clientId=``: events of the prompts of one client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.domain.errors import DarkroomError, Forbidden, Unauthenticated
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import error_response
from serve_app.ingress.comfyui.events import ClientEvents
from serve_app.ingress.comfyui.prompt import MAX_ID
from serve_app.ingress.http.auth import until_access_ends
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import http_answer
from serve_app.ingress.services.services import services_of
from serve_app.telemetry import logs

log = logging.getLogger(__name__)

BROKEN = 1011
"""Close code after an error of the server."""

REFUSED = 1008
"""Close code for a caller that is not allowed any more."""


async def serve(socket: WebSocket) -> None:
    """Serve a socket until its client leaves. A call that is refused gets no socket."""
    context_of(socket).route = "comfyui.ws"
    services = services_of(socket)
    with logs.log_context(context_of(socket).request_id):
        try:
            caller = await caller_of(socket)
            entry = endpoint_of(socket, caller)
        except DarkroomError as error:
            services.count_refusal(http_answer(error).status, error)
            await _deny(socket, error_response(error))
            return
        client_id = socket.query_params.get("clientId", "")[:MAX_ID] or services.new_id()
        await socket.accept()
        events = ClientEvents(
            services.queue,
            services.files.storage,
            services.comfyui.arrivals,
            socket,
            caller.tenant,
            entry.endpoint.id,
            client_id,
        )
        try:
            await _until_gone(socket, events, until_access_ends(socket))
        except (Unauthenticated, Forbidden) as error:
            await socket.close(REFUSED, error.message[:100])
        except DarkroomError as error:
            log.warning("the events of a client of ComfyUI ended: %s", error.message)
            await socket.close(BROKEN, error.message[:100])


async def _deny(socket: WebSocket, answer: Response) -> None:
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(answer)
    else:
        await socket.close()


async def _until_gone(
    socket: WebSocket, events: ClientEvents, access_ended: Coroutine[Any, Any, None]
) -> None:
    tasks = [
        asyncio.create_task(coroutine) for coroutine in (events.run(), access_ended, _read(socket))
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except WebSocketDisconnect:
        log.debug("the client disconnected")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(socket: WebSocket) -> None:
    """Read what the client says, which means nothing here, until it leaves."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
