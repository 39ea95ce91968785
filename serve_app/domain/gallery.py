"""Search in the requests of a tenant, and what people note about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from serve_app.domain.request import Request, State


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Requests to find. Empty sequences and None: any."""

    tenant: str | None  # None: all tenants, without ``words`` and ``favourites``
    words: str | None = None  # all of these, or words that begin with them, are in the prompt
    favourites: bool = False  # only these
    states: Sequence[State] = ()
    endpoints: Sequence[str] = ()
    since: datetime | None = None  # of the submit
    until: datetime | None = None  # exclusive
    before: str | None = None  # ``next_before`` of the previous page


@dataclass(frozen=True, slots=True)
class FoundRequests:
    """A page, newest first. It may be short or empty before the end, if few requests match."""

    requests: Sequence[Request]
    next_before: str | None  # None: this was the last page


class Gallery(Protocol):
    """Search and favourites. Methods raise ``DatabaseUnavailable``, and those that read much
    ``Overloaded``."""

    async def search(self, wanted: RequestFilter, limit: int) -> FoundRequests:
        """At most ``limit`` requests. The time of a call is bounded, however many there are."""
        ...

    async def days(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str]
    ) -> Sequence[int]:
        """Numbers of ended requests between each edge and the next, by the time of their submit.
        ``endpoints``: of these; empty: of all."""
        ...

    async def several(self, tenant: str, request_ids: Sequence[str]) -> Sequence[Request]:
        """Those of the requests that exist, newest first."""
        ...

    async def favourites_among(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        """Favourites among these requests."""
        ...

    async def set_favourites(
        self, tenant: str, request_ids: Sequence[str], *, favourite: bool
    ) -> frozenset[str]:
        """Mark requests, or remove the mark. Returns those that exist."""
        ...
