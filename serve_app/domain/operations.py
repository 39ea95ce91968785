"""What an operator sees of the whole queue, and does to it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.request import State


class HaltKind(StrEnum):
    """What an operator has ordered about an endpoint."""

    PAUSED = "paused"  # what is submitted is accepted, and waits
    DRAINING = "draining"  # what waits is served, and nothing more is accepted


@dataclass(frozen=True, slots=True)
class Halt:
    """An endpoint that is paused or draining."""

    endpoint: str
    kind: HaltKind
    at: datetime
    actor: str  # the id of an API key


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator did: a row of the audit."""

    id: int  # grows
    at: datetime
    actor: str  # the id of an API key
    action: str  # such as ``endpoint.pause``
    subject: str  # an endpoint, or the id of a request
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """What is queued and what runs of a tenant in a pool."""

    pool: str
    tenant: str
    queued: int
    running: int
    oldest_s: float | None  # how long its oldest queued request exists


@dataclass(frozen=True, slots=True)
class RunningLease:
    request_id: str
    attempt: int
    tenant: str
    endpoint: str
    pool: str
    replica_id: str
    age_s: float  # since the attempt began
    expires_in_s: float  # unless it is renewed; negative: it has run out


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """One of the database's. While an old one is open, nothing that was deleted since is cleared
    away, and every statement gets slower."""

    age_s: float
    state: str  # such as ``idle in transaction``
    application: str
    pid: int  # of the server's process


@dataclass(frozen=True, slots=True)
class Overview:
    """Lanes with the most queued requests first, leases with the oldest first; at most some
    hundreds of each."""

    lanes: Sequence[LaneFigures]
    leases: Sequence[RunningLease]
    halts: Sequence[Halt]
    oldest_transaction: OpenTransaction | None


class Operations(Protocol):
    """Acts by hand, by admins only, on requests of all tenants. ``actor`` is who does it; each act
    is in the audit, written in one transaction with what it did."""

    async def pause(self, endpoint: str, actor: str) -> Halt:
        """From the next lease on none of its requests is leased. What runs goes on."""
        ...

    async def drain(self, endpoint: str, actor: str) -> Halt:
        """Within a second every ingress refuses submits to it; what was accepted is served."""
        ...

    async def resume(self, endpoint: str, actor: str) -> bool:
        """End either. False: it was not halted, and nothing is in the audit."""
        ...

    async def requeue(self, request_id: str, actor: str) -> State:
        """End the attempt that runs: its replica is fenced, no failure counts, and the request is
        queued at its old place. The state after; of a queued one, nothing is done.
        ``AlreadyFinal``, ``RequestNotFound``."""
        ...

    async def fail(self, request_id: str, actor: str, reason: str) -> State:
        """End a queued or running request as failed, with ``reason`` for its owner; its replica is
        fenced. ``AlreadyFinal``, ``RequestNotFound``."""
        ...

    async def overview(self) -> Overview: ...

    async def audit(self, before: int | None = None, limit: int = 50) -> Sequence[Act]:
        """Newest first; ``before`` is the id of the last one of the page before."""
        ...
