"""Life of a request from a call: validate, store, wait, cancel, delete. All protocols use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.work import check_request, expected_quantities, work_of
from serve_app.domain.artifact import EXTENSIONS
from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import NOTHING
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import (
    Cancelled,
    DarkroomError,
    DatabaseUnavailable,
    InvalidInput,
    RequestActive,
    RequestNotFound,
    StorageUnavailable,
    Unavailable,
    Unsupported,
)
from serve_app.domain.media.draft import DRAFT, DRAFT_TYPE, FROM_DRAFT
from serve_app.domain.media.file_access import FileAccess
from serve_app.domain.media.marking import SIGNED_TYPES, MarkPolicy
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request, State, granted_retries
from serve_app.domain.sharing.admission import end_admission
from serve_app.domain.workflows.definition import FAMILY
from serve_app.ingress.http.file_readers import PRIVATE_PATH, require_readable_inputs
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.drafts import (
    draft_source,
    require_kept,
    space_for,
    with_noise_seed,
)
from serve_app.ingress.submission.fallback import planned_fallback, with_shadow
from serve_app.ingress.submission.max_cost import require_affordable
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.registered import with_registered
from serve_app.ingress.submission.replay import digest_of, find_earlier, repeat_digest, repeat_of
from serve_app.ingress.submission.upload_policy import check_upload_policy
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
        return await _validated(
            services,
            caller,
            endpoint_id,
            body,
            options,
            request_id=request_id,
            only_estimated=only_estimated,
        )
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


async def _validated(
    services: Services,
    caller: Caller,
    endpoint_id: str,
    body: object,
    options: SubmitOptions,
    *,
    request_id: str,
    only_estimated: bool,
) -> NewRequest:
    catalog = services.catalog_of(caller)
    entry = catalog.get(endpoint_id)
    require_requests(entry.endpoint)
    source = await draft_source(services, caller.tenant, entry, body, held=not only_estimated)
    left = source.left if source else 1.0
    valid = catalog.validate(endpoint_id, body, source.input if source else None)
    valid = with_noise_seed(valid)
    registered = await with_registered(services, caller.tenant, endpoint_id, valid.input)
    valid = replace(valid, input=registered)
    require_kept(valid.input, options)
    pool = services.pool_of(entry)
    await services.require_secrets(caller.tenant, entry.endpoint)
    check_request(entry.endpoint, valid.input, services.pools.device_bytes(pool))
    services.check_policy(caller.tenant, endpoint_id, valid.input)
    require_signable(services, caller.tenant, entry, valid.input)
    if options.max_cost is not None:
        require_affordable(services, caller.tenant, entry, valid.input, options.max_cost, left)
    reads_private = _any_string(valid.input, _names_private_file)
    if reads_private:
        await require_readable_inputs(services, caller.tenant, valid.input)
    access, control, policy = None, services.files.access, options.upload_policy
    if policy is not None:
        rules = options.acl is not None
        await check_upload_policy(
            services, caller.tenant, entry, valid.input, policy, has_rules=rules
        )
    elif control.defaults.any_private or options.acl is not None:
        access = control.of_new(caller.tenant, options.acl, outputs=True)
    retries, fewer = granted_retries(options.retries, services.config.queue.max_failures)
    price = services.price_of(entry)
    fallback, stays = None, ()
    if entry.source.fallback is not None:
        fallback, stays = planned_fallback(services, caller.tenant, entry, valid.input, options)
    new = NewRequest(
        id=request_id,
        tenant=caller.tenant,
        endpoint=endpoint_id,
        endpoint_digest=entry.endpoint.digest,
        pool=pool,
        input=valid.input,
        priority=options.priority,
        start_within_s=options.start_within_s,
        end_within_s=options.end_within_s,
        work=work_of(valid.input) * left,
        alone=options.deterministic,
        previews=options.previews and services.config.models.previews,
        warnings=(*valid.warnings, *options.warnings, *fewer, *stays),
        retries=retries,
        idempotency_key=options.idempotency_key,
        replay_key=options.replay_key,
        store_io=options.store_io,
        keep_files_s=options.keep_files_s,
        file_access=access,
        upload_policy=policy,
        reuse_digest=await _shared_digest(entry, valid.input, options, access),
        body_digest=await repeat_digest(endpoint_id, body, options),
        webhook=options.webhook,
        trace=options.trace,
        draft_key=source.draft.key if source else None,
        key_id=options.key_id,
        price=price,
        expected=NOTHING if price is None else expected_quantities(valid.input, left),
        fallback=fallback,
        steps_stay=entry.endpoint.family == FAMILY
        and (options.no_fallback or options.max_cost is not None),
    )
    if entry.source.shadow is None:
        return new
    return with_shadow(services, entry, new, options, reads_private=reads_private)


def require_requests(endpoint: Endpoint) -> None:
    """Raise ``Unsupported`` for an endpoint whose app has nothing but sessions."""
    if not endpoint.takes_requests:
        raise Unsupported(
            f"{endpoint.id} takes realtime sessions only, and no requests. Connect a WebSocket to "
            f"/{endpoint.id}, such as with fal_client.realtime."
        )


def require_signable(
    services: Services, tenant: str, entry: CatalogEntry, input: Mapping[str, Any]
) -> None:
    """Raise ``InvalidInput`` or ``Unsupported`` if a file of the request must be signed and has no
    place for a signature."""
    settings = services.config.provenance
    required = settings.marking.of(tenant) is MarkPolicy.REQUIRED
    if settings.sign_files == "off" or not required:
        return
    types = {*entry.schema.media_types(input)} or _named_types(input)
    refused = sorted(types - SIGNED_TYPES - {DRAFT_TYPE})
    if refused:
        message = (
            f"files of {', '.join(refused)} cannot be signed, and the operator requires signed "
            "files: choose another format"
        )
        if "output_format" in input:
            raise InvalidInput.of_field("output_format", message, "feature_not_supported")
        raise Unsupported(f"{message[0].upper()}{message[1:]}.")


def _named_types(input: Mapping[str, Any]) -> set[str]:
    """Media type of the format that an input of an app names. What types its files have in fact is
    known when they are there, and is checked by the replica."""
    named = input.get("output_format")
    return {kind for kind, suffix in EXTENSIONS.items() if named in (kind, suffix)}


async def _shared_digest(
    entry: CatalogEntry,
    input: Mapping[str, Any],
    options: SubmitOptions,
    access: FileAccess | None,
) -> bytes:
    """Digest of requests that may share one outcome; empty if this one shares none."""
    # An outcome that will be deleted early, or whose files will, is never shared.
    if not options.store_io or options.keep_files_s is not None or options.upload_policy:
        return b""
    if entry.endpoint.family == FAMILY:  # its steps may share outcomes, as other requests do
        return b""
    if DRAFT in input or FROM_DRAFT in input:  # a draft belongs to one request, and expires
        return b""
    if not (entry.cache if options.cache is None else options.cache):
        return b""
    # An outcome is shared only where its files have the same readers.
    file_access = "" if access is None else access.id
    return await reuse_digest(
        entry.endpoint, input, alone=options.deterministic, file_access=file_access
    )


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
        ended = stored if stored.state.final else await _watched(services, stored, client_gone)
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
        return await _stored(services, new, most_queued)
    finally:
        end_admission()  # of the call that submits: it may wait for the end from now on


async def _stored(services: Services, new: NewRequest, most_queued: int | None) -> Request:
    earlier = new.repeats or await find_earlier(services, new)
    if earlier is not None:
        services.metrics.queue.replayed(new.endpoint)
        return earlier
    await services.files.check_disk_space()
    async with space_for(services, new) as counted:
        return await _store_new(services, counted, most_queued)


async def _store_new(services: Services, new: NewRequest, most_queued: int | None) -> Request:
    if new.file_access is not None:
        await services.files.access.kept(new.file_access)
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
        metrics.replayed(new.endpoint)
        return stored
    metrics.entered(new.endpoint, State.SUCCEEDED if stored.reuses else State.QUEUED)
    if stored.reuses:
        metrics.reused(new.endpoint)
    elif stored.follows:
        metrics.coalesced(new.endpoint)
    return stored


async def _watched(
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


# Digest of requests with the same outcome.


async def reuse_digest(
    endpoint: Endpoint, input: Mapping[str, Any], *, alone: bool, file_access: str = ""
) -> bytes:
    """SHA-256 of everything that decides the outcome; empty if the outcome is not reproducible.

    It is not reproducible without a seed, or if the input has a URL, because the file behind the
    URL may have changed.
    """
    seeded = input.get("seed") is not None or input.get("seeds")
    if not seeded or _any_string(input, _names_url):
        return b""
    # `deterministic` requests must not reuse an outcome that was computed in a batch.
    value = {"endpoint": endpoint.digest, "input": input, "alone": alone}
    if file_access:
        value["file_access"] = file_access
    return await in_cpu_thread(digest_of, value)


def _names_url(value: str) -> bool:
    return value[:8].lower().startswith(("http://", "https://"))


def _names_private_file(value: str) -> bool:
    return _names_url(value) and PRIVATE_PATH in value


def _any_string(value: Any, test: Callable[[str], bool]) -> bool:
    """Return whether ``test`` is true for a text in the input."""
    if isinstance(value, str):
        return test(value)
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value).values()
        return any(_any_string(each, test) for each in inner)
    return isinstance(value, list) and any(
        _any_string(each, test) for each in cast("list[Any]", value)
    )
