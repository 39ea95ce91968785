"""Contract between ingress and replicas: lease polls, leases, reports and outcomes.

A replica keeps exactly one ``Ask`` (lease poll) open, even if all its slots are taken
(``slots=0``). The reply brings work, or a signal, or nothing after a few seconds. Everything that a
replica writes carries the request's id and its attempt number; a write by another attempt is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Plain, Preview, Progress, StoredSnapshot
from serve_app.domain.request import Priority, Request
from serve_app.domain.serialization import pickle_by_name

Lines = tuple[tuple[str, str], ...]
"""Printed lines of an attempt: level and text of each."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class LeaseKey:
    """Identity of a lease, which fences writes.

    ``nonce`` is random. A database that lost its last transactions, by a failover or a restored
    backup, gives an attempt number away twice; the nonces of the two leases differ.
    """

    request_id: str
    attempt: int
    nonce: int = 0  # below 2**53


def lease_of(request: Request) -> LeaseKey:
    """The latest lease of a request."""
    return LeaseKey(request.id, request.attempt, request.lease_nonce)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Queued requests of a pool that replicas do not want: of endpoints that they are downloading,
    of tenants of whom they fetch enough input files, and in a canary those that have failed before.
    False if there are none."""

    endpoints: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    failed: bool = False

    def __bool__(self) -> bool:
        return bool(self.endpoints or self.tenants or self.failed)

    def __or__(self, other: LeftOut) -> LeftOut:
        endpoints, tenants = self.endpoints | other.endpoints, self.tenants | other.tenants
        return LeftOut(endpoints, tenants, self.failed or other.failed)


class LeasePreference(NamedTuple):
    """Requests that replicas prefer, by the place of their weights, and those that they do not
    want."""

    hot: frozenset[str] = frozenset()  # endpoints with weights on the device
    host: frozenset[str] = frozenset()  # in host memory
    left_out: LeftOut = LeftOut()

    def distance(self, endpoint: str) -> int:
        """Rank by where the weights of ``endpoint`` are; 0 for the device."""
        return 0 if endpoint in self.hot else 1 if endpoint in self.host else 2


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Ask:
    """Lease poll: the work that a replica can take now."""

    replica_id: str
    actor_id: str  # Ray's, hex; used to detect its death
    pool: str
    slots: int  # how many more generations it can run now
    leases: tuple[LeaseKey, ...] = ()  # leases that it runs, which may receive signals
    hot: tuple[str, ...] = ()  # weights on the GPU, by endpoint id
    warm: tuple[str, ...] = ()  # weights in host memory
    free_bytes: int = 0  # device memory
    detail: str = ""  # description of what it is loading
    loading: Plain = ()  # the same as data
    coming: tuple[str, ...] = ()
    """Endpoints with weights in download, or of families that it does not have: send no more work
    for them."""
    lacking: tuple[tuple[str, str], ...] = ()
    """Those of families that it does not have, with the family: their entries may get another."""
    full_tenants: tuple[str, ...] = ()  # it fetches enough input files of these: send none of them
    wait_s: float | None = None  # longest wait for work; None: as long as the ingress allows
    device_bytes: int = 0  # total device memory; 0 on a CPU
    node: str = ""  # address of its machine
    device: str = ""  # name of its GPU; empty on a CPU
    on_disk: tuple[str, ...] = ()  # endpoints that it was asked to hold there, and does
    kept_version: str = ""  # version of the weights that it was asked to hold
    # endpoints of these, or of what it runs next, that it cannot hold, with the reason
    not_kept: tuple[tuple[str, str], ...] = ()
    upcoming: str | None = None  # version of what it runs next; None: it loads nothing beforehand
    process_bytes: int = 0  # memory of its process on a CPU
    host_bytes: int = 0  # memory of its machine or container, on a CPU

    @property
    def memory(self) -> tuple[int, int] | None:
        """Used and total bytes: of its device, or on a CPU of its process and its machine. None:
        not known."""
        if self.device_bytes:
            return self.device_bytes - self.free_bytes, self.device_bytes
        return (self.process_bytes, self.host_bytes) if self.host_bytes else None

    @property
    def left_out(self) -> LeftOut:
        return LeftOut(frozenset(self.coming), frozenset(self.full_tenants))

    @property
    def preference(self) -> LeasePreference:
        return LeasePreference(frozenset(self.hot), frozenset(self.warm), self.left_out)


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Lease:
    """Exclusive right to run a request for a limited time, with everything needed to run it."""

    request_id: str
    attempt: int
    expires_in_s: float  # a duration, so the clocks of two machines need not agree
    endpoint: Endpoint
    input: Mapping[str, Any]
    upload_tickets: tuple[UploadTicket, ...]
    priority: Priority
    alone: bool = False  # deterministic: its forward passes are not shared with other requests
    deadline_s: float | None = None  # time left until the request's deadline, when it was leased
    snapshot_url: str | None = None  # of a partial generation, to resume from
    files_url: str = ""  # origin from which replicas read our own ``/files/…``
    files_token: str = ""  # with which they read private files of its tenant there
    nonce: int = 0  # see ``LeaseKey``
    tenant: str = ""  # owner of the request
    describe_files: bool = False  # write prompt, seed and settings into its files
    trace: str = ""  # context of the trace that the attempt is recorded in; empty: it is not
    draft_url: str | None = None  # of the draft that the request goes on from
    marking: str = MarkPolicy.OFF.value  # a plain value, which every version reads
    certificates: str = ""  # of the signer of its files, as PEM; empty: they are not signed
    safety: tuple[Mapping[str, Any], ...] = ()
    """How its files are checked: rules with ``name``, ``action`` (flag, blur or block),
    ``on_error`` (block or pass), and the configuration of the ``checker``. And rules that refuse
    ``loras``, by SHA-256."""

    @property
    def output_rules(self) -> tuple[Mapping[str, Any], ...]:
        """Rules of ``safety`` for its files."""
        return tuple(rule for rule in self.safety if "checker" in rule)

    @property
    def blocked_loras(self) -> frozenset[str]:
        """Digests of LoRAs that it may not use."""
        return frozenset(digest for rule in self.safety for digest in rule.get("loras", ()))

    @property
    def has_marked_files(self) -> bool:
        """True if its files say that they are AI-generated."""
        return self.marking != MarkPolicy.OFF

    @property
    def key(self) -> LeaseKey:
        return LeaseKey(self.request_id, self.attempt, self.nonce)


class SignalKind(StrEnum):
    CANCEL = "cancel"  # stop at the next step, then finish as cancelled
    FENCED = "fenced"  # the lease is lost: drop the work, delete uploaded files


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Signal:
    kind: SignalKind
    lease_key: LeaseKey


KeptWeights = tuple[tuple[Endpoint, str], ...]
"""Weights that a replica should hold: endpoints with their ``WeightsLevel``, the first ones
first."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Work:
    """Reply to a lease poll. If all are empty, there is nothing to do: poll again.

    It is also the reply to the announcement of a replica in whose pool warm targets stand. Then
    ``keep`` is None until the replica's part in them is decided.
    """

    leases: tuple[Lease, ...] = ()
    signals: tuple[Signal, ...] = ()
    keep: KeptWeights | None = None  # None: what the replica's ``Ask.kept_version`` says
    keep_version: str = ""
    upcoming: tuple[Endpoint, ...] | None = None
    """What the replica will probably run next, the first ones first. None: what its
    ``Ask.upcoming`` says."""
    upcoming_version: str = ""
    exit: str = ""
    """Why the replica's term has ended. Empty: it has not. It gets nothing more, drops what it
    holds, and ends its process."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Work of a replica's engine and its calls of storage, since its last report. May be lost, is
    never reported twice.

    A part is the component that was called: ``denoiser``, ``encoder`` or ``autoencoder``.
    """

    steps: int = 0  # denoising steps of all generations
    forwards: Mapping[tuple[str, int], int] = field(  # by (part, number of merged calls)
        default_factory=dict[tuple[str, int], int]
    )
    not_merged: Mapping[tuple[str, str], int] = field(  # number of calls, by (part, reason)
        default_factory=dict[tuple[str, str], int]
    )
    seconds: Mapping[tuple[str, str], float] = field(  # of device time, by (family, stage)
        default_factory=dict[tuple[str, str], float]
    )
    parallel_calls: Mapping[str, int] = field(  # by how several devices divided them
        default_factory=dict[str, int]
    )
    storage_calls: Mapping[tuple[str, str], int] = field(  # tries, by (call, result)
        default_factory=dict[tuple[str, str], int]
    )
    storage_seconds: Mapping[tuple[str, str], float] = field(  # of these tries
        default_factory=dict[tuple[str, str], float]
    )


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Report:
    """State of all running generations of a replica in one call. At most twice a second while a
    client follows one of them, else as rarely as the reply says.

    The first report with a lease confirms it; each report renews it.
    """

    replica_id: str
    renewals: tuple[LeaseKey, ...]
    progress: tuple[tuple[LeaseKey, Progress], ...] = ()
    previews: tuple[tuple[LeaseKey, Preview], ...] = ()  # new ones, of attempts with progress
    detail: str = ""  # description of what the replica is loading
    pool: str = ""
    computed: EngineUsage = EngineUsage()
    snapshots: tuple[tuple[LeaseKey, StoredSnapshot], ...] = ()  # uploaded since the last report
    wants_tickets: tuple[LeaseKey, ...] = ()  # attempts that need an upload ticket for a snapshot
    loading: Plain = ()  # ``detail`` as data
    traces: Plain = ()  # attempts that ended since the last report; see ``AttemptTrace``
    lost_traces: int = 0  # attempts whose timings were dropped since the last report
    lines: tuple[tuple[LeaseKey, Lines], ...] = ()  # that attempts have printed since the last one
    hot: tuple[str, ...] | None = None  # as in ``Ask``; None: by a replica of an earlier version


@pickle_by_name
@dataclass(frozen=True, slots=True)
class ReportReply:
    cancelled: tuple[LeaseKey, ...] = ()
    fenced: tuple[LeaseKey, ...] = ()
    snapshot_tickets: tuple[tuple[LeaseKey, UploadTicket], ...] = ()  # for wanted, valid leases
    watched: tuple[LeaseKey, ...] = ()  # a client watches their previews: make the next one
    next_in_s: float = 0.0  # no client follows the reported: the next report may be so much later


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Finish:
    """End of an attempt. Sending it again gives the same reply."""

    lease_key: LeaseKey
    replica_id: str
    outcome: Outcome
    lines: Lines = ()  # printed since the last report


class Verdict(StrEnum):
    """Result of a finish or hand-back."""

    ACCEPTED = "accepted"  # also if the accepted attempt repeats its call
    FENCED = "fenced"


class ReplicaStage(StrEnum):
    """Stage of a replica, as it reports it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Presence:
    """Announcement that a replica exists. Sent every few seconds during start, and at drain; every
    lease poll implies READY."""

    replica_id: str
    actor_id: str
    pool: str
    stage: ReplicaStage
    detail: str = ""  # description of what it is loading
    loading: Plain = ()  # the same as data
    slots: int = 0  # generations that it will run concurrently; 0: not known
    node: str = ""  # address of its machine


@pickle_by_name
@dataclass(frozen=True, slots=True)
class WeightOffer:
    """Weights that a replica sends to replicas on other nodes."""

    replica_id: str
    node_id: str  # Ray's, hex
    url: str  # origin of its server; empty: it sends nothing any more
    weights: tuple[str, ...] = ()  # owner/name@commit


@dataclass(frozen=True, slots=True)
class Demand:
    """Current demand on a pool: the input of its scaling policy."""

    queued: int = 0
    running: int = 0  # leases held
    slots: int = 1  # concurrent generations per replica, as its lease polls say
    oldest_wait_s: float = 0.0
    idle_s: float = 0.0  # since the pool last had a request; 0 while it has one
    queued_s: float = 0.0  # seconds of a slot that the queued requests are expected to take
    # of an overflow pool: queued requests of the queue that it leases from, which it may run
    overflow_queued: int = 0
    overflow_queued_s: float = 0.0  # seconds of its own slots that these take
    # of a canary: how it does beside the pool that it is a canary of, and whether it has returned
    canary: str = ""
    returned: bool = False
    # replicas on quarantined nodes, while the pool has a ready one elsewhere
    quarantined: int = 0


class LeaseTerms(Protocol):
    """Catalogue and storage data that turn a stored request into a lease."""

    @property
    def files_url(self) -> str:
        """Value of ``Lease.files_url``."""
        ...

    @property
    def describe_files(self) -> bool:
        """True if files have the prompt, seed and settings of requests that are kept."""
        ...

    def marking(self, tenant: str) -> MarkPolicy:
        """Policy for the mark of AI-generated files, of the tenant's requests."""
        ...

    @property
    def certificates(self) -> str:
        """Certificates of the signer of marked files, as PEM; empty: files are not signed."""
        ...

    def safety(self, tenant: str, endpoint_id: str) -> tuple[Mapping[str, Any], ...]:
        """Value of ``Lease.safety``."""
        ...

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """Current specification. None if the catalogue does not have the endpoint."""
        ...

    def fallback_input(
        self, endpoint_id: str, fields: Mapping[str, str | None], input: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Input for the endpoint that a request fell back to. ``fields``: see ``Fallback``.
        ``InvalidInput``: the endpoint was changed, and does not take it."""
        ...

    def unfit(self, named: frozenset[str], device_bytes: int) -> frozenset[str]:
        """Endpoints of the catalogue that are not among ``named``, unless that is empty, or that
        need a larger device than one with ``device_bytes``; 0: its size is not known."""
        ...

    async def refresh(self) -> None:
        """Read the catalogue again, which another process may have changed a moment ago."""
        ...

    def tickets(
        self,
        lease_key: LeaseKey,
        tenant: str,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> tuple[UploadTicket, ...]:
        """One ticket per file that the attempt may produce. A repeated call gives the same keys,
        unless the storage location of the tenant has changed. ``file_access`` and
        ``upload_policy``: as in ``Request``."""
        ...

    def files_token(self, tenant: str) -> str:
        """Value of ``Lease.files_token``."""
        ...

    def file_ticket(
        self,
        lease_key: LeaseKey,
        tenant: str,
        number: int,
        media_type: str,
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> UploadTicket:
        """Ticket for one more file of the attempt. A repeated call gives the same key."""
        ...

    def leftovers(
        self,
        lease_key: LeaseKey,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
    ) -> Sequence[str]:
        """Keys of all files that the attempt may have stored, in every storage location. Not those
        of ``file_ticket``, which are marked for deletion when they are issued."""
        ...

    def snapshot_ticket(self, lease_key: LeaseKey, tenant: str) -> UploadTicket:
        """Ticket for one snapshot of the attempt. Each has a new key."""
        ...

    def state_url(self, key: str) -> str:
        """URL from which a replica reads a snapshot or a draft."""
        ...


# The end of replicas, of which they say nothing themselves.


@dataclass(frozen=True, slots=True)
class Death:
    """End of an actor, as the cluster says it.

    ``by_itself``: its process ended, and no other cause is known. What it computed may have done
    it.
    """

    reason: str  # a clause, such as "its node failed"
    by_itself: bool


class Liveness(Protocol):
    """Detection of dead processes. Real: Ray's actor table."""

    cluster: str
    """Id of the cluster whose processes it knows."""

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        """Actors that the cluster has given up, also if their processes live on. Unknown actors are
        not included."""
        ...

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        """Actors of a previous run of the whole installation. It was stopped or killed under them,
        so their requests did not fail."""
        ...
