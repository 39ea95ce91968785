"""What was consumed, and the requests that have ended, as their tenant looks back at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from serve_app.domain.outcome import Usage
from serve_app.domain.request import Request


class End(StrEnum):
    """How a request ended, and by whose doing."""

    SUCCESS = "success"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class Consumed:
    """Sums over the usage lines of an endpoint between two edges."""

    bucket: int  # number of the edge where it begins, from 0
    endpoint: str
    requests: int  # frames of realtime sessions are counted like requests
    usage: Usage


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the requests of an endpoint that ended between two edges and are not deleted."""

    bucket: int  # number of the edge where it begins, from 0
    endpoint: str
    requests: int
    successes: int
    client_errors: int
    durations_s: Sequence[float] = ()  # percentiles of the last attempt's time; empty: none started
    waits_s: Sequence[float] = ()  # of the time from submit to that attempt


@dataclass(frozen=True, slots=True)
class EndedSearch:
    """Which ended requests of a tenant's are looked for."""

    tenant: str
    endpoint: str
    since: datetime  # their end, then or later
    until: datetime  # their end, before then
    end: End | None = None  # None: any
    client_codes: Collection[str] = ()  # failures that are the client's, beside those of a field
    request_id: str | None = None
    before: tuple[datetime, str] | None = None  # end and id of the last one of the page before


class Ledger(Protocol):
    async def consumed(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str] = ()
    ) -> Sequence[Consumed]:
        """Between each two of the ascending ``edges``; nothing is told of pieces that are empty.
        By bucket, then by endpoint; without ``endpoints``, of all."""
        ...

    async def measured(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        *,
        shares: Sequence[float],
        client_codes: Collection[str],
    ) -> Sequence[Measured]:
        """As ``consumed``, of these endpoints. ``shares``: which percentiles, each from 0 to 1,
        between the two nearest values in proportion. ``client_codes`` as in ``EndedSearch``."""
        ...

    async def ended(self, search: EndedSearch, limit: int) -> Sequence[Request]:
        """The latest end first."""
        ...
