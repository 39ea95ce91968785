"""Who is told of every change of state that this process makes, after its commit, and how the
database is."""

from __future__ import annotations

from typing import Protocol

from serve_app.domain.request import State


class Observer(Protocol):
    """Must neither block nor raise. Real: the metrics."""

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        """An attempt of a request ended after ``run_s``, or a queued request left the queue."""
        ...

    def held_back(self, oldest_s: float, transactions: int) -> None:
        """For how long the oldest transaction of the database is open, and how many there were
        since the oldest whose view has to be kept; 0: none."""
        ...


class Nobody:
    """Listens to nothing."""

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        del endpoint, state, run_s

    def held_back(self, oldest_s: float, transactions: int) -> None:
        del oldest_s, transactions
