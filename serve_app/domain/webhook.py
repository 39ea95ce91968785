"""Webhooks: calls to a client's own server when its request has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom to call at the end of a request."""

    url: str  # checked
    origin: str  # of the URLs in the body


class DeliveryState(StrEnum):
    AWAITED = "awaited"  # the request has not ended
    PENDING = "pending"
    DELIVERED = "delivered"  # answered with a 2xx
    DEAD = "dead"  # given up; it can be sent again by hand


@dataclass(frozen=True, slots=True)
class Channel:
    """What waits for each other: the deliveries of a tenant to a host."""

    tenant: str
    host: str  # with its port, if the URL has one


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is this process's for a while."""

    id: str
    claim: int  # grows with each claim: the fence
    request_id: str
    tenant: str
    host: str
    url: str
    origin: str
    tries: int  # before this one, in this round
    body: bytes | None  # as it was put together at the first try

    @property
    def channel(self) -> Channel:
        return Channel(self.tenant, self.host)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver did."""

    took_s: float
    status: int | None = None  # HTTP; None: it did not answer
    error: str = ""  # a sentence; empty: it took it
    again_after_s: float | None = None  # as it asked for
    final: bool = False  # another try would be answered alike

    @property
    def accepted(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a webhook stands."""

    id: str | None  # None while it is awaited
    request_id: str
    tenant: str
    url: str
    state: DeliveryState
    tries: int = 0  # in this round
    due_at: datetime | None = None  # of the next try, while it is pending
    created_at: datetime | None = None
    ended_at: datetime | None = None  # delivered or dead
    status: int | None = None  # HTTP, of the last try
    error: str = ""  # of the last try, or why it was given up


@dataclass(frozen=True, slots=True)
class Try:
    at: datetime
    took_s: float
    status: int | None
    error: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of all tenants."""

    pending: int  # at most ``MOST_COUNTED``
    oldest_s: float  # how long the oldest is pending; 0: none is


MOST_COUNTED = 100_000


class Outbox(Protocol):
    """Deliveries, written with the end of their requests. Any number of processes may deliver.

    ``DatabaseUnavailable``.
    """

    async def channels(self, after: Channel | None, most: int) -> Sequence[tuple[Channel, bool]]:
        """Channels in which something is pending, in their order, behind ``after``; and whether
        something is due."""
        ...

    async def claim(self, wanted: Mapping[Channel, int]) -> Sequence[Claimed]:
        """At most so many of each channel that are due, oldest first. Unless it is settled, each
        comes again some minutes later."""
        ...

    async def keep_body(self, claimed: Claimed, body: bytes) -> bytes | None:
        """Store what is to be sent, unless something is stored; returns what is. None: the claim is
        lost."""
        ...

    async def delivered(self, claimed: Claimed, answer: Answer) -> bool:
        """False: the claim was lost. So also of the next two."""
        ...

    async def failed(self, claimed: Claimed, answer: Answer, again_after_s: float | None) -> bool:
        """Write the try down. None: it is dead."""
        ...

    async def put_back(self, claimed: Claimed, after_s: float) -> bool:
        """There was no try; it is due again after so long."""
        ...

    async def give_up(self, after_s: float) -> int:
        """Bury what is pending for longer; returns how many that were."""
        ...

    async def backlog(self) -> Backlog: ...

    async def get(self, tenant: str, request_id: str) -> Delivery:
        """``RequestNotFound`` also for another tenant's; ``NotFound`` for a request without one."""
        ...

    async def tries(self, tenant: str, request_id: str) -> Sequence[Try]:
        """Oldest first; of all rounds."""
        ...

    async def page(
        self,
        tenant: str,
        *,
        state: DeliveryState | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        """Those of ended requests, newest request first; ``before`` is the id of the last one's
        request of the page before."""
        ...

    async def redeliver(self, tenant: str, request_id: str, actor: str) -> Delivery:
        """Begin a new round of tries now, with the same body. It is in the audit.
        ``RequestActive`` before the request's end; ``OutcomeForgotten``; as ``get``."""
        ...


@dataclass(frozen=True, slots=True)
class SigningSeed:
    """What a signing key is made of, and since when it signs."""

    kid: str
    seed: bytes  # 32, of Ed25519
    signs: bool  # False: receivers learn it, and it signs later
    age_s: float  # since it signs; negative: until it does


class SigningSeeds(Protocol):
    """The keys of an installation, made by whoever asks first."""

    async def all(self) -> Sequence[SigningSeed]:
        """By when they sign, the oldest first; at least one signs."""
        ...

    async def rotate(self, actor: str, *, at_once: bool) -> None:
        """Make another key, which signs from a day on; while there is one that will, none is made.
        ``at_once``: it signs now, and no other is known any more. It is in the audit."""
        ...
