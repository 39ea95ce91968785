"""Operator's view of the whole queue, and manual operations on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from serve_app.domain.audit.acts import Act, Actor, NewAct
from serve_app.domain.audit.chain import SealedAct
from serve_app.domain.request import CancelVerdict, Priority, State


class PauseKind(StrEnum):
    """Order of an operator for an endpoint."""

    PAUSED = "paused"  # requests are accepted, but wait
    DRAINING = "draining"  # queued requests are served, but new ones are refused


@dataclass(frozen=True, slots=True)
class Pause:
    """An endpoint that is paused or draining."""

    endpoint: str
    kind: PauseKind
    at: datetime
    actor: str  # the id of an API key


# Warm targets.


class WeightsLevel(StrEnum):
    """Where a replica holds weights, from the fastest. Each level includes those below it."""

    HOT = "hot"  # on its device
    HOST = "host"  # in host memory, or on its device
    DISK = "disk"  # on the disk of its node


@dataclass(frozen=True, slots=True)
class WarmTarget:
    """Replicas that hold the weights of an endpoint until a time. One for each endpoint."""

    endpoint: str
    replicas: int
    level: WeightsLevel
    until: datetime | None  # None: until it is ended
    at: datetime | None = None  # when it was set
    actor: str = ""  # the id of an API key


# The overview.


@dataclass(frozen=True, slots=True)
class PoolSample:
    """Largest figures of a pool in some time."""

    pool: str
    at: datetime  # its begin
    queued: int
    running: int
    replicas: int  # that were ready
    wait_s: float  # of the oldest queued request


class PoolHistory(Protocol):
    """Figures of all pools over the last day."""

    async def sample(self) -> None:
        """Note the figures of now."""
        ...

    async def read(self, span: timedelta, step: timedelta) -> Sequence[PoolSample]:
        """Figures of the last ``span`` in steps, by pool and time. Steps in which a pool was not
        seen are left out."""
        ...


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """Queued and running requests of a tenant in a pool."""

    pool: str
    tenant: str
    queued: int
    running: int
    oldest_s: float | None  # age of its oldest queued request


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A queued request, without its input."""

    request_id: str
    tenant: str
    endpoint: str
    pool: str
    priority: Priority
    attempt: int
    created_at: datetime
    place: int  # ascending in the order of submits


@dataclass(frozen=True, slots=True)
class RunningLease:
    """Lease of a running request."""

    request_id: str
    attempt: int
    tenant: str
    endpoint: str
    pool: str
    replica_id: str
    age_s: float  # since the attempt began
    expires_in_s: float  # unless it is renewed; negative: it has expired


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """Open database transaction. While an old one is open, vacuum cannot remove rows deleted since,
    and every statement gets slower."""

    age_s: float
    state: str  # such as ``idle in transaction``
    application: str
    pid: int  # of the PostgreSQL backend


@dataclass(frozen=True, slots=True)
class Overview:
    """Overview of the queue: lanes with the most queued requests first, oldest leases first; a few
    hundred of each at most."""

    lanes: Sequence[LaneFigures]
    leases: Sequence[RunningLease]
    halts: Sequence[Pause]
    oldest_transaction: OpenTransaction | None


class Operations(Protocol):
    """Manual operations for admins, on requests of all tenants. ``actor`` is the admin. Each
    operation and its audit entry are written in one transaction."""

    async def pause(self, endpoint: str, actor: Actor) -> Pause:
        """Pause an endpoint: its requests are no longer leased. Running ones continue."""
        ...

    async def drain(self, endpoint: str, actor: Actor) -> Pause:
        """Drain an endpoint: within a second, every ingress refuses new requests for it. Accepted
        requests are served."""
        ...

    async def resume(self, endpoint: str, actor: Actor) -> bool:
        """End a pause or a drain. False if there was none; then the audit log gets no entry."""
        ...

    async def requeue(self, request_id: str, actor: Actor) -> State:
        """End the running attempt. Its replica is fenced, it does not count as a failure, and the
        request returns to its old place in the queue. Returns the new state. A queued request is
        left as it is. Raises ``AlreadyFinal``, ``RequestNotFound``."""
        ...

    async def cancel(self, tenant: str, request_id: str, actor: Actor) -> CancelVerdict:
        """Cancel a request of any tenant, as its owner would. Raises ``RequestNotFound``."""
        ...

    async def fail(self, request_id: str, actor: Actor, reason: str) -> State:
        """End a queued or running request as failed, with ``reason`` for its owner. Its replica is
        fenced. Raises ``AlreadyFinal``, ``RequestNotFound``."""
        ...

    async def prioritise(self, request_id: str, priority: Priority, actor: Actor) -> State:
        """Change the priority of a request that waits: it moves within its tenant's requests as if
        it had been submitted so. Returns its state. Raises ``AlreadyFinal``, ``RequestNotFound``,
        and ``RequestActive`` if it runs or is a realtime session."""
        ...

    async def overview(self) -> Overview:
        """Overview of the queue. It may be some seconds old, but not older than what an operator
        last did by this process."""
        ...

    async def waiting(
        self,
        *,
        tenant: str | None = None,
        endpoints: Sequence[str] = (),
        after: int = 0,
        limit: int = 50,
    ) -> Sequence[QueueEntry]:
        """Queued requests, the longest wait first. ``tenant`` and ``endpoints``: only theirs;
        none: all. ``after``: ``place`` of the last request of the previous page."""
        ...

    async def set_warm(self, target: WarmTarget, actor: Actor) -> WarmTarget:
        """Set the warm target of an endpoint, in place of an earlier one. Returns it with its time
        and actor."""
        ...

    async def end_warm(self, endpoint: str, actor: Actor) -> bool:
        """End the warm target of an endpoint. False if there was none; then the audit log gets no
        entry."""
        ...

    async def warm_targets(self) -> Sequence[WarmTarget]:
        """Warm targets whose time is not over, by endpoint."""
        ...

    async def record(self, acts: Sequence[NewAct]) -> None:
        """Write acts to the audit log."""
        ...

    async def audit(
        self, before: int | None = None, limit: int = 50, tenant: str | None = None
    ) -> Sequence[Act]:
        """Audit log, newest first. ``before``: id of the last row of the previous page. ``tenant``:
        only the acts about it, without the addresses of others; None: all acts."""
        ...

    async def audit_chain(self, after: int = 0, limit: int = 500) -> Sequence[SealedAct]:
        """Sealed acts in the order of the chain, after a place in it."""
        ...

    async def seal_audit(self) -> SealedAct | None:
        """Seal all acts. Returns the last one of the chain."""
        ...
