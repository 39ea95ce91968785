"""Answers to submits that are sent so that their loss is noticed.

A server learns that its client is gone by the end of the connection, and writing into one that
nobody reads succeeds. So the end of the answer is held back for a moment: who is gone by then,
which the beginning of the answer brings to light, cannot have read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError
from serve_app.domain.request import NewRequest, Request
from serve_app.ingress.core import Core
from serve_app.ingress.exchange import gone


@contextmanager
def noticed_loss(core: Core, new: NewRequest, storing: asyncio.Task[Request]) -> Generator[None]:
    """When the calling task is cancelled in here (Serve does so when the client disconnects), the
    answer that it was to give counts as lost."""
    try:
        yield
    except asyncio.CancelledError:
        _leave(core, new, storing)
        raise


class Acknowledgement(Response):
    """``reply``, with its loss noticed. Whoever reads it gets it ``core.linger_s`` later."""

    def __init__(
        self, reply: Response, core: Core, new: NewRequest, storing: asyncio.Task[Request]
    ) -> None:
        super().__init__(reply.body, reply.status_code)
        self.raw_headers = reply.raw_headers
        self._linger_s = core.linger_s
        self._lost: Callable[[], None] = lambda: _leave(core, new, storing)

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
            if await _gone_within(receive, self._linger_s):
                self._lost()
                return
            await send({"type": "http.response.body", "body": end})
        except (asyncio.CancelledError, OSError):
            self._lost()
            raise


async def _gone_within(receive: Receive, seconds: float) -> bool:
    going = asyncio.ensure_future(gone(receive))
    try:
        done, _ = await asyncio.wait((going,), timeout=seconds)
        return bool(done)
    finally:
        going.cancel()


def _leave(core: Core, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    name = f"noting the lost answer of {new.id}"
    core.lost_answers.noting(new, core.background.leave(_note(core, new, storing), name))


async def _note(core: Core, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    try:
        stored = await storing
    except DarkroomError:
        return  # it was never stored
    await core.queue.undelivered(new, stored.id)
