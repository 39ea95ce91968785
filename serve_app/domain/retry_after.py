"""Delay that an HTTP server asks for."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_retry_after(header: str, now: datetime | None = None) -> float | None:
    """Seconds from ``Retry-After``, which holds seconds or a date. None: it holds neither.

    ``now``: None to read seconds only.
    """
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    if now is None:
        return None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or a zone of many digits
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, math.ceil((at - now).total_seconds()))
