"""Repeated submits: how they are recognised, detection of lost responses, and headers.

A server learns that its client is gone only when the connection ends: a write to a connection that
is no longer read still succeeds. Therefore the last byte of the response is held back for a
moment. The first bytes make a dead connection show itself. A client that has disconnected by then
cannot have read the response.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.media.upload_policy import FILE_NAME
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request
from serve_app.ingress.http.context import name_request, wait_disconnected
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.tenants.scopes import Caller


@contextmanager
def notice_loss(
    services: Services, new: NewRequest, storing: asyncio.Task[Request]
) -> Generator[None]:
    """Record the response as lost if the calling task is cancelled inside this context.

    ``direct_calls``, or else Serve, cancels the task when the client disconnects.
    """
    try:
        yield
    except asyncio.CancelledError:
        _start_recording(services, new, storing)
        raise


class ConfirmedResponse(Response):
    """Send ``reply`` and record when it is lost.

    Its last byte is sent ``last_byte_delay_s`` later.
    """

    def __init__(
        self, reply: Response, services: Services, new: NewRequest, storing: asyncio.Task[Request]
    ) -> None:
        super().__init__(reply.body, reply.status_code)
        self.raw_headers = reply.raw_headers
        self._last_byte_delay_s = services.replies.last_byte_delay_s
        self._lost: Callable[[], None] = lambda: _start_recording(services, new, storing)

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 the signature is ASGI's
        receive: Receive,
        send: Send,
    ) -> None:
        begin, end = bytes(self.body[:-1]), bytes(self.body[-1:])
        head = {"status": self.status_code, "headers": self.raw_headers}
        try:
            await send({"type": "http.response.start", **head})
            await send({"type": "http.response.body", "body": begin, "more_body": True})
            if await _gone_within(receive, self._last_byte_delay_s):
                self._lost()
                return
            await send({"type": "http.response.body", "body": end})
        except (asyncio.CancelledError, OSError):
            self._lost()
            raise


async def _gone_within(receive: Receive, seconds: float) -> bool:
    going = asyncio.ensure_future(wait_disconnected(receive))
    try:
        done, _ = await asyncio.wait((going,), timeout=seconds)
        return bool(done)
    finally:
        going.cancel()


def _start_recording(services: Services, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    name = f"recording the lost response of {new.id}"
    services.replies.undelivered.add(
        new, services.background.start_detached(_record_loss(services.queue, new, storing), name)
    )


async def _record_loss(queue: Queue, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    try:
        stored = await storing
    except DarkroomError:
        return  # it was never stored
    await queue.record_undelivered(new, stored.id)


# Response headers for repeated requests and cache hits.

REPLAYED = "x-darkroom-replayed"
"""Header of a response to a repeated submit: it is about the request that was submitted before."""

CACHE = "x-darkroom-cache"
"""Header of a response about a request that got the outcome of another one (``hit``), or waits for
it (``joined``)."""


def add_replay_headers(
    request: HttpRequest, reply: Response, new: NewRequest, stored: Request
) -> Response:
    """Add the id of the stored request to ``reply``, and the headers above if it is an earlier
    request or has the outcome of one."""
    if stored.reuses is not None:
        reply.headers[CACHE] = "hit"
    elif stored.follows is not None:
        reply.headers[CACHE] = "joined"
    if stored.id != new.id:
        name_request(request, stored)
        reply.headers[REPLAYED] = "1"
    return reply


# Recognition of repeated submits.


async def find_earlier(services: Services, new: NewRequest) -> Request | None:
    """The earlier request that ``new`` repeats, or None. Errors: as ``Queue.find_earlier``."""
    if new.replay_key is not None:
        await services.replies.undelivered.wait_recorded(new)
    return await services.queue.find_earlier(new)


async def repeat_of(
    services: Services,
    caller: Caller,
    endpoint_id: str,
    body: object,
    options: SubmitOptions,
    *,
    request_id: str,
) -> NewRequest | None:
    """Repeat of an earlier request, for a submit that does not validate; None: it repeats none.
    Errors: ``RequestDeleted``, ``DatabaseUnavailable``."""
    if options.idempotency_key is None and options.replay_key is None:
        return None
    repeat = NewRequest(
        id=request_id,
        tenant=caller.tenant,
        endpoint=endpoint_id,
        endpoint_digest="",
        pool="",
        input={},
        idempotency_key=options.idempotency_key,
        replay_key=options.replay_key,
        body_digest=await repeat_digest(endpoint_id, body, options),
        webhook=options.webhook,
        trace=options.trace,
        key_id=options.key_id,
    )
    try:
        earlier = await find_earlier(services, repeat)
    except InvalidInput:  # its key was used with another body: what is wrong with this one helps
        return None
    return None if earlier is None else replace(repeat, repeats=earlier)


async def digest_body(submission: Submission) -> None:
    """Set the digest by which a repeat of this submit is recognised."""
    submission.body_digest = await repeat_digest(
        submission.entry.endpoint.id, submission.body, submission.options
    )


async def repeat_digest(endpoint_id: str, body: object, options: SubmitOptions) -> bytes:
    """SHA-256 that a repeat of this submit has too: of the endpoint, the input as it was sent, the
    webhook URL, and where files go. Empty if repeats are not looked for.

    Default values are not included, because a newer catalog may change them. The order of fields
    and white space do not matter.
    """
    if options.idempotency_key is None and options.replay_key is None:
        return b""
    if options.repeat_digest:
        return options.repeat_digest
    value: dict[str, Any] = {"endpoint": endpoint_id, "input": body}
    if options.webhook is not None:
        value["webhook"] = options.webhook.url
    if options.upload_policy is not None:
        # Without its signature, which differs each time that a client signs.
        value["files"] = options.upload_policy.file_url(FILE_NAME)
    # In a thread, because a body may be megabytes of data URIs.
    return await in_cpu_thread(digest_of, value)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


def digest_of(value: Any) -> bytes:
    """SHA-256 of a value of JSON."""
    return hashlib.sha256(_canonical(value).encode("ascii")).digest()
