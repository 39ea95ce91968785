"""Requests that OpenAI's calls name."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.request import Redacted, Request, State
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.protocol import find_request
from serve_app.ingress.submission.rendering import final_outcome
from serve_app.tenants.scopes import Caller


async def find_maker(
    services: Services,
    caller: Caller,
    request_id: str,
    what: str,
    fits: Callable[[Artifact], bool],
    makes: Callable[[CatalogEntry], bool],
) -> Request:
    """Request of the tenant that made a file which ``fits``; where what it made is not known, that
    of an endpoint that ``makes`` such files, or that is gone.

    ``RequestNotFound`` has the same message for all others: there is no ``what``.
    """
    record = await find_request(services.queue, caller.tenant, request_id, what)
    if record.state is State.SUCCEEDED and record.forgetting is not Redacted.DONE:
        is_maker = any(map(fits, final_outcome(record).artifacts))
    else:
        entry = services.catalog.find_any(record.endpoint)
        is_maker = entry is None or makes(entry)
    if not is_maker:
        raise RequestNotFound(f"There is no {what}.")
    caller.require_endpoint(record.endpoint)
    return record
