"""Most of what settings and limits count. A statement that gets a larger number fails, and with it
what it does for all other tenants."""

from __future__ import annotations

from decimal import Decimal

MAX_COUNT = 2**31 - 1
"""As PostgreSQL's type integer."""

MAX_BYTES = 2**53 - 1
"""Also a number of JavaScript."""

MAX_DAYS = 1_000_000
"""2738 years. PostgreSQL's times begin 4713 BC, and an age is subtracted from now."""

MAX_MONEY = Decimal(10**15)
"""More than all requests of a period can cost."""
