"""Ids of requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import UUID

from serve_app.domain.ports import Clock


class RequestIds:
    """Makes UUIDv7s, which sort by age: they begin with the time to a quarter of a microsecond."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes

    def __call__(self) -> str:
        seconds = self._clock.now().timestamp()
        milliseconds = int(seconds * 1000)
        fraction = int((seconds * 1000 - milliseconds) * 4096)
        random = int.from_bytes(self._random_bytes(8), "big") & ((1 << 62) - 1)
        value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def canonical(request_id: str) -> str | None:
    """The id as it is stored, from any spelling by which the queue finds its request, such as
    without dashes. None: it is no id."""
    try:
        return str(UUID(request_id))
    except ValueError:
        return None


def valid(request_id: str) -> bool:
    """Return whether ``request_id`` is a UUID in its usual spelling, in lower or upper case."""
    if len(request_id) != 36:
        return False
    try:
        return str(UUID(request_id)) == request_id.lower()
    except ValueError:
        return False
