"""The way in that calls of all protocols take: what an input and the headers of its call ask to be
made, checked."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest

from serve_app.domain.request import NewRequest
from serve_app.domain.webhook import Webhook
from serve_app.ingress import submission
from serve_app.ingress.core import Core
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.headers import wishes_of
from serve_app.tenants.keys import Identity


async def accepted(
    request: HttpRequest,
    core: Core,
    caller: Identity,
    endpoint_id: str,
    body: object,
    *,
    request_id: str | None = None,
    webhook: Webhook | None = None,
    replay_key: str | None = None,
) -> NewRequest:
    """``request_id``: that of the call unless given. ``replay_key``: finds an earlier request whose
    answer was lost; a key of the request's own says more than the likeness of two bodies."""
    wishes = wishes_of(request, caller)
    return await submission.accept(
        core,
        request_id=request_id or exchange_of(request).request_id,
        tenant=caller.tenant,
        endpoint_id=endpoint_id,
        body=body,
        priority=wishes.priority,
        start_within_s=wishes.start_within_s,
        end_within_s=wishes.end_within_s,
        alone=wishes.deterministic,
        previews=wishes.previews,
        warnings=wishes.warnings,
        idempotency_key=wishes.idempotency_key,
        cache=wishes.cache,
        retries=wishes.retries,
        store_io=wishes.store_io,
        keep_files_s=wishes.keep_files_s,
        webhook=webhook,
        replay_key=replay_key if wishes.idempotency_key is None else None,
    )
