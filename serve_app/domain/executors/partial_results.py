"""Port of the partial results that generators of apps yield."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import PartialPosition, PartialResult


class PartialResults(Protocol):
    """Partial results of requests, which generators of apps yield. Kept in order and for a while,
    but not durable: a crash of the database may lose them."""

    async def add(self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int) -> None:
        """As ``AppSource.add_partials``. Values that are there already are kept."""
        ...

    async def after(
        self, tenant: str, request_id: str, seen: PartialPosition
    ) -> Sequence[PartialResult]:
        """The next ones after ``seen``, by attempt and number; at most ``MAX_PARTIALS_READ``.
        Concurrent calls share one statement. ``RequestNotFound``, also for a request of another
        tenant."""
        ...

    async def wait(self, request_id: str, timeout_s: float) -> None:
        """Wait until some have been stored by this process, at most ``timeout_s``."""
        ...
