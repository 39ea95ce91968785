"""What a client submitted: its states and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Progress


class State(StrEnum):
    """Where a request stands. The last four are final: a request reaches exactly one, once."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset(
        {State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED}
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""Which state may follow which. ``docs/`` draws this table, and a test compares the two."""


class Priority(IntEnum):
    """Order within a tenant: higher goes first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class WaitReason(StrEnum):
    """Why a queued request has not started."""

    BUSY = "busy"  # replicas are there, and all their slots are taken
    COLD_START = "cold_start"  # a replica is starting or loading
    NO_REPLICA = "no_replica"  # none is there and none has said that it starts


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A validated submit, before it is stored. ``input`` has its defaults filled in."""

    id: str  # UUIDv7, made by us
    tenant: str
    endpoint: str
    endpoint_digest: str
    pool: str
    input: Mapping[str, Any]
    priority: Priority = Priority.NORMAL
    start_within_s: float | None = None  # not started by then: expired
    alone: bool = False  # it shares no forward with others
    warnings: tuple[str, ...] = ()  # go into the request's own log


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the request's own log, which its owner reads."""

    sequence: int  # per request, from 1, without gaps
    at: datetime
    level: str  # INFO, WARNING, ERROR
    message: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a stored request. Times are the database's clock, UTC."""

    id: str
    tenant: str
    endpoint: str
    pool: str
    state: State
    input: Mapping[str, Any]
    priority: Priority
    attempt: int  # number of the latest lease, 0 before the first
    failures: int  # attempts that ended by crash or retryable error
    created_at: datetime
    started_at: datetime | None = None  # start of the latest attempt
    finished_at: datetime | None = None
    cancel_requested: bool = False
    alone: bool = False  # asked for, or since a replica died that ran it
    replica_id: str | None = None
    outcome: Outcome | None = None  # exactly when the state is final
    progress: Progress | None = None  # of the running attempt; may be lost, never wrong
    log: tuple[LogLine, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a queued request stands: how many go before it in its pool, and why it waits."""

    position: int  # 0: next
    reason: WaitReason
    detail: str = ""


class CancelVerdict(StrEnum):
    """What a cancel did."""

    CANCELLED = "cancelled"  # it was queued and will never start
    REQUESTED = "requested"  # it is running; it stops at its next step
    ALREADY_FINAL = "already_final"
