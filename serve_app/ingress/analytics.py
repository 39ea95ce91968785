"""``/v1/models/analytics``: how many of a tenant's requests ended, how, and how long they took, in
fal's shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.ledger import Measured
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.ended import CLIENT_CODES
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.time_buckets import LAST, SUMMARY, TIME_SERIES, asked_of, page_of

PERCENTILES = (25, 50, 75, 90, 95, 99)
SHARES = tuple(each / 100 for each in PERCENTILES)

METRICS: Mapping[str, Callable[[Measured], float | None]] = {
    "request_count": lambda each: each.requests,
    "success_count": lambda each: each.successes,
    "user_error_count": lambda each: each.client_errors,
    "error_count": lambda each: each.requests - each.successes - each.client_errors,
    **{
        f"p{percentile}_duration": lambda each, n=number: _at(each.durations_s, n)
        for number, percentile in enumerate(PERCENTILES)
    },
    **{
        f"p{percentile}_prepare_duration": lambda each, n=number: _at(each.waits_s, n)
        for number, percentile in enumerate(PERCENTILES)
    },
}
"""By fal's names; times in seconds, null where nothing has started."""


async def analytics(request: HttpRequest) -> Response:
    """``?endpoint_id=`` (1 to 50), ``expand=`` (``time_series``, ``summary``, and metrics: all
    unless some are named), and times as ``/v1/models/usage`` has them."""
    exchange_of(request).route = "v1.models.analytics"
    caller = await caller_of(request)
    core = core_of(request)
    views, metrics = _expand(request)
    asked = await asked_of(request, core.clock.now())
    if not asked.endpoints:
        raise query.invalid("endpoint_id", "should name 1 to 50 endpoints", "")
    body, page = dict[str, Any](), LAST

    async def measured(edges: Sequence[Any]) -> Sequence[Measured]:
        return await core.queue.ledger.measured(
            caller.tenant, edges, asked.endpoints, shares=SHARES, client_codes=CLIENT_CODES
        )

    if TIME_SERIES in views:
        page = page_of(request, asked)
        found = await measured(page.edges)
        body[TIME_SERIES] = [
            {
                "bucket": start.astimezone(asked.zone).isoformat(),
                "results": [_result(each, metrics) for each in found if each.bucket == number],
            }
            for number, start in enumerate(page.starts)
        ]
    if SUMMARY in views:
        found = await measured([asked.span.start, asked.span.end])
        body[SUMMARY] = [_result(each, metrics) for each in found]
    return json_reply({**body, **page.links})


ROUTES = [Route("/v1/models/analytics", analytics, methods=["GET"])]


def _expand(request: HttpRequest) -> tuple[Collection[str], Collection[str]]:
    expand = query.several(request, "expand")
    for given in expand:
        if given not in (TIME_SERIES, SUMMARY, *METRICS):
            what = f"should be {TIME_SERIES}, {SUMMARY}, or of the metrics {', '.join(METRICS)}"
            raise query.invalid("expand", what, given)
    views = [each for each in expand if each not in METRICS]
    return views or [TIME_SERIES], [each for each in METRICS if each in expand] or [*METRICS]


def _result(each: Measured, metrics: Collection[str]) -> dict[str, Any]:
    return {"endpoint_id": each.endpoint, **{name: METRICS[name](each) for name in metrics}}


def _at(values: Sequence[float], number: int) -> float | None:
    return values[number] if values else None
