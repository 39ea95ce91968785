"""Calls under ``batches``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.batches.batch import NewBatch, StoredBatch
from serve_app.domain.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_header, in_path, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.openai.batches.files import INPUT, LEAST_KEEP_S, MOST_KEEP_S
from serve_app.ingress.openai.batches.objects import (
    WINDOW,
    WINDOW_S,
    OpenAiBatch,
    OpenAiBatchPage,
    batch_object,
    batch_page,
)
from serve_app.ingress.openai.batches.requests import RUN, check_url
from serve_app.ingress.openai.errors import ERRORS, TAG
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission.max_cost import HEADER, parse_max_cost
from serve_app.ingress.submission.options import kept_headers, parse_options
from serve_app.tenants.scopes import Caller
from serve_app.webhooks.target import BadTarget

MAX_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_CREATION_BYTES = 128 * 1024
"""Of a body: the largest metadata, with escapes for each letter."""
MAX_BATCHES = 100

RETRIES = "x-stainless-retry-count"
"""Header of OpenAI's clients with the number of earlier tries of a call. They send no key by which
a repeat could be recognised."""
REPEATED_WITHIN_S = 900.0
"""Longest time between two tries: the client waits ten minutes for an answer."""


class OutputExpiry(BaseModel):
    """Time after which the output files are deleted."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=LEAST_KEEP_S, le=MOST_KEEP_S)


class BatchCreation(BaseModel):
    """OpenAI's parameters, and ``webhook_url``."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: str = Field(
        max_length=300,
        description="`/v1/images/generations`, `/v1/images/edits`, `/v1/videos`, or `/run/` with "
        "the id of any endpoint.",
    )
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None
    webhook_url: str | None = Field(
        default=None, description="Called once, when the batch has ended."
    )


async def create(request: HttpRequest) -> Response:
    """Store a batch. Its file is validated after the answer."""
    caller = await authenticate(request)
    services = services_of(request)
    origin = origin_of(request)  # may be refused, so read it before anything is stored
    creation = await read_model(request, BatchCreation, MAX_CREATION_BYTES)
    _check_metadata(creation.metadata)
    check_url(services, caller, creation.endpoint)
    await _require_key(services, caller)
    max_cost, headers = _max_cost(request), _headers(request, caller)
    batches = services.queue.batches
    if is_repeated(request) and (
        earlier := await _made_before(services, caller, creation, max_cost, headers)
    ):
        return json_reply(batch_object(earlier))
    file = await batches.files.get(caller.tenant, creation.input_file_id)
    if file is None or file.purpose != INPUT:
        message = "There is no such file: upload one with the purpose `batch` first"
        raise InvalidInput.of_field("input_file_id", message, "invalid_input_file")
    expiry = creation.output_expires_after
    new = NewBatch(
        id=f"batch_{secrets.token_hex(16)}",
        tenant=caller.tenant,
        key_id=caller.key_id,
        origin=origin,
        endpoint=creation.endpoint,
        input_file=file.id,
        input_key=file.key,
        window_s=WINDOW_S,
        metadata=creation.metadata,
        keep_outputs_s=None if expiry is None else expiry.seconds,
        webhook=await _webhook(services, caller, creation.webhook_url),
        max_cost=max_cost,
        headers=headers,
    )
    most = services.config.limits.max_batches_per_tenant
    return json_reply(batch_object(await batches.create(new, most)))


def is_repeated(request: HttpRequest) -> bool:
    """Return whether OpenAI's client repeats the call because it got no answer."""
    return request.headers.get(RETRIES, "0") != "0"


async def _made_before(
    services: Services,
    caller: Caller,
    creation: BatchCreation,
    max_cost: str | None,
    headers: Mapping[str, str] | None,
) -> StoredBatch | None:
    """The batch that an earlier try of the same call made, whose answer was lost."""
    for batch in await services.queue.batches.page(caller.tenant, None, MAX_BATCHES):
        same = (
            batch.key_id == caller.key_id
            and batch.input_file == creation.input_file_id
            and batch.endpoint == creation.endpoint
            and batch.metadata == creation.metadata
            and batch.max_cost == max_cost
            and batch.headers == headers
        )
        if same and batch.age_s <= REPEATED_WITHIN_S:
            return batch
    return None


async def list_batches(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    limit = query.page_size(request, default=20, most=MAX_BATCHES)
    services, after = services_of(request), query.text(request, "after")
    if after is not None and await services.queue.batches.get(caller.tenant, after) is None:
        raise query.invalid("after", "should be the id of a batch", after)
    batches = await _visible_batches(services, caller, after, limit + 1)
    return json_reply(batch_page(batches, limit))


async def _visible_batches(
    services: Services, caller: Caller, after: str | None, most: int
) -> Sequence[StoredBatch]:
    """Batches that the caller may see, newest first, however many of others are between them."""
    batches: list[StoredBatch] = []
    while True:
        page = await services.queue.batches.page(caller.tenant, after, most)
        batches += [batch for batch in page if _may_see(caller, batch)]
        if len(batches) >= most or len(page) < most:
            return batches[:most]
        after = page[-1].id


async def show(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    return json_reply(batch_object(await _find(request, caller)))


async def cancel(request: HttpRequest) -> Response:
    """Stop a batch. One that is stopped or has ended stays as it is."""
    caller = await authenticate(request)
    batch = await _find(request, caller)
    stopped = await services_of(request).queue.batches.cancel(
        caller.tenant, batch.id, actor_of(request)
    )
    return json_reply(batch_object(stopped or batch))


async def _find(request: HttpRequest, caller: Caller) -> StoredBatch:
    batch_id: str = request.path_params["batch_id"]
    batch = await services_of(request).queue.batches.get(caller.tenant, batch_id)
    if batch is None or not _may_see(caller, batch):
        raise NotFound(f"There is no batch {batch_id[:64]}.")
    return batch


def _may_see(caller: Caller, batch: StoredBatch) -> bool:
    """Return whether the key is not limited to some endpoints, or made the batch."""
    return caller.batches_of in (None, batch.key_id)


def _max_cost(request: HttpRequest) -> str | None:
    """Header with the most that all lines together may cost. ``InvalidInput`` names it."""
    header = request.headers.get(HEADER)
    return None if header is None else str(parse_max_cost(header.encode("latin-1")))


def _headers(request: HttpRequest, caller: Caller) -> Mapping[str, str] | None:
    """Headers that hold for each line; None: none. ``InvalidInput`` and ``Forbidden`` name one."""
    parse_options(request, caller)
    return kept_headers(request) or None


def _check_metadata(metadata: dict[str, str] | None) -> None:
    pairs = metadata or {}
    if len(pairs) > MAX_PAIRS:
        raise InvalidInput.of_field("metadata", f"At most {MAX_PAIRS} pairs are allowed")
    for key, value in pairs.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            message = (
                f"Keys may have {MAX_METADATA_KEY} characters, and values {MAX_METADATA_VALUE}"
            )
            raise InvalidInput.of_field("metadata", message)


async def _require_key(services: Services, caller: Caller) -> None:
    """``Forbidden``: the caller has no API key, with whose rights the batch would continue."""
    try:
        await services.identity.keys.identity_of(caller.key_id)
    except Unauthenticated:
        raise Forbidden(
            "A batch runs for hours with the rights of an API key, and this call has none. Create "
            "the batch with an API key."
        ) from None


async def _webhook(services: Services, caller: Caller, url: str | None) -> str | None:
    if url is None:
        return None
    try:
        return await services.webhooks.targets.check(url, caller.tenant)
    except BadTarget as wrong:
        raise InvalidInput.of_field("webhook_url", str(wrong)) from None


ONE = in_path("batch_id", "Id of the batch.")

CREATE = Operation(
    "openaiCreateBatch",
    "Run the requests of a file while nothing else waits",
    {200: answer("The batch is stored. Its file is validated next.", OpenAiBatch)},
    errors=(400, 403, 404, 413, 429, 503),
    parameters=(
        in_header(
            HEADER,
            "Most that all lines together may cost, such as `5` or `5 EUR`. If they cost more, or "
            "that is not known before they run, the batch fails and nothing is queued.",
        ),
    ),
    body=BatchCreation,
    description=f"The only `completion_window` is `{WINDOW}`. `{RUN}` is Darkroom's own. Headers "
    "of a submit, such as `X-Fal-Store-IO`, hold for each line.",
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "openaiListBatches",
    "List the tenant's batches, newest first",
    {200: answer("A page.", OpenAiBatchPage)},
    errors=(400,),
    parameters=(
        in_query("after", "`last_id` of the previous page."),
        in_query("limit", "1 to 100; default 20.", int),
    ),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "openaiGetBatch",
    "Show a batch",
    {200: answer("The batch.", OpenAiBatch)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
CANCEL = Operation(
    "openaiCancelBatch",
    "Stop a batch",
    {200: answer("It sends no more requests, and cancels those that wait or run.", OpenAiBatch)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
