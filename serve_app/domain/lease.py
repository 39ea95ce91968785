"""The contract between the planes: what a replica asks, gets, reports and hands in.

A replica keeps exactly one ``Ask`` outstanding, also when all its slots are taken (``slots=0``):
the answer brings work, or a signal, or after a few seconds nothing. Everything a replica writes
carries the request's id and the attempt that it holds; a write by another attempt is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.by_name import by_name
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.loading import Plain
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Preview, Progress
from serve_app.domain.request import Priority
from serve_app.domain.snapshot import StoredSnapshot


@by_name
@dataclass(frozen=True, slots=True)
class Held:
    """A lease by its name: the request and the attempt, which is the fence."""

    request_id: str
    attempt: int


@by_name
@dataclass(frozen=True, slots=True)
class Ask:
    """What a replica can take now."""

    replica_id: str
    actor_id: str  # Ray's, hex: how its death is noticed
    pool: str
    slots: int  # how many more generations it can run now
    held: tuple[Held, ...] = ()  # what it runs, so that signals find it
    hot: tuple[str, ...] = ()  # weights on the GPU, by endpoint id
    warm: tuple[str, ...] = ()  # weights in host memory
    free_bytes: int = 0  # device memory
    detail: str = ""  # what it loads now, in words
    loading: Plain = ()  # the same as data
    coming: tuple[str, ...] = ()  # endpoints whose weights it downloads: no more for these


@by_name
@dataclass(frozen=True, slots=True)
class Lease:
    """A time-limited exclusive right to run a request, with all that running it takes."""

    request_id: str
    attempt: int
    expires_in_s: float  # a duration: the clocks of two machines need not agree
    endpoint: Endpoint
    input: Mapping[str, Any]
    upload_tickets: tuple[UploadTicket, ...]
    priority: Priority
    alone: bool = False  # its forwards are shared with nobody
    deadline_s: float | None = None  # what remains of its time in all, when it was leased
    snapshot_url: str | None = None  # of a half-done generation to go on from
    files_url: str = ""  # origin at which replicas read our own ``/files/…``

    @property
    def held(self) -> Held:
        return Held(self.request_id, self.attempt)


class SignalKind(StrEnum):
    CANCEL = "cancel"  # stop at the next step, then finish as cancelled
    FENCED = "fenced"  # the lease is lost: drop the work, delete what was uploaded


@by_name
@dataclass(frozen=True, slots=True)
class Signal:
    kind: SignalKind
    held: Held


@by_name
@dataclass(frozen=True, slots=True)
class Work:
    """The answer to an ask. Both empty: nothing to do, ask again."""

    leases: tuple[Lease, ...] = ()
    signals: tuple[Signal, ...] = ()


@by_name
@dataclass(frozen=True, slots=True)
class Computed:
    """What a replica's engine did since its last report. May be lost, is never told twice.

    A part is what was called: ``denoiser``, ``encoder`` or ``autoencoder``.
    """

    steps: int = 0  # denoising steps of all generations
    forwards: Mapping[tuple[str, int], int] = field(  # by part and calls in each
        default_factory=dict[tuple[str, int], int]
    )
    not_merged: Mapping[tuple[str, str], int] = field(  # calls, by part and reason
        default_factory=dict[tuple[str, str], int]
    )
    seconds: Mapping[tuple[str, str], float] = field(  # of its device, by family and stage
        default_factory=dict[tuple[str, str], float]
    )


@by_name
@dataclass(frozen=True, slots=True)
class Report:
    """All of a replica's running generations in one call, at most twice a second.

    The first report that names a lease confirms it; each one renews it.
    """

    replica_id: str
    renewals: tuple[Held, ...]
    progress: tuple[tuple[Held, Progress], ...] = ()
    previews: tuple[tuple[Held, Preview], ...] = ()  # new, progress told too
    detail: str = ""  # what the replica loads now, in words
    pool: str = ""
    computed: Computed = Computed()
    snapshots: tuple[tuple[Held, StoredSnapshot], ...] = ()  # uploaded since the last report
    wants_tickets: tuple[Held, ...] = ()  # for a snapshot each
    loading: Plain = ()  # the same as data


@by_name
@dataclass(frozen=True, slots=True)
class ReportReply:
    cancelled: tuple[Held, ...] = ()
    fenced: tuple[Held, ...] = ()
    snapshot_tickets: tuple[tuple[Held, UploadTicket], ...] = ()  # of those wanted that hold
    watched: tuple[Held, ...] = ()  # somebody looks at their previews: make the next one


@by_name
@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an attempt. Sending it again gives the same answer."""

    held: Held
    replica_id: str
    outcome: Outcome


class Verdict(StrEnum):
    """What became of a finish or hand-back."""

    ACCEPTED = "accepted"  # also on a repetition by the attempt that was accepted
    FENCED = "fenced"


class ReplicaStage(StrEnum):
    """What a replica is doing, as it says itself."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@by_name
@dataclass(frozen=True, slots=True)
class Presence:
    """A replica saying that it exists. Sent at drain, and while it starts every few seconds; every
    ask implies READY."""

    replica_id: str
    actor_id: str
    pool: str
    stage: ReplicaStage
    detail: str = ""  # what it loads now, in words
    loading: Plain = ()  # the same as data
    slots: int = 0  # generations that it will run at once; 0: not known


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool is asked for now; the input of its scaling policy."""

    queued: int = 0
    running: int = 0  # leases held
    slots: int = 1  # generations one replica runs at once, as its asks say
    oldest_wait_s: float = 0.0
    idle_s: float = 0.0  # since the pool last had a request; 0 while it has one
