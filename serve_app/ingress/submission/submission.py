"""Life of a request from a call: validate, store, wait, cancel, delete. All protocols use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import (
    Cancelled,
    DarkroomError,
    DatabaseUnavailable,
    RequestActive,
    RequestNotFound,
    StorageUnavailable,
    Unavailable,
)
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request, State
from serve_app.domain.sharing.admission import end_admission
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission, admit
from serve_app.ingress.submission.drafts import space_for
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.replay import find_earlier, repeat_of
from serve_app.ingress.submission.steps import STEPS
from serve_app.telemetry import logs
from serve_app.tenants.scopes import Caller

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""Longest wait on the queue in seconds; it is repeated until the request has ended."""

CHECK_S, CHECKS = 2.0, 5
"""Looks for a request of which it is unknown whether it was stored: until the server has ended the
statement for sure, which it does before the limit of the ingress (``STATEMENT_LIMIT_S``)."""

QUICK_S = 0.25
"""Time in seconds within which a request may end before its client's connection is watched.

Watching takes two more tasks, and a busy ingress has no time for them.
"""


LOST = "The database was restarted and has lost the request. It had no effect: send it again."

CLIENT_DISCONNECTED = Failure(
    Cancelled.code, "The client disconnected before the end.", retryable=False
)
"""Failure to answer with if ``run`` returns None."""


async def validate(
    services: Services,
    caller: Caller,
    endpoint_id: str,
    body: object,
    options: SubmitOptions,
    *,
    request_id: str,
    only_estimated: bool = False,
) -> NewRequest:
    """Validate everything about the request itself. It is not stored yet. ``only_estimated``: nor
    will it be, so its draft is not held.

    A submit that is refused, and repeats one that was accepted, is answered with that one's
    request: see ``NewRequest.repeats``. Its draft may have been deleted since, or its endpoint.

    Errors: ``Forbidden`` if the caller is limited to other endpoints, ``EndpointNotFound``,
    ``InvalidInput``, and ``Unavailable`` if no pool can run it.
    """
    caller.require_endpoint(endpoint_id)
    try:
        entry = services.catalog_of(caller).get(endpoint_id)
        submission = Submission(
            services, caller.tenant, entry, body, options, request_id, only_estimated
        )
        return (await admit(submission, STEPS)).request()
    except DatabaseUnavailable:
        raise
    except DarkroomError:
        if only_estimated:
            raise
        repeat = await repeat_of(
            services, caller, endpoint_id, body, options, request_id=request_id
        )
        if repeat is None:
            raise
        return repeat


def submit(
    services: Services, new: NewRequest, most_queued: int | None = None
) -> asyncio.Task[Request]:
    """Start storing the request, or finding the request that it repeats.

    A repeat returns the earlier request, whose id differs from ``new.id``. Await the task shielded:
    a client that disconnects must not stop a commit that has begun.

    ``StorageFull`` and ``Overloaded`` (see ``Queue.submit``) are raised for new requests only,
    because a repeat was accepted the first time.
    """
    logs.describe(new.id, tenant=new.tenant, endpoint=new.endpoint, trace=new.trace)
    return services.background.start(_store(services, new, most_queued))


def start_run(services: Services, new: NewRequest) -> asyncio.Task[Request]:
    """Start storing a request for which its client waits. See ``submit``, and ``end_of_run``."""
    # Without a key or webhook, only the answer tells of the request: its insert waits for no disk.
    keyless = new.idempotency_key is None and new.replay_key is None and new.webhook is None
    return submit(services, replace(new, answered_at_end=keyless))


async def end_of_run(
    services: Services,
    new: NewRequest,
    storing: asyncio.Task[Request],
    client_gone: Callable[[], Coroutine[Any, Any, None]],
) -> Request | None:
    """Wait for the end of a request. ``new`` needs no input: it may be megabytes, and the wait
    long.

    Returns None and cancels the request if ``client_gone`` returns first. The request is cancelled
    too if the calling task is cancelled, because no one waits for it, and if its end cannot be read
    (``DatabaseUnavailable``), because its client sends another. A request with an idempotency key
    continues, and can be found by the key.
    """
    try:
        stored = await asyncio.shield(storing)
        if not stored.state.final:
            stored = await services.queue.wait(stored.tenant, stored.id, QUICK_S)
        ended = stored if stored.state.final else await _wait_for_end(services, stored, client_gone)
    except RequestNotFound:
        raise Unavailable(LOST) from None
    except (asyncio.CancelledError, DatabaseUnavailable):
        abandon(services, new, storing)
        raise
    if ended is None:
        abandon(services, new, storing)
    return ended


def abandon(services: Services, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    """Cancel a request that no one waits for any more, unless its idempotency key can find it: its
    client disconnected, or got an error in place of the end."""
    if new.idempotency_key is None:
        services.background.start_detached(_cancel(services, new, storing), f"cancel of {new.id}")


async def _store(services: Services, new: NewRequest, most_queued: int | None) -> Request:
    try:
        return await _store_request(services, new, most_queued)
    finally:
        end_admission()  # of the call that submits: it may wait for the end from now on


async def _store_request(services: Services, new: NewRequest, most_queued: int | None) -> Request:
    earlier = new.repeats or await find_earlier(services, new)
    if earlier is not None:
        services.metrics.queue.count_replay(new.endpoint)
        return earlier
    await services.files.check_disk_space()
    async with space_for(services, new) as counted:
        return await _store_new(services, counted, most_queued)


async def _store_new(services: Services, new: NewRequest, most_queued: int | None) -> Request:
    if new.file_access is not None:
        await services.files.access.store_rules(new.file_access)
    if new.keep_files_s is not None:
        await services.files.lifecycles.keep(new.id, new.keep_files_s)
    try:
        stored = await services.queue.submit(new, most_queued)
    except DatabaseUnavailable:
        # The answer may have been lost after the commit. A key finds the request; without one, the
        # client does not know its id, and sends another.
        if new.idempotency_key is None:
            services.background.start_until_closed(_cancel_if_stored(services.queue, new))
        raise
    services.replies.allowances.record(new.id, stored.allowance)
    metrics = services.metrics.queue
    if stored.id != new.id:
        metrics.count_replay(new.endpoint)
        return stored
    metrics.count_entry(new.endpoint, State.SUCCEEDED if stored.reuses else State.QUEUED)
    if stored.reuses:
        metrics.count_reuse(new.endpoint)
    elif stored.follows:
        metrics.count_coalesced(new.endpoint)
    return stored


async def _wait_for_end(
    services: Services, stored: Request, client_gone: Callable[[], Coroutine[Any, Any, None]]
) -> Request | None:
    gone = asyncio.ensure_future(client_gone())
    try:
        while not stored.state.final:
            if gone.done():
                return None
            stored = await _wait(services.queue, stored, gone)
    finally:
        gone.cancel()
    return stored


async def _wait(queue: Queue, stored: Request, gone: asyncio.Future[None]) -> Request:
    """Return the request at its end, or unchanged if ``gone`` or the time limit comes first."""
    waiting = asyncio.ensure_future(queue.wait(stored.tenant, stored.id, WAIT_S))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else stored
    finally:
        waiting.cancel()


async def _cancel(services: Services, new: NewRequest, storing: asyncio.Task[Request]) -> None:
    try:
        await storing
    except DarkroomError:
        return  # it was never stored
    try:
        await services.queue.cancel(new.tenant, new.id)
    except RequestNotFound:
        return  # it was deleted, or the database has lost it
    except DatabaseUnavailable:
        services.background.start_until_closed(_cancel_if_stored(services.queue, new))
        return
    log.info("no one waits for the request any more; it is cancelled")


async def _cancel_if_stored(queue: Queue, new: NewRequest) -> None:
    """Cancel a request while the database is away, if it was stored: that may be unknown."""
    not_found = 0
    while not_found < CHECKS:
        await asyncio.sleep(CHECK_S)
        try:
            await queue.cancel(new.tenant, new.id)
        except DatabaseUnavailable:
            pass
        except RequestNotFound:
            not_found += 1  # its statement may still be under way
        else:
            log.warning("An answer was lost, or its client is gone: %s is cancelled.", new.id)
            return


DELETED_LATER = "Storage is not available. The file will be deleted as soon as it is."


async def delete(
    services: Services, tenant: str, request_id: str, actor: Actor
) -> Mapping[str, str | None]:
    """Delete a request, first in the database and then its files in storage, and likewise the
    requests of a workflow's steps.

    Return for each file's key None, or why the file still exists. Files that cannot be deleted now
    are recorded with the deletion and deleted later. ``RequestNotFound``, ``RequestActive``.
    """
    steps = await services.queue.workflows.step_requests(tenant, request_id)
    keys = [*await services.queue.delete(tenant, request_id, actor)]
    for step in steps:
        with suppress(RequestNotFound, RequestActive):  # a cancelled one ages as others do
            keys += await services.queue.delete(tenant, step, actor)
    try:
        if keys:
            await services.files.storage.delete(keys)
    except StorageUnavailable as error:
        log.warning("Storage failed, a deleted request keeps its files for now: %s", error.message)
        return dict.fromkeys(keys, DELETED_LATER)
    return dict.fromkeys(keys)
