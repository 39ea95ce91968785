"""Most of what settings and limits count. A statement that gets a larger number fails, and with it
what it does for all other tenants."""

from __future__ import annotations

from decimal import Decimal

MAX_COUNT = 2**31 - 1
"""As PostgreSQL's type integer."""

MAX_BYTES = 2**53 - 1
"""Also a number of JavaScript."""

MAX_DAYS = 100_000
"""273 years. An age is subtracted from now, and times of Python begin in the year 1, those of
PostgreSQL 4713 BC."""

MAX_MONEY = Decimal(10**15)
"""More than all requests of a period can cost."""
