"""State of one HTTP call and its response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope

from serve_app.domain.errors import DarkroomError
from serve_app.domain.request import Request
from serve_app.domain.sharing.admission import CallAdmission
from serve_app.ingress.http.errors import error_reply
from serve_app.ingress.services.open_access import Access
from serve_app.telemetry import logs, trace_context

SCOPE_KEY = "darkroom.context"


@dataclass(slots=True)
class RequestContext:
    """Values that the middleware and the handler of a call share."""

    request_id: str  # sent as x-fal-request-id; for a submit, the id of its request
    route: str = "other"  # label for metrics
    key_id: str = ""  # of the caller's API key, once it is authenticated
    status: int = 0  # of the response; 0 until it starts
    error: str = ""  # code of the error that was answered
    transient: bool = False  # that error, as the table of errors says
    trace: str = ""  # W3C trace context: of the call's span, or as the client sent it
    render_error: Callable[[DarkroomError], Response] = (
        error_reply  # builds an error response in the call's protocol
    )
    admission: CallAdmission | None = None  # once its caller is authenticated
    close: Callable[[], None] | None = None  # counts the call out of the open ones
    access: Access | None = None  # what it was let in by; None: it needs nothing
    ended: DarkroomError | None = None  # why that has ended meanwhile
    on_end: Callable[[], object] = bool  # called then

    def end_work(self) -> None:
        """The call needs no more work of this process than to send its response."""
        if self.admission is not None:
            self.admission.end()


def context_of(request: HTTPConnection) -> RequestContext:
    return cast("RequestContext", request.scope[SCOPE_KEY])


def name_request(connection: HTTPConnection, request: Request) -> None:
    """Name the request that a call is about, in the response's headers and in the log."""
    context_of(connection).request_id = request.id
    # The middleware resets it.
    logs.set_request(request.id, tenant=request.tenant, endpoint=request.endpoint)


async def wait_disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection. The body must have been read already."""
    while (await receive())["type"] != "http.disconnect":
        pass


def trace_of(request: HTTPConnection) -> str:
    """W3C trace context in which a call continues; empty if it has none. From now on, the response
    carries it too."""
    context = context_of(request)
    if not context.trace:
        context.trace = trace_context.from_headers(request.scope["headers"])
    return context.trace


def attach_context(scope: Scope, context: RequestContext) -> None:
    scope[SCOPE_KEY] = context
