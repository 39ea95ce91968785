"""Times and durations as options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

UNITS_S: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(UNITS_S)}])")


class Duration(click.ParamType[float]):
    """Seconds of a text such as ``30m``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value)
        seconds = float(match[1]) * UNITS_S[match[2]] if match else math.inf
        if not math.isfinite(seconds):
            self.fail(f"{value} should be a number with s, m, h or d, such as 30m", param, ctx)
        return seconds


class Time(click.ParamType[datetime]):
    """A date, or a date and a time. Without a zone if none is given."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            hint = "should be a date or a time, such as 2026-01-31 or 2026-01-31T12:00"
            self.fail(f"{value} {hint}", param, ctx)
