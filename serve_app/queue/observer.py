"""Who is told of every change of state that this process makes, after its commit."""

from __future__ import annotations

from typing import Protocol

from serve_app.domain.request import State


class Observer(Protocol):
    """Must neither block nor raise. Real: the metrics."""

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        """An attempt of a request ended after ``run_s``, or a queued request left the queue."""
        ...


class Nobody:
    """Listens to nothing."""

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        del endpoint, state, run_s
