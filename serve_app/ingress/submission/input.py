"""The input of a submit: validated, given to a pool, and not larger than its GPUs can make."""

from __future__ import annotations

from serve_app.catalog.catalog import Catalog, ValidInput
from serve_app.catalog.work import check_request
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.domain.json_depth import MAX_DEPTH, is_deep
from serve_app.domain.realtime import session_kind
from serve_app.ingress.services.cpu_executor import pass_over
from serve_app.ingress.submission.admission import Submission


async def require_requests(submission: Submission) -> None:
    """Raise ``Unsupported`` for an endpoint whose app has nothing but sessions."""
    endpoint = submission.entry.endpoint
    if not endpoint.takes_requests:
        raise Unsupported(
            f"{endpoint.id} takes realtime sessions only, and no requests. Connect a WebSocket to "
            f"/{endpoint.id}, such as with fal_client.realtime."
        )


async def require_sessions(submission: Submission) -> None:
    """Raise ``Unsupported`` for an endpoint without sessions."""
    endpoint = submission.entry.endpoint
    if session_kind(endpoint) == "none":
        raise Unsupported(
            f"{endpoint.id} has no realtime sessions: its code has no realtime route. Submit a "
            "request instead."
        )


async def validate_input(submission: Submission) -> None:
    """Validate the input and add its defaults. ``InvalidInput`` names every invalid field, or says
    that the input is too deep."""
    catalog = submission.services.catalog.of_tenant(submission.tenant)
    valid = await pass_over(submission.body, _validate, catalog, submission)
    submission.input = dict(valid.input)
    submission.warnings = (*valid.warnings, *submission.options.warnings)


def _validate(catalog: Catalog, submission: Submission) -> ValidInput:
    # Not every door has read the input from JSON: it may have the outputs of other requests.
    if is_deep(submission.body, MAX_DEPTH):
        raise InvalidInput(f"The input has more than {MAX_DEPTH} lists and objects in each other.")
    return catalog.validate(submission.entry.endpoint.id, submission.body, submission.beneath)


async def choose_pool(submission: Submission) -> None:
    """Choose the pool that runs it. ``Unavailable``: none can."""
    submission.pool = submission.services.pool_of(submission.entry)


async def check_work(submission: Submission) -> None:
    """Raise ``InvalidInput`` if the GPUs of its pool cannot make what the input asks for."""
    device_bytes = submission.services.pools.device_bytes(submission.pool)
    check_request(submission.entry.endpoint, submission.input, device_bytes)
