"""Sums of usage by time, tenant, key and endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from serve_app.domain.billing.price import Price

MAX_SUMS = 10_000
"""Sums that one query returns."""


class UsageGroup(StrEnum):
    """What sums are made for."""

    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"
    TENANT = "tenant"
    KEY = "key"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class SumsQuery:
    """Usage of requests that ended in a time."""

    tenant: str | None  # None: all
    since: datetime
    until: datetime  # exclusive
    by: Sequence[UsageGroup]
    zone: str = "UTC"  # time zone of days and hours
    endpoints: Sequence[str] = ()  # empty: all


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sum of the usage lines of one group and currency.

    Fields that the query does not group by are None. With endpoints the sums are by price too, and
    ``price`` and ``billed`` are those.
    """

    currency: str | None  # None: without a price
    requests: int  # includes frames of realtime sessions
    successes: int
    images: int
    run_s: Decimal
    steps: int
    amount: Decimal
    day: date | None = None
    hour: datetime | None = None  # its start; of usage that is kept by day, that of the day in UTC
    minute: datetime | None = None
    tenant: str | None = None
    key_id: str | None = None  # empty: submitted before keys were recorded
    endpoint: str | None = None
    price: Price | None = None
    billed: Decimal | None = None
    units: Decimal | None = None  # that were made: megapixels or seconds
