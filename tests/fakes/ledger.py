"""Looking back at the fake queue."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

from serve_app.domain.billing.price import Price, Quantities
from serve_app.domain.billing.sums import SumsQuery, UsageGroup, UsageSum
from serve_app.domain.outcome import Usage
from serve_app.domain.request import Request, State
from serve_app.domain.timeframe import Timeframe
from serve_app.domain.usage import EndedRequest, EndedRequestFilter, RequestTotals, UsageTotals
from tests.fakes.queue_row import Row


@dataclass(frozen=True)
class Line:
    id: str  # of a request, or of a frame
    tenant: str
    endpoint: str
    at: datetime
    usage: Usage
    price: Price | None
    made: Quantities  # to be billed
    key_id: str
    succeeded: bool


class FakeLedger:
    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self.lines: list[Line] = []

    def note(
        self, id_: str, request: Request, at: datetime, usage: Usage, quantities: Quantities
    ) -> None:
        line = Line(
            *(id_, request.tenant, request.runs_at, at, usage, request.price, quantities),
            *(self._rows[request.id].key_id, request.state is State.SUCCEEDED),
        )
        self.lines.append(line)

    def cost(self, tenant: str) -> Decimal:
        return _billed([line for line in self.lines if line.tenant == tenant])[1]

    async def usage_totals(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str] = ()
    ) -> Sequence[UsageTotals]:
        groups: dict[tuple[int, str, str], list[Line]] = defaultdict(list)
        for line in self.lines:
            is_counted = line.tenant == tenant and (not endpoints or line.endpoint in endpoints)
            if is_counted and edges[0] <= line.at < edges[-1]:
                bucket = bisect_right(edges, line.at) - 1
                groups[bucket, line.endpoint, repr(line.price)].append(line)
        return [
            UsageTotals(
                *(bucket, endpoint, len(lines), _sum([usage_line.usage for usage_line in lines])),
                *(lines[0].price, *_billed(lines)),
            )
            for (bucket, endpoint, _), lines in sorted(groups.items())
        ]

    async def sums(self, query: SumsQuery) -> Sequence[UsageSum]:
        groups: dict[tuple[str, ...], list[Line]] = defaultdict(list)
        by, zone = frozenset(query.by), UTC if query.zone == "UTC" else ZoneInfo(query.zone)
        for line in self.lines:
            is_counted = (
                query.tenant in (None, line.tenant) and query.since <= line.at < query.until
            )
            if not is_counted or (query.endpoints and line.endpoint not in query.endpoints):
                continue
            values = {
                UsageGroup.DAY: line.at.astimezone(zone).date().isoformat(),
                UsageGroup.HOUR: Timeframe.HOUR.start(line.at, zone).isoformat(),
                UsageGroup.MINUTE: Timeframe.MINUTE.start(line.at, zone).isoformat(),
                UsageGroup.TENANT: line.tenant,
                UsageGroup.KEY: line.key_id,
                UsageGroup.ENDPOINT: line.endpoint,
            }
            key = [value for group, value in values.items() if group in by]
            whole = UsageGroup.ENDPOINT in by
            key.append(repr(line.price) if whole else line.price.currency if line.price else "~")
            groups[tuple(key)].append(line)
        return [_summed(lines, by, zone) for _, lines in sorted(groups.items())]

    async def request_totals(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        *,
        shares: Sequence[float],
        client_codes: Collection[str],
    ) -> Sequence[RequestTotals]:
        groups: dict[tuple[int, str], list[Request]] = defaultdict(list)
        for row in self._rows.values():
            finished, at = row.request, row.request.finished_at
            is_counted = finished.tenant == tenant and finished.endpoint in endpoints
            if is_counted and at is not None and edges[0] <= at < edges[-1]:
                groups[bisect_right(edges, at) - 1, finished.endpoint].append(finished)
        measured: list[RequestTotals] = []
        for (bucket, endpoint), requests in sorted(groups.items()):
            ends = [_end(request, client_codes) for request in requests]
            started = [
                (request, request.started_at)
                for request in requests
                if request.started_at is not None
            ]
            took = [(request.finished_at - at).total_seconds() for request, at in started]  # type: ignore[operator]
            waited = [(at - request.created_at).total_seconds() for request, at in started]
            counts = (
                len(ends),
                ends.count(EndedRequest.SUCCESS),
                ends.count(EndedRequest.CLIENT_ERROR),
            )
            percentiles = _percentiles(took, shares), _percentiles(waited, shares)
            measured.append(RequestTotals(bucket, endpoint, *counts, *percentiles))
        return measured

    async def ended_requests(self, search: EndedRequestFilter, limit: int) -> Sequence[Request]:
        ended = [
            (row.request.finished_at, row.request.id, row.request)
            for row in self._rows.values()
            if row.request.finished_at is not None
        ]
        chosen = [
            request
            for at, id_, request in sorted(ended, key=lambda entry: entry[:2], reverse=True)
            if (request.tenant, request.endpoint) == (search.tenant, search.endpoint)
            and search.since <= at < search.until
            and search.end in (None, _end(request, search.client_codes))
            and search.request_id in (None, id_)
            and (search.before is None or (at, id_) < search.before)
        ]
        return chosen[:limit]


def _end(request: Request, client_codes: Collection[str]) -> EndedRequest:
    failure = request.outcome.failure if request.outcome else None
    if request.state is State.SUCCEEDED or failure is None:
        return EndedRequest.SUCCESS
    client = failure.field is not None or failure.code in client_codes
    return EndedRequest.CLIENT_ERROR if client else EndedRequest.SERVER_ERROR


def _sum(usages: Sequence[Usage]) -> Usage:
    return Usage(
        sum(usage.run_s for usage in usages),
        sum(usage.steps for usage in usages),
        sum(usage.units for usage in usages),
    )


def _summed(lines: Sequence[Line], by: Collection[UsageGroup], zone: tzinfo) -> UsageSum:
    first = lines[0]
    by_endpoint = UsageGroup.ENDPOINT in by
    units, amount = _billed(lines)
    return UsageSum(
        currency=first.price.currency if first.price else None,
        requests=len(lines),
        successes=sum(line.succeeded for line in lines),
        images=sum(line.made.images for line in lines),
        run_s=sum((Decimal(str(line.usage.run_s)) for line in lines), Decimal(0)),
        steps=sum(line.usage.steps for line in lines),
        amount=amount,
        day=first.at.astimezone(zone).date() if UsageGroup.DAY in by else None,
        hour=Timeframe.HOUR.start(first.at, zone) if UsageGroup.HOUR in by else None,
        minute=Timeframe.MINUTE.start(first.at, zone) if UsageGroup.MINUTE in by else None,
        tenant=first.tenant if UsageGroup.TENANT in by else None,
        key_id=first.key_id if UsageGroup.KEY in by else None,
        endpoint=first.endpoint if by_endpoint else None,
        price=first.price if by_endpoint else None,
        billed=units if by_endpoint else None,
        units=Decimal(str(sum(line.usage.units for line in lines))) if by_endpoint else None,
    )


def _billed(lines: Sequence[Line]) -> tuple[Decimal, Decimal]:
    """Units and amount."""
    priced = [(line.made, line.price) for line in lines if line.price is not None]
    units = sum((output.of(price.unit) for output, price in priced), Decimal(0))
    return units, sum((output.cost(price) for output, price in priced), Decimal(0))


def _percentiles(values: Sequence[float], shares: Sequence[float]) -> Sequence[float]:
    if not values:
        return ()
    ordered = sorted(values)
    percentiles: list[float] = []
    for share in shares:
        below, part = divmod(share * (len(ordered) - 1), 1)
        first, second = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        percentiles.append(first + (second - first) * part)
    return percentiles
