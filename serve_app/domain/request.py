"""What a client submitted: its states and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Progress
from serve_app.domain.retries import Retries
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.domain.webhook import Webhook


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
    State.QUEUED: frozenset(
        # Succeeded: with the outcome of another, for which it waited.
        {State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED}
    ),
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
    REALTIME = 3  # of sessions, and of nothing else


class WaitReason(StrEnum):
    """Why a queued request has not started."""

    BUSY = "busy"  # replicas are there, and all their slots are taken
    COLD_START = "cold_start"  # a replica is starting or loading
    NO_REPLICA = "no_replica"  # none is there and none has said that it starts
    PAUSED = "paused"  # an operator has paused its endpoint
    LIMIT = "limit"  # as many of its tenant's, or of its endpoint's, run as may
    FOLLOWING = "following"  # another makes the same, and its outcome will do


class Forgetting(StrEnum):
    """What is forgotten next of a request whose input and outcome are not to be kept."""

    INPUT = "input"  # when it has ended
    OUTCOME = "outcome"  # an hour later
    DONE = "done"


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
    end_within_s: float | None = None  # not ended by then: expired
    work: float = 1.0  # by which its time is expected: steps × megapixels × pictures
    alone: bool = False  # it shares no forward with others
    previews: bool = True  # may be made while it runs
    warnings: tuple[str, ...] = ()  # go into the request's own log
    idempotency_key: str | None = None  # the same of this tenant and endpoint: the same request
    replay_key: str | None = None  # API key whose undelivered answers to submits are given again
    store_io: bool = True  # False: its input and outcome are forgotten
    keep_files_s: float | None = None  # from its end, see ``Lifecycles``; None: as long as itself
    webhook: Webhook | None = None  # called at its end
    reuse_digest: bytes = b""  # SHA-256 of endpoint and input, where outcomes may be shared
    retries: Retries | None = None  # after failures; None: by the installation's rule
    body_digest: bytes = b""  # SHA-256 of what the client sent, where a repeat is looked for


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the request's own log, which its owner reads."""

    sequence: int  # per request, from 1, without gaps
    at: datetime
    level: str  # INFO, WARNING, ERROR
    message: str
    state: State | None = None  # where the line tells that the request came into it


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
    end_by: datetime | None = None  # not ended by then: expired
    work: float = 1.0  # as ``NewRequest.work``
    replica_id: str | None = None
    outcome: Outcome | None = None  # exactly when the state is final
    progress: Progress | None = None  # of the running attempt; may be lost, never wrong
    previews: bool = True  # may be made
    preview_step: int = 0  # of the running attempt's newest preview; 0: there is none
    snapshot: StoredSnapshot | None = None  # what another attempt would go on from
    log: tuple[LogLine, ...] = field(default=())
    reuses: str | None = None  # id of the request whose outcome it was given
    follows: str | None = None  # queued: id of the one that makes the same, whose outcome will do
    forgetting: Forgetting | None = None  # None: its input and outcome are kept
    retries_left: Retries | None = None  # None: by the installation's rule
    events: int = 0  # lines of its own log: grows with every change but progress


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a queued request stands: how many go before it in its pool, and why it waits."""

    position: int  # 0: next
    reason: WaitReason
    detail: str = ""
    stage: str | None = None  # of a cold start: starting, downloading, loading …
    share: float | None = None  # of it: of a download by bytes, of a start by what starts take
    starts_at: datetime | None = None  # expected, UTC; never past; None: nobody can tell
    ends_at: datetime | None = None


class CancelVerdict(StrEnum):
    """What a cancel did."""

    CANCELLED = "cancelled"  # it was queued and will never start
    REQUESTED = "requested"  # it is running; it stops at its next step
    ALREADY_FINAL = "already_final"
