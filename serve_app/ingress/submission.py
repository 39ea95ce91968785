"""From a call to a stored request: the one way in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from serve_app.catalog.work import work_of
from serve_app.domain.errors import DarkroomError
from serve_app.domain.request import NewRequest, Priority, Request, State
from serve_app.domain.retries import Cause, granted
from serve_app.domain.webhook import Webhook
from serve_app.ingress.body_digest import body_digest, reuse_digest
from serve_app.ingress.core import Core

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""One wait on the queue; it is repeated until the request has ended."""

QUICK_S = 0.25
"""A request that ends within this time needs nobody who watches whether its client is still there:
that takes two tasks more, for which the ingress would have no time when it is full."""


async def accept(
    core: Core,
    *,
    request_id: str,
    tenant: str,
    endpoint_id: str,
    body: object,
    priority: Priority = Priority.NORMAL,
    start_within_s: float | None = None,
    end_within_s: float | None = None,
    alone: bool = False,
    previews: bool = True,
    warnings: tuple[str, ...] = (),
    idempotency_key: str | None = None,
    replay_key: str | None = None,
    cache: bool | None = None,
    retries: Mapping[Cause, int] | None = None,
    store_io: bool = True,
    keep_files_s: float | None = None,
    webhook: Webhook | None = None,
) -> NewRequest:
    """Check everything of the request itself.

    ``EndpointNotFound``, ``InvalidInput``; ``Unavailable`` without a pool for it.
    """
    entry = core.catalog.get(endpoint_id)
    valid = core.catalog.validate(endpoint_id, body)
    pool = core.pools.pool_of(entry.endpoint)
    # An outcome that is to be forgotten, or whose files are, is given to nobody else.
    cached = store_io and keep_files_s is None and (entry.cache if cache is None else cache)
    reuse = await reuse_digest(entry.endpoint, valid.input, alone=alone) if cached else b""
    allowed, fewer = granted(retries, core.config.max_failures)
    repeatable = bool(idempotency_key or replay_key)
    webhook_url = webhook.url if webhook else None
    return NewRequest(
        id=request_id,
        tenant=tenant,
        endpoint=endpoint_id,
        endpoint_digest=entry.endpoint.digest,
        pool=pool,
        input=valid.input,
        priority=priority,
        start_within_s=start_within_s,
        end_within_s=end_within_s,
        work=work_of(valid.input),
        alone=alone,
        previews=previews and core.config.previews,
        warnings=(*valid.warnings, *warnings, *fewer),
        retries=allowed,
        idempotency_key=idempotency_key,
        replay_key=replay_key,
        store_io=store_io,
        keep_files_s=keep_files_s,
        reuse_digest=reuse,
        body_digest=await body_digest(endpoint_id, body, webhook_url) if repeatable else b"",
        webhook=webhook,
    )


def submit(core: Core, new: NewRequest, most_queued: int | None = None) -> asyncio.Task[Request]:
    """Begin to store, or to find the request of which this is a repeat: then its id is another
    than ``new.id``. To be awaited shielded: the client's going away does not stop a commit that has
    begun.

    ``StorageFull`` and ``Overloaded`` (see ``Queue.submit``) are for what is new only: who asks for
    the second time was accepted at the first.
    """
    return core.background.hold(_store(core, new, most_queued))


async def run(
    core: Core, new: NewRequest, client_gone: Callable[[], Coroutine[Any, Any, None]]
) -> Request | None:
    """Store and wait for the end. None when ``client_gone`` returned first: then the request is
    cancelled.

    It is cancelled too when the calling task is (Serve does so when it sees a client disconnect):
    nobody waits for it any more. With an idempotency key it is not: it runs on, and is found by it.
    """
    storing = submit(core, new)
    try:
        stored = await asyncio.shield(storing)
        if not stored.state.final:
            stored = await core.queue.wait(stored.tenant, stored.id, QUICK_S)
        ended = stored if stored.state.final else await _watched(core, stored, client_gone)
    except asyncio.CancelledError:
        abandon(core, new, storing)
        raise
    if ended is None:
        abandon(core, new, storing)
    return ended


def abandon(core: Core, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    """Its client went away: it is cancelled, unless another call can find it by its key."""
    if new.idempotency_key is None:
        core.background.leave(_cancel(core, new, storing), f"cancel of {new.id}")


async def _store(core: Core, new: NewRequest, most_queued: int | None) -> Request:
    if new.replay_key is not None:
        await core.lost_answers.noted(new)
    earlier = await core.queue.repeated(new)
    if earlier is not None:
        return earlier
    if core.room is not None:
        await core.room()
    if new.keep_files_s is not None:
        await core.lifecycles.keep(new.id, new.keep_files_s)
    stored = await core.queue.submit(new, most_queued)
    if stored.id == new.id:
        core.metrics.entered(new.endpoint, State.SUCCEEDED if stored.reuses else State.QUEUED)
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
