"""``/v1/models/usage``: usage of a tenant, in fal's format.

Without prices, costs are zero. ``darkroom`` has what fal's format has no field for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, Required, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import Catalog
from serve_app.domain.billing.price import CURRENCY, Price, PriceUnit
from serve_app.domain.usage import REQUEST_METRICS, SHARES, RequestTotals, UsageTotals
from serve_app.ingress.api.request_history import CLIENT_CODES
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate, authenticate_for_tenant
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time, one_of
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_query
from serve_app.ingress.http.time_buckets import (
    LAST,
    PARAMETERS,
    SUMMARY,
    TIME_SERIES,
    PageLinks,
    asked_of,
    page_of,
)
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.model_lookup import allowed_endpoints
from serve_app.tenants.scopes import USAGE

Unit = Literal["images", "megapixels", "seconds", "gpu_seconds", "requests", "units"]

UNITS: dict[str, Unit] = {"image": "megapixels", "video": "seconds", "audio": "seconds"}
"""Unit that replicas count, by the last word of an endpoint's category."""

PRICE_UNITS: Mapping[PriceUnit, Unit] = {
    PriceUnit.IMAGE: "images",
    PriceUnit.MEGAPIXEL: "megapixels",
    PriceUnit.SECOND: "seconds",
    PriceUnit.GPU_SECOND: "gpu_seconds",
    PriceUnit.REQUEST: "requests",
}


class Consumption(TypedDict):
    """Usage that only Darkroom counts."""

    requests: int
    run_s: float
    steps: int


class UsageResult(TypedDict):
    """Usage of an endpoint at one price."""

    endpoint_id: str
    unit: Unit
    quantity: Annotated[
        float, Field(description="Units that were billed; without a price, units that were made.")
    ]
    unit_price: Annotated[float, Field(description="0: nothing was charged.")]
    cost: float
    currency: str
    darkroom: Consumption


class UsageBucket(TypedDict):
    bucket: Time
    results: list[UsageResult]


class UsagePage(PageLinks):
    time_series: NotRequired[list[UsageBucket]]
    summary: NotRequired[list[UsageResult]]


async def usage(request: HttpRequest) -> Response:
    """Show the usage by bucket and endpoint, in pages.

    Parameters: ``?start=&end=&timeframe=&timezone=&endpoint_id=``. ``expand=summary`` adds the
    usage of the whole time. Buckets in which no request ended are empty. With the scope
    ``operator``, ``tenant=`` selects another tenant.
    """
    context_of(request).route = "v1.models.usage"
    caller, tenant = await authenticate_for_tenant(request, "Usage")
    services = services_of(request)
    expand = _expand(request)
    allowed = allowed_endpoints(services.catalog_of(caller), caller)
    bucket_query = await asked_of(request, services.clock.now(), caller, allowed)
    ledger, page = services.queue.ledger, LAST
    body: UsagePage = {**LAST.links}
    if TIME_SERIES in expand:
        page = page_of(request, bucket_query)
        totals = await ledger.usage_totals(tenant, page.edges, bucket_query.endpoints)
        body["time_series"] = [
            {
                "bucket": start.astimezone(bucket_query.zone).isoformat(),
                "results": _results(
                    services.catalog, (total for total in totals if total.bucket == number)
                ),
            }
            for number, start in enumerate(page.starts)
        ]
    if SUMMARY in expand:
        whole = [bucket_query.span.start, bucket_query.span.end]
        totals = await ledger.usage_totals(tenant, whole, bucket_query.endpoints)
        body["summary"] = _results(services.catalog, totals)
    return json_reply({**body, **page.links})


SHOW = Operation(
    "getUsage",
    "Show the tenant's usage, by time and endpoint",
    {200: answer("A page of buckets.", UsagePage)},
    errors=(403, 422),
    parameters=(
        in_query("endpoint_id", "Only these endpoints, at most 50.", list[str]),
        in_query("tenant", "Default: the caller's. Another one needs the scope `operator`."),
        *PARAMETERS,
        in_query("expand", "Default: `time_series`.", list[Literal["time_series", "summary"]]),
    ),
)


def _expand(request: HttpRequest) -> Sequence[str]:
    expand = query.several(request, "expand") or [TIME_SERIES]
    for field in expand:
        if field not in (TIME_SERIES, SUMMARY):
            what = f"should be {TIME_SERIES} or {SUMMARY}(usage by key is not recorded)"
            raise query.invalid("expand", what, field)
    return expand


def _results(catalog: Catalog, totals: Iterable[UsageTotals]) -> list[UsageResult]:
    return [
        {
            "endpoint_id": total.endpoint,
            "unit": unit_of(catalog, total.endpoint, total.price),
            "quantity": float(total.billed) if total.price else total.usage.units,
            "unit_price": float(total.price.amount) if total.price else 0.0,
            "cost": float(total.amount),
            "currency": total.price.currency if total.price else CURRENCY,
            "darkroom": {
                "requests": total.requests,
                "run_s": total.usage.run_s,
                "steps": total.usage.steps,
            },
        }
        for total in totals
    ]


def unit_of(catalog: Catalog, endpoint_id: str, price: Price | None) -> Unit:
    """Unit of a price, or of an endpoint without one; ``units`` if the catalog does not know the
    endpoint or its kind."""
    if price is not None:
        return PRICE_UNITS[price.unit]
    entry = catalog.find_any(endpoint_id)
    kind = entry.endpoint.category.rpartition("-")[2] if entry else ""
    return UNITS.get(kind, "units")


# ``/v1/models/analytics``: a tenant's ended requests, counted by result, with percentiles of
# their durations, in fal's format.


class Analytics(TypedDict, total=False):
    """Numbers of an endpoint's ended requests, and percentiles of their times in seconds."""

    endpoint_id: Required[str]
    request_count: int
    success_count: int
    user_error_count: int
    error_count: int
    p25_duration: float | None
    p50_duration: float | None
    p75_duration: float | None
    p90_duration: float | None
    p95_duration: float | None
    p99_duration: float | None
    p25_prepare_duration: float | None
    p50_prepare_duration: float | None
    p75_prepare_duration: float | None
    p90_prepare_duration: float | None
    p95_prepare_duration: float | None
    p99_prepare_duration: float | None


class AnalyticsBucket(TypedDict):
    bucket: Time
    results: list[Analytics]


class AnalyticsPage(PageLinks):
    time_series: NotRequired[list[AnalyticsBucket]]
    summary: NotRequired[list[Analytics]]


async def analytics(request: HttpRequest) -> Response:
    """Parameters: ``endpoint_id`` (1 to 50), ``expand`` (``time_series``, ``summary``, or names of
    metrics; default: all metrics), and the time parameters of ``/v1/models/usage``."""
    context_of(request).route = "v1.models.analytics"
    caller = await authenticate(request)
    services = services_of(request)
    views, metrics = _expand_metrics(request)
    allowed = allowed_endpoints(services.catalog_of(caller), caller)
    bucket_query = await asked_of(request, services.clock.now(), caller, allowed)
    if not bucket_query.endpoints:
        raise query.invalid("endpoint_id", "should name 1 to 50 endpoints", "")
    page = LAST
    body: AnalyticsPage = {**LAST.links}

    async def totals_between(edges: Sequence[Any]) -> Sequence[RequestTotals]:
        return await services.queue.ledger.request_totals(
            caller.tenant, edges, bucket_query.endpoints, shares=SHARES, client_codes=CLIENT_CODES
        )

    if TIME_SERIES in views:
        page = page_of(request, bucket_query)
        totals = await totals_between(page.edges)
        body["time_series"] = [
            {
                "bucket": start.astimezone(bucket_query.zone).isoformat(),
                "results": [_result(total, metrics) for total in totals if total.bucket == number],
            }
            for number, start in enumerate(page.starts)
        ]
    if SUMMARY in views:
        totals = await totals_between([bucket_query.span.start, bucket_query.span.end])
        body["summary"] = [_result(total, metrics) for total in totals]
    return json_reply({**body, **page.links})


_EXPANDED: Any = one_of(TIME_SERIES, SUMMARY, *REQUEST_METRICS)
SHOW_ANALYTICS = Operation(
    "getAnalytics",
    "Show how many of the tenant's requests ended, how they ended, and how long they took",
    {200: answer("A page of buckets.", AnalyticsPage)},
    errors=(422,),
    parameters=(
        in_query("endpoint_id", "1 to 50 endpoints.", list[str], required=True),
        *PARAMETERS,
        in_query(
            "expand",
            "Default: `time_series` with all metrics.",
            list[_EXPANDED],
        ),
    ),
)

ROUTES = [
    DocumentedRoute("/v1/models/usage", usage, {"GET": SHOW}, USAGE),
    DocumentedRoute("/v1/models/analytics", analytics, {"GET": SHOW_ANALYTICS}, USAGE),
]


def _expand_metrics(request: HttpRequest) -> tuple[Collection[str], Collection[str]]:
    expand = query.several(request, "expand")
    known = (TIME_SERIES, SUMMARY, *REQUEST_METRICS)
    for field in expand:
        if field not in known:
            names = ", ".join(REQUEST_METRICS)
            what = f"should be {TIME_SERIES}, {SUMMARY}, or one of the metrics {names}"
            raise query.invalid("expand", what, field)
    views = [view for view in expand if view not in REQUEST_METRICS]
    metrics = [metric for metric in REQUEST_METRICS if metric in expand]
    return views or [TIME_SERIES], metrics or [*REQUEST_METRICS]


def _result(totals: RequestTotals, metrics: Collection[str]) -> Analytics:
    values = {name: REQUEST_METRICS[name](totals) for name in metrics}
    return cast("Analytics", {"endpoint_id": totals.endpoint, **values})
