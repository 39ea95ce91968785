"""From a call to a stored request: the one way in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from serve_app.domain.errors import DarkroomError
from serve_app.domain.request import NewRequest, Priority, Request, State
from serve_app.ingress.core import Core

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""One wait on the queue; it is repeated until the request has ended."""

QUICK_S = 0.05
"""A request that ends within this time needs nobody who watches whether its client is still there:
that takes two tasks more."""


async def accept(
    core: Core,
    *,
    request_id: str,
    tenant: str,
    endpoint_id: str,
    body: object,
    priority: Priority = Priority.NORMAL,
    start_within_s: float | None = None,
    alone: bool = False,
    warnings: tuple[str, ...] = (),
) -> NewRequest:
    """Check everything that can be checked before a request is stored.

    ``EndpointNotFound``, ``InvalidInput``, ``StorageFull``; ``Unavailable`` without a pool for it.
    """
    entry = core.catalog.get(endpoint_id)
    valid = core.catalog.validate(endpoint_id, body)
    pool = core.pools.pool_of(entry.endpoint)
    if core.room is not None:
        await core.room()
    return NewRequest(
        id=request_id,
        tenant=tenant,
        endpoint=endpoint_id,
        endpoint_digest=entry.endpoint.digest,
        pool=pool,
        input=valid.input,
        priority=priority,
        start_within_s=start_within_s,
        alone=alone,
        warnings=(*valid.warnings, *warnings),
    )


async def submit(core: Core, new: NewRequest) -> Request:
    """Store. The client's going away does not stop a commit that has begun."""
    return await asyncio.shield(core.background.hold(_store(core, new)))


async def run(
    core: Core, new: NewRequest, client_gone: Callable[[], Coroutine[Any, Any, None]]
) -> Request | None:
    """Store and wait for the end. None when ``client_gone`` returned first: then the request is
    cancelled.

    It is cancelled too when the calling task is (Serve does so when it sees a client disconnect):
    nobody waits for it any more.
    """
    storing = core.background.hold(_store(core, new))
    try:
        stored = await asyncio.shield(storing)
        if not stored.state.final:
            stored = await core.queue.wait(stored.tenant, stored.id, QUICK_S)
        ended = stored if stored.state.final else await _watched(core, stored, client_gone)
    except asyncio.CancelledError:
        core.background.leave(_cancel(core, new, storing), f"cancel of {new.id}")
        raise
    if ended is None:
        core.background.leave(_cancel(core, new, storing), f"cancel of {new.id}")
    return ended


async def _store(core: Core, new: NewRequest) -> Request:
    stored = await core.queue.submit(new)
    core.metrics.entered(new.endpoint, State.QUEUED)
    return stored


async def _watched(
    core: Core, stored: Request, client_gone: Callable[[], Coroutine[Any, Any, None]]
) -> Request | None:
    gone = asyncio.ensure_future(client_gone())
    try:
        while not stored.state.final:
            if gone.done():
                return None
            stored = await _wait(core, stored, gone)
    finally:
        gone.cancel()
    return stored


async def _wait(core: Core, stored: Request, gone: asyncio.Future[None]) -> Request:
    """The request at its end, or as it was when ``gone`` or the wait's own time came first."""
    waiting = asyncio.ensure_future(core.queue.wait(stored.tenant, stored.id, WAIT_S))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else stored
    finally:
        waiting.cancel()


async def _cancel(core: Core, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    try:
        await storing
    except DarkroomError:
        return  # it was never stored
    await core.queue.cancel(new.tenant, new.id)
    log.info("the client went away; its request is cancelled")
