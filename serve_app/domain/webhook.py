"""Webhooks: calls to a client's server at the end of its request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from serve_app.domain.audit.acts import Actor


@dataclass(frozen=True, slots=True)
class Webhook:
    """Target of the call at the end of a request."""

    url: str  # checked
    origin: str  # for the URLs in the body


class DeliveryState(StrEnum):
    AWAITED = "awaited"  # the request has not ended
    PENDING = "pending"
    DELIVERED = "delivered"  # answered with a 2xx
    DEAD = "dead"  # given up; it can be redelivered manually


@dataclass(frozen=True, slots=True)
class DeliveryChannel:
    """Queue of deliveries: those of a tenant to a host wait for each other."""

    tenant: str
    host: str  # with its port, if the URL has one


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """Delivery that this process has claimed for a while."""

    id: str
    claim: int  # grows with each claim; fences other claims
    request_id: str
    tenant: str
    host: str
    url: str
    origin: str
    tries: int  # before this one, in this round
    body: bytes | None  # as built for the first try; its URLs may have expired
    trace: str = ""  # W3C trace context of the request

    @property
    def channel(self) -> DeliveryChannel:
        return DeliveryChannel(self.tenant, self.host)


@dataclass(frozen=True, slots=True)
class ReceiverResponse:
    """Reply of a receiver."""

    took_s: float
    status: int | None = None  # HTTP; None: no reply
    error: str = ""  # message; empty: accepted
    again_after_s: float | None = None  # as the receiver requested
    final: bool = False  # a retry would get the same reply

    @property
    def is_accepted(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """State of a webhook delivery."""

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
class DeliveryAttempt:
    at: datetime
    took_s: float
    status: int | None
    error: str


@dataclass(frozen=True, slots=True)
class WebhookBacklog:
    """Pending deliveries of all tenants."""

    pending: int  # at most ``MAX_COUNTED``
    oldest_s: float  # age of the oldest pending one; 0: none is pending


MAX_COUNTED = 100_000


class Outbox(Protocol):
    """Webhook deliveries, written in the transaction that ends their request. Any number of
    processes may deliver.

    Methods raise ``DatabaseUnavailable``.
    """

    async def channels(
        self, after: DeliveryChannel | None, most: int
    ) -> Sequence[tuple[DeliveryChannel, bool]]:
        """Channels with pending deliveries, sorted, after ``after``, each with a flag that says if
        a delivery is due."""
        ...

    async def claim(self, limits: Mapping[DeliveryChannel, int]) -> Sequence[ClaimedDelivery]:
        """Claim due deliveries, at most the wanted number per channel, oldest first. A claim that
        is not settled is released some minutes later."""
        ...

    async def keep_body(self, claimed: ClaimedDelivery, body: bytes) -> bytes | None:
        """Store the body to send, unless one is stored. Returns the stored one. None if the claim
        was lost."""
        ...

    async def record_success(self, claimed: ClaimedDelivery, answer: ReceiverResponse) -> bool:
        """Record success. False if the claim was lost. ``record_failure`` and
        ``put_back`` do so too."""
        ...

    async def record_failure(
        self, claimed: ClaimedDelivery, answer: ReceiverResponse, again_after_s: float | None
    ) -> bool:
        """Record a failed try. ``again_after_s`` None: the delivery is dead."""
        ...

    async def put_back(self, claimed: ClaimedDelivery, after_s: float) -> bool:
        """Release the claim without a try. The delivery is due again after ``after_s``."""
        ...

    async def expire(self, after_s: float) -> int:
        """Mark deliveries as dead that are pending for longer; returns their number."""
        ...

    async def backlog(self) -> WebhookBacklog: ...

    async def get(self, tenant: str, request_id: str) -> WebhookDelivery:
        """Delivery of a request. Raises ``RequestNotFound``, also for a request of another tenant,
        and ``NotFound`` for a request without a webhook."""
        ...

    async def tries(self, tenant: str, request_id: str) -> Sequence[DeliveryAttempt]:
        """Tries of all rounds, oldest first."""
        ...

    async def page(
        self,
        tenant: str,
        *,
        state: DeliveryState | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[WebhookDelivery]:
        """Deliveries of ended requests, newest request first. ``before``: request id of the last
        row of the previous page."""
        ...

    async def redeliver(self, tenant: str, request_id: str, actor: Actor) -> WebhookDelivery:
        """Start a new round of tries now, with the same body. It is written to the audit log.
        Raises ``RequestActive`` before the request's end, ``OutcomeForgotten``, and as ``get``."""
        ...


@dataclass(frozen=True, slots=True)
class SigningSeed:
    """Seed of a signing key, and the time since it signs."""

    kid: str
    seed: bytes  # 32, of Ed25519
    signs: bool  # False: published to receivers, and signs later
    age_s: float  # since it signs; negative: time until it does


class SigningSeeds(Protocol):
    """Signing keys of an installation. The first call creates one."""

    async def all(self) -> Sequence[SigningSeed]:
        """All keys, oldest first by when they start to sign. At least one signs."""
        ...

    async def rotate(self, actor: Actor, *, at_once: bool) -> None:
        """Create a key that starts to sign after a day. If there is already such a key, none is
        created. ``at_once``: the new key signs now and all others are revoked. Written to the audit
        log."""
        ...
