"""Usage and history: consumption, and ended requests as their tenant sees them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from serve_app.domain.billing.price import Price
from serve_app.domain.billing.sums import SumsQuery, UsageSum
from serve_app.domain.outcome import Usage
from serve_app.domain.request import Request


class EndedRequest(StrEnum):
    """End of a request, and the side that caused it."""

    SUCCESS = "success"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over the usage records of an endpoint between two edges."""

    bucket: int  # index of the edge at its start, from 0
    endpoint: str
    requests: int  # includes frames of realtime sessions
    usage: Usage
    price: Price | None = None  # sums are by price: it may change
    billed: Decimal = Decimal(0)  # units of the price
    amount: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class RequestTotals:
    """Statistics of an endpoint's requests that ended between two edges and are not deleted."""

    bucket: int  # index of the edge at its start, from 0
    endpoint: str
    requests: int
    successes: int
    client_errors: int
    durations_s: Sequence[float] = ()  # percentiles of the last attempt's time; empty: none started
    waits_s: Sequence[float] = ()  # percentiles of the time from submit to that attempt


@dataclass(frozen=True, slots=True)
class EndedRequestFilter:
    """Filter for ended requests of a tenant."""

    tenant: str
    endpoint: str
    since: datetime  # end time, inclusive
    until: datetime  # end time, exclusive
    end: EndedRequest | None = None  # None: any
    client_codes: Collection[str] = ()  # failures caused by the client, beside those with a field
    request_id: str | None = None
    before: tuple[datetime, str] | None = None  # (end, id) of the last row of the previous page


PERCENTILES = (25, 50, 75, 90, 95, 99)
SHARES = tuple(percent / 100 for percent in PERCENTILES)

REQUEST_METRICS: Mapping[str, Callable[[RequestTotals], float | None]] = {
    "request_count": lambda totals: totals.requests,
    "success_count": lambda totals: totals.successes,
    "user_error_count": lambda totals: totals.client_errors,
    "error_count": lambda totals: totals.requests - totals.successes - totals.client_errors,
    **{
        f"p{percentile}_duration": lambda totals, n=number: _at(totals.durations_s, n)
        for number, percentile in enumerate(PERCENTILES)
    },
    **{
        f"p{percentile}_prepare_duration": lambda totals, n=number: _at(totals.waits_s, n)
        for number, percentile in enumerate(PERCENTILES)
    },
}
"""Metrics by fal's names. Times are in seconds, and null if no request has started."""


def _at(values: Sequence[float], number: int) -> float | None:
    return values[number] if values else None


class Ledger(Protocol):
    async def usage_totals(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str] = ()
    ) -> Sequence[UsageTotals]:
        """Usage between each two of the ascending ``edges``, by bucket, then by endpoint, then by
        price. Empty buckets are left out. Without ``endpoints``: of all endpoints."""
        ...

    async def sums(self, query: SumsQuery) -> Sequence[UsageSum]:
        """Sums by group and currency, in the order of the groups. ``InvalidInput``: more than
        ``MAX_SUMS``."""
        ...

    async def request_totals(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        *,
        shares: Sequence[float],
        client_codes: Collection[str],
    ) -> Sequence[RequestTotals]:
        """Statistics of these endpoints, in buckets as in ``usage_totals``. ``shares``:
        percentiles, each from 0 to 1, interpolated linearly. ``client_codes``: see
        ``EndedRequestFilter``."""
        ...

    async def ended_requests(self, search: EndedRequestFilter, limit: int) -> Sequence[Request]:
        """Ended requests, latest end first."""
        ...
