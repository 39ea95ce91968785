"""Where an attempt stands, and why one ends before its time."""

from __future__ import annotations

from enum import StrEnum


class Stop(StrEnum):
    """Why an attempt ends before its time."""

    CANCELLED = "cancelled"
    FENCED = "fenced"
    HANDED_BACK = "handed_back"
    OUT_OF_TIME = "out_of_time"  # of the request's time in all nothing remains
    HUNG = "hung"  # what works for it does so no more


class Phase(StrEnum):
    LOADING = "loading"
    IN_ENGINE = "in_engine"
    DELIVERING = "delivering"
    ENDED = "ended"
