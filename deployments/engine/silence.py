"""For how long what is at work has given no word."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager


class Silence:
    """By name. From any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._heard: dict[str, float] = {}

    @contextmanager
    def at_work(self, name: str) -> Generator[None]:
        self._heard[name] = self._monotonic()
        try:
            yield
        finally:
            self._heard.pop(name, None)

    @contextmanager
    def waits(self, name: str) -> Generator[None]:
        """For others: meanwhile it is not at work."""
        works = self._heard.pop(name, None) is not None
        try:
            yield
        finally:
            if works:
                self._heard[name] = self._monotonic()

    def heard(self, name: str) -> None:
        if name in self._heard:
            self._heard[name] = self._monotonic()

    def longest(self) -> tuple[str, float]:
        """Who is silent for longest, and for how many seconds; nobody for 0."""
        now = self._monotonic()
        name, at = min(self._heard.copy().items(), key=lambda each: each[1], default=("", now))
        return name, now - at
