"""Drafts of a request before it is stored: the one that it goes on from, and space for its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from serve_app.catalog.fields.drafts import beneath
from serve_app.catalog.work import drafting_of, number_of_drafts
from serve_app.domain.errors import InvalidInput, StorageFull
from serve_app.domain.media.draft import (
    DRAFT,
    FROM_DRAFT,
    NEW_NOISE,
    NOISE_SEED,
    share_of_steps,
)
from serve_app.domain.request import NewRequest
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission
from serve_app.settings import NO_LIMITS

UNKNOWN = "There is no such draft. It may have expired, or its request was deleted. Make a new one"
ERROR_TYPE = "unprocessable_draft"
MAX_ID_CHARACTERS = 100
LEAST_BYTES, UNKNOWN_BYTES = 2**20, 4 * 2**20
"""Bytes that a draft to come counts as: at least, and where its tenant has none of the endpoint."""


async def continue_draft(submission: Submission) -> None:
    """Find the draft that the body goes on from, if it names one. It is held until the request is
    stored.

    ``InvalidInput`` if the tenant has no such draft, or it is of another endpoint or of other
    settings of this one.
    """
    entry, body = submission.entry, submission.body
    fields = cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else {}
    draft_id = fields.get(FROM_DRAFT)
    if not isinstance(draft_id, str) or not entry.schema.makes_drafts:
        return  # or the input's schema refuses it
    origin = None
    if draft_id.isascii() and 0 < len(draft_id) <= MAX_ID_CHARACTERS:
        drafts = submission.services.queue.drafts
        look = drafts.look if submission.only_estimated else drafts.open
        origin = await look(submission.tenant, draft_id)
    if origin is None:
        raise InvalidInput.of_field(FROM_DRAFT, UNKNOWN, ERROR_TYPE)
    draft, endpoint = origin.draft, entry.endpoint
    if draft.endpoint != endpoint.id:
        what = f"The draft was made by {draft.endpoint}: send the request there"
        raise InvalidInput.of_field(FROM_DRAFT, what, ERROR_TYPE)
    if origin.endpoint_digest != endpoint.digest:
        what = "The endpoint was changed after the draft was made. Make a new one"
        raise InvalidInput.of_field(FROM_DRAFT, what, ERROR_TYPE)
    submission.beneath = beneath(origin.input, draft)
    submission.draft_key = draft.key
    submission.left = 1 - share_of_steps(draft.step, draft.steps)


async def check_drafts(submission: Submission) -> None:
    """Give new noise its seed. ``InvalidInput``: a request with drafts is not to be kept."""
    fields = submission.input
    if fields.get(NEW_NOISE) is not None and NOISE_SEED not in fields:
        fields[NOISE_SEED] = secrets.randbelow(2**53)
    if drafting_of(fields) and not submission.options.store_io:
        what = "A draft needs the input of its request, which X-Fal-Store-IO: 0 deletes"
        raise InvalidInput.of_field(DRAFT, what)


async def require_no_drafts(submission: Submission) -> None:
    """Raise ``InvalidInput`` for an input with drafts, which frames of a session make not."""
    if drafting_of(submission.input):
        raise InvalidInput.of_field(DRAFT, "Frames of a session make no drafts")


@asynccontextmanager
async def space_for(services: Services, new: NewRequest) -> AsyncGenerator[NewRequest]:
    """Count the drafts that the request makes while it is stored in this context: yield it with the
    bytes that they are expected to take.

    Raise ``StorageFull`` if the tenant's drafts take all the bytes that they may, with those that
    its unfinished requests are expected to make. So the limit is passed by the drafts of one
    request in each ingress process at most, and by what drafts are larger than expected.
    """
    if drafting_of(new.input) is None:
        yield new
        return
    count, tenant, storing = number_of_drafts(new.input), new.tenant, services.drafts_storing
    # Read first: one that is stored meanwhile is counted twice, but none is missed.
    before = storing[tenant]
    storing[tenant] += count
    try:
        space = await services.queue.drafts.space(tenant, new.endpoint)
        draft_size = max(LEAST_BYTES, space.largest) if space.largest else UNKNOWN_BYTES
        most = max_bytes(services, tenant)
        if space.used + space.coming + before * draft_size >= most:
            raise StorageFull(
                f"Your drafts take all of the {most} bytes that they may "
                "(DARKROOM_MAX_DRAFTS_BYTES_PER_TENANT, or max_drafts_bytes of the tenant), with "
                "those that your unfinished requests may make. Delete some: DELETE "
                "/v1/drafts/{draft_id}, or wait until these requests have ended. Drafts expire."
            )
        yield replace(new, draft_bytes=count * draft_size)
    finally:
        storing[tenant] -= count
        if not storing[tenant]:
            del storing[tenant]


def max_bytes(services: Services, tenant: str) -> int:
    """Bytes that a tenant's drafts may take."""
    config = services.config
    own = config.queue.tenant_limits.get(tenant, NO_LIMITS).max_drafts_bytes
    return own or config.limits.max_drafts_bytes_per_tenant
