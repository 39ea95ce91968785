"""Exponential backoff for retries."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


class Backoff:
    """Delays that double. Each is drawn at random between half of the delay and the whole, so that
    replicas that failed together do not retry together."""

    def __init__(self, random: Random, *, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._random = random
        self._first_s = first_s
        self._most_s = most_s

    def delays(self) -> Iterator[float]:
        """Endless sequence of delays in seconds."""
        delay_s = self._first_s
        while True:
            yield delay_s * self._random.uniform(0.5, 1.0)
            delay_s = min(delay_s * 2, self._most_s)
