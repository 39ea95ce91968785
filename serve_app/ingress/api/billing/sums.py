"""``/v1/usage``: usage and what it cost, by time, tenant, key and endpoint, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated, Any, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from serve_app.domain.billing.sums import SumsQuery, UsageGroup, UsageSum
from serve_app.domain.errors import Forbidden, InvalidInput
from serve_app.domain.timeframe import Timeframe
from serve_app.domain.usage import Ledger
from serve_app.ingress.api.usage import PRICE_UNITS, Unit
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import ALL_TENANTS, authenticate_for_tenant, record_read
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import (
    JSON,
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_query,
)
from serve_app.ingress.http.time_buckets import END, START, endpoints_of
from serve_app.ingress.http.time_range import time_range, zone_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.model_lookup import allowed_endpoints
from serve_app.tenants.scopes import OPERATOR, USAGE

CSV = "text/csv"
USUAL = (UsageGroup.DAY, UsageGroup.ENDPOINT)
TIMES = frozenset({UsageGroup.DAY, UsageGroup.HOUR, UsageGroup.MINUTE})
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of texts that a spreadsheet would compute."""


class Sum(TypedDict):
    """Usage of a group. Only the fields that were asked for with ``by`` are there."""

    day: NotRequired[str]
    hour: NotRequired[Annotated[Time, Field(description="Its start.")]]
    minute: NotRequired[Annotated[Time, Field(description="Its start.")]]
    tenant: NotRequired[str]
    key_id: NotRequired[Annotated[str, Field(description="Empty: not recorded.")]]
    endpoint_id: NotRequired[str]
    requests: Annotated[int, Field(description="Ended, with frames of realtime sessions.")]
    successes: int
    images: int
    run_s: float
    steps: int
    unit: NotRequired[
        Annotated[Unit, Field(description="By endpoint: of its price; missing: it is free.")]
    ]
    unit_price: NotRequired[float]
    quantity: NotRequired[Annotated[float, Field(description="Units that were billed.")]]
    cost: float
    currency: Annotated[str | None, Field(description="Null: without a price.")]


class Cost(TypedDict):
    currency: str
    cost: float


class UsageSums(TypedDict):
    """Usage of a time."""

    start: Time
    end: Time
    by: list[UsageGroup]
    results: list[Sum]
    costs: Annotated[list[Cost], Field(description="Of all results, by currency.")]


@dataclass(frozen=True, slots=True)
class _Asked:
    query: SumsQuery
    zone: tzinfo  # of days and hours
    as_csv: bool


async def usage_sums(request: HttpRequest) -> Response:
    """Show usage and costs. ``?by=``: groups, separated by commas. ``text/csv`` in ``Accept``, or
    the path with ``.csv``, gives a file."""
    context_of(request).route = "v1.usage"
    parameters = await _parse_query(request)
    ledger = services_of(request).queue.ledger
    by = parameters.query.by
    if parameters.as_csv:
        parts = _csv(ledger, parameters)
        first = await anext(parts)  # what cannot be answered is refused, not broken off
        return StreamingResponse(
            _prepend(first, parts),
            media_type=CSV,
            headers={"content-disposition": 'attachment; filename="darkroom-usage.csv"'},
        )
    sums = await ledger.sums(parameters.query)
    costs: dict[str, Decimal] = {}
    for usage_sum in sums:
        if usage_sum.currency is not None:
            costs[usage_sum.currency] = costs.get(usage_sum.currency, Decimal(0)) + usage_sum.amount
    body: UsageSums = {
        "start": parameters.query.since.isoformat(),
        "end": parameters.query.until.isoformat(),
        "by": list(by),
        "results": [cast("Sum", _sum_body(group, by)) for group in sums],
        "costs": [{"currency": name, "cost": float(cost)} for name, cost in sorted(costs.items())],
    }
    return json_reply(body)


async def _parse_query(request: HttpRequest) -> _Asked:
    services = services_of(request)
    caller, tenant = await authenticate_for_tenant(request, "Usage")
    owner: str | None = tenant
    if query.text(request, "tenants") is not None:
        tenants = query.text(request, "tenants")
        if tenants != ALL_TENANTS:
            raise query.invalid("tenants", "should be `*`, for all tenants", str(tenants))
        if not caller.may(OPERATOR):
            raise Forbidden("Usage of all tenants requires a key with the scope `operator`.")
        await record_read(request, caller, ALL_TENANTS)
        owner = None
    zone = await in_cpu_thread(zone_of, request)
    span = time_range(request, services.clock.now(), zone)  # as it was asked for: it is billed
    name = request.query_params.get("timezone", "UTC")
    by, allowed = _groups(request), allowed_endpoints(services.catalog_of(caller), caller)
    endpoints = endpoints_of(request, caller, allowed)
    sums = SumsQuery(owner, span.start, span.end, by, name, endpoints)
    as_csv = request.url.path.endswith(".csv") or CSV in request.headers.get("accept", "")
    return _Asked(sums, zone, as_csv)


def _groups(request: HttpRequest) -> Sequence[UsageGroup]:
    names = query.several(request, "by") or USUAL
    try:
        chosen = {UsageGroup(name) for name in names}
    except ValueError:
        what = f"should be some of {', '.join(UsageGroup)}"
        raise query.invalid("by", what, ",".join(names)) from None
    return [group for group in UsageGroup if group in chosen]


async def _csv(ledger: Ledger, sums_request: _Asked) -> AsyncIterator[str]:
    """The file, a day at a time where it is by time: it may be longer than the memory. Time without
    usage is passed over in steps that double: there may be millions of such days. The first part is
    never empty."""
    by = sums_request.query.by
    since, names = sums_request.query.since, _columns(by)
    days: int | None = 1 if TIMES.intersection(by) else None
    rows: list[Sequence[Any]] = [names]
    while rows or since < sums_request.query.until:
        until = _end(sums_request, since, days)
        try:
            sums = await ledger.sums(replace(sums_request.query, since=since, until=until))
        except InvalidInput:  # too many sums
            if days in (1, None):
                raise
            days = 1
            continue
        shown = [_sum_body(usage_sum, by, exact=True) for usage_sum in sums]
        yield _rows([*rows, *([row.get(name) for name in names] for row in shown)])
        since, rows = until, []
        days = days and (1 if sums else 2 * days)


def _end(sums_request: _Asked, since: datetime, days: int | None) -> datetime:
    """End of the part that begins at ``since``, after so many days; None: of the whole time."""
    left = sums_request.query.until - since
    if days is None or left < timedelta(days=days - 1):
        return sums_request.query.until
    zone, last = sums_request.zone, since + timedelta(days=days - 1)
    return min(sums_request.query.until, Timeframe.DAY.next(Timeframe.DAY.start(last, zone), zone))


async def _prepend(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for part in rest:
        yield part


def _columns(by: Sequence[UsageGroup]) -> Sequence[str]:
    names = {
        UsageGroup.DAY: "day",
        UsageGroup.HOUR: "hour",
        UsageGroup.MINUTE: "minute",
        UsageGroup.TENANT: "tenant",
        UsageGroup.KEY: "key_id",
        UsageGroup.ENDPOINT: "endpoint_id",
    }
    priced = ("unit", "unit_price", "quantity") if UsageGroup.ENDPOINT in by else ()
    figures = ("requests", "successes", "images", "run_s", "steps")
    return [*(names[group] for group in by), *figures, *priced, "cost", "currency"]


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """Value of a cell. Text that a spreadsheet would compute gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _sum_body(
    usage_sum: UsageSum, by: Sequence[UsageGroup], *, exact: bool = False
) -> Mapping[str, Any]:
    """A sum as it is answered. ``exact``: amounts stay decimal."""

    def number(value: Decimal | None) -> float | Decimal:
        known = value or Decimal(0)
        return Decimal(f"{known.normalize():f}") if exact else float(known)

    values: dict[str, Any] = {
        "day": usage_sum.day.isoformat() if usage_sum.day else None,
        "hour": iso(usage_sum.hour),
        "minute": iso(usage_sum.minute),
        "tenant": usage_sum.tenant,
        "key_id": usage_sum.key_id,
        "endpoint_id": usage_sum.endpoint,
        "requests": usage_sum.requests,
        "successes": usage_sum.successes,
        "images": usage_sum.images,
        "run_s": number(usage_sum.run_s),
        "steps": usage_sum.steps,
        "cost": number(usage_sum.amount),
        "currency": usage_sum.currency,
    }
    if usage_sum.price is not None:
        values["unit"] = PRICE_UNITS[usage_sum.price.unit]
        values["unit_price"] = number(usage_sum.price.amount)
        values["quantity"] = number(usage_sum.billed)
    return {name: values[name] for name in _columns(by) if name in values}


PARAMETERS = (
    in_query("by", "Groups, separated by commas. Default: `day,endpoint`.", list[UsageGroup]),
    in_query("tenant", "Default: the caller's. Another one needs the scope `operator`."),
    in_query("tenants", "`*`: all tenants; needs the scope `operator`."),
    in_query("endpoint_id", "Only these endpoints, at most 50.", list[str]),
    START,
    END,
    in_query("timezone", "Time zone of days and hours. Default: UTC."),
)
SHOW = Operation(
    "getUsageSums",
    "Sum usage and costs by time, tenant, key and endpoint; as CSV with `Accept: text/csv`",
    {200: Answer("The sums, at most 10,000.", {JSON: UsageSums, CSV: str})},
    errors=(403, 422),
    parameters=PARAMETERS,
)
DOWNLOAD = Operation(
    "downloadUsageSums",
    "Download the sums as CSV",
    {200: answer("A file of any length.", str, media_type=CSV)},
    errors=(403, 422),
    parameters=PARAMETERS,
)

ROUTES = [
    DocumentedRoute("/v1/usage", usage_sums, {"GET": SHOW}, USAGE),
    DocumentedRoute("/v1/usage.csv", usage_sums, {"GET": DOWNLOAD}, USAGE),
]
