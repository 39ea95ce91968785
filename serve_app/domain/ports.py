"""Protocols between the parts of Darkroom. Each has one real implementation and one fake, and both
pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from serve_app.domain.artifact import StoredFiles, UploadTicket
from serve_app.domain.audit.acts import Actor
from serve_app.domain.batches.batch import BatchBook
from serve_app.domain.billing.budgets import BudgetLeft
from serve_app.domain.billing.report import CostBook
from serve_app.domain.executors.fallback import Fallbacks
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.executors.shadow import ShadowBook
from serve_app.domain.lease import (
    Ask,
    Demand,
    Finish,
    LeaseKey,
    Presence,
    Report,
    ReportReply,
    Verdict,
    WeightOffer,
    Work,
)
from serve_app.domain.media.draft import DraftBook
from serve_app.domain.operations import Operations, PoolHistory
from serve_app.domain.outcome import Usage
from serve_app.domain.progress import PartialResult, Preview, StoredSnapshot
from serve_app.domain.request import (
    CancelVerdict,
    Changes,
    FoundRequests,
    LogLine,
    NewRequest,
    NewShareLink,
    OpenedShare,
    Request,
    RequestEstimate,
    RequestFilter,
    RequestShare,
    State,
    Waiting,
)
from serve_app.domain.upload import UploadPart
from serve_app.domain.usage import Ledger
from serve_app.domain.workflows.runs import WorkflowBook


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, UTC, timezone-aware."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class LeasePort(Protocol):
    """Calls of a replica to the ingress. Real: the ingress deployment's handle."""

    async def announce(self, presence: Presence) -> Work | None:
        """Announce a replica. The reply says which weights it should hold, or that its term has
        ended; None: no warm target stands in its pool."""
        ...

    async def ask(self, ask: Ask) -> Work:
        """Wait a few seconds at most for work or a signal. A lack of work is not an error."""
        ...

    async def report(self, report: Report) -> ReportReply: ...

    async def finish(self, finish: Finish) -> Verdict:
        """Deliver an outcome. Idempotent: repeat it until there is a reply."""
        ...

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        """Return the lease without counting a failure: the request is queued again, at its old
        place. Its next attempt resumes from ``snapshot``, or from the last reported one."""
        ...


class PeerDirectory(Protocol):
    """Replicas that send weights to other nodes. Real: the ingress deployment's handle."""

    async def offer_weights(self, offer: WeightOffer) -> bytes:
        """Record an offer, which counts for some minutes. Returns the installation's key, with
        which peers sign and check their calls."""
        ...

    async def weight_peers(self, node_id: str, name: str) -> tuple[str, ...]:
        """Some origins on other nodes than ``node_id`` with the weights ``owner/name@commit``."""
        ...


class WeightFiles(Protocol):
    """Files of registered weights. Real: the ingress deployment's handle."""

    async def weight_file(self, digest: str) -> str:
        """URL of the file with this SHA-256, for replicas; empty if there is none."""
        ...


class FileSigner(Protocol):
    """Signer of files. Real: the ingress deployment's handle; its key never leaves the ingress."""

    async def sign_claim(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        """ES256 signature of the claim of a file, 64 bytes. ``Fenced`` if the lease is not held."""
        ...

    async def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        """Report a file that is delivered without a signature."""
        ...


MAX_CODE_BYTES = 16 * 2**20
"""Largest zip file with the code of an app."""

MAX_FILES = 64
"""Most files of one input, and of one output, of an app."""


class AppSource(Protocol):
    """What replicas of executors need. Real: the ingress deployment's handle."""

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        """Ticket for file ``number`` of an attempt; the same for a repeated call. ``Fenced`` if the
        lease is not held."""
        ...

    async def app_bundle(self, digest: str) -> bytes:
        """Zip file with the code of an app. ``NotFound`` if there is none with this digest."""
        ...

    async def secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        """Secrets that the endpoint of an attempt names, as far as they are set: of apps those of
        the installation; of hosted providers also those of the tenant, which come first. ``Fenced``
        if the lease is not held."""
        ...

    async def add_partials(
        self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int
    ) -> None:
        """Store partial results of an attempt, and forget those with a number below ``first``.
        ``Fenced`` if the lease is not held."""
        ...


class SafetyLog(Protocol):
    """Log of the safety policy's decisions. Real: the ingress deployment's handle."""

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        """Record decisions about the files of an attempt: ``rule``, ``action``, ``label`` and
        ``score`` of each."""
        ...


class Gallery(Protocol):
    """Search, favourites and share links. Methods raise ``DatabaseUnavailable``, and those that
    read much ``Overloaded``."""

    async def search(self, request_filter: RequestFilter, limit: int) -> FoundRequests:
        """At most ``limit`` requests. The time of a call is bounded, however many there are."""
        ...

    async def count_by_day(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        states: Sequence[State] = (),
    ) -> Sequence[int]:
        """Numbers of ended requests between each edge and the next, by the time of their submit.
        ``endpoints``, ``states``: of these; empty: of all."""
        ...

    async def several(self, tenant: str, request_ids: Sequence[str]) -> Sequence[Request]:
        """Existing requests among these, newest first."""
        ...

    async def shortened_inputs(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        """Which of these requests are read with a summary of their input, because it is large."""
        ...

    async def whole_input(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        """Input of a request as it is stored. None: the request was deleted."""
        ...

    async def favourites_among(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        """Favourites among these requests."""
        ...

    async def set_favourites(
        self, tenant: str, request_ids: Sequence[str], *, favourite: bool
    ) -> frozenset[str]:
        """Mark requests, or remove the mark. Returns those that exist."""
        ...

    async def share(
        self, tenant: str, request_id: str, new: NewShareLink, actor: Actor
    ) -> RequestShare:
        """Create a link. Raises ``RequestNotFound``, and ``Overloaded`` above the limit of a
        tenant."""
        ...

    async def shares(self, tenant: str) -> Sequence[RequestShare]:
        """Links of a tenant that have not expired, newest first."""
        ...

    async def revoke_share(self, tenant: str, link: str, actor: Actor) -> bool:
        """Revoke a link. False: the tenant has none with this id."""
        ...

    async def find_shared(self, digest: bytes) -> OpenedShare | None:
        """Request of the link whose token has this digest; None if there is none, or no more."""
        ...


class FollowedChanges(Protocol):
    """Changes of a tenant's requests, for one caller."""

    async def next(self, timeout_s: float) -> Changes:
        """What changed since the call before; waits for it up to ``timeout_s``."""
        ...


class Queue(LeasePort, Protocol):
    """The durable queue. All errors are of the tree in ``errors.py``; ``DatabaseUnavailable`` if
    the database does not respond.
    """

    @property
    def operations(self) -> Operations:
        """Operator's view and manual operations."""
        ...

    @property
    def costs(self) -> CostBook:
        """Times of replicas, and what was made in them."""
        ...

    @property
    def pool_history(self) -> PoolHistory:
        """Figures of the pools over the last day."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Usage and history."""
        ...

    @property
    def drafts(self) -> DraftBook:
        """Drafts that requests can go on from."""
        ...

    @property
    def batches(self) -> BatchBook:
        """Batches of requests."""
        ...

    @property
    def workflows(self) -> WorkflowBook:
        """Workflows, and the steps of requests to them."""
        ...

    @property
    def fallbacks(self) -> Fallbacks:
        """Requests that run at another endpoint than their own."""
        ...

    @property
    def shadows(self) -> ShadowBook:
        """Requests of which copies go to other endpoints."""
        ...

    @property
    def gallery(self) -> Gallery:
        """Search and favourites."""
        ...

    @property
    def stored_files(self) -> StoredFiles:
        """Sums of stored files."""
        ...

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        """Store a request. After this returns, the request survives any crash; one that is
        ``answered_at_end`` survives crashes of the database from its end on. Raises ``Overloaded``
        above the limits, and while ``most_queued`` or more requests are queued in its pool, by
        counts that are at most a second old and never queried for a single call.

        A repeat is not stored: the request with its idempotency key is returned, in its current
        state. It can be recognised by its id, which is not ``new.id``. Raises ``InvalidInput`` if
        that request had another body.

        Outcome reuse, with a ``reuse_digest``: if a request of the tenant with the same digest has
        succeeded and its artifacts are kept, the new one is stored as ended, with that outcome.
        Then ``reuses`` names the other, and nothing is consumed. If the other is queued or running,
        the new one is queued and ``follows`` it, to end with the same outcome. If the other fails,
        or is cancelled or deleted, one of its followers is generated, and the rest follow that one.
        """
        ...

    async def find_earlier(self, new: NewRequest) -> Request | None:
        """The request that ``new`` repeats, or None. Call it before ``submit``, which recognises
        repeats only by their idempotency key.

        With a ``replay_key``, it may also be a request that was ``undelivered`` in the last minute,
        with the same body and key. Each of these is returned once.
        """
        ...

    async def record_undelivered(self, new: NewRequest, request_id: str) -> None:
        """Record that the response to the submit of ``new``, about ``request_id``, did not reach
        its client."""
        ...

    async def get(self, tenant: str, request_id: str) -> Request:
        """The request. Raises ``RequestNotFound``, also for a request of another tenant.

        The end of a request may be seen up to a second late, if another process recorded it.
        """
        ...

    async def current(self, tenant: str, request_id: str) -> Request:
        """The request as it is stored now; otherwise as ``get``."""
        ...

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        """Return as soon as the state is final, or after ``timeout_s`` in its current state."""
        ...

    async def wait_for_change(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        """Return at the next change of state, attempt, progress or log, or after ``timeout_s``.

        ``since`` is what the caller saw last: if the request differs from it, this returns at once,
        so that no change between two calls is missed. A final request returns at once.
        """
        ...

    def follow(self, tenant: str) -> AbstractContextManager[FollowedChanges]:
        """Follow the changes of the tenant's requests, of all processes, from now on."""
        ...

    async def log(self, request_id: str, *lines: tuple[str, str]) -> None:
        """Append lines to the request's own log: level and message of each. A log has at most some
        thousand. An unknown request is not an error."""
        ...

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        """Lines of the request's own log after the sequence number ``after``. Concurrent calls
        share one statement. Raises ``RequestNotFound``, also for a request of another tenant."""
        ...

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        """The newest preview of the running attempt; None without one and after the attempt's
        end. A call also requests more: for a few seconds, the replica is notified that a client
        watches.

        Raises ``RequestNotFound``, also for a request of another tenant, and ``NotFound`` for a
        request that was submitted without previews."""
        ...

    async def waiting(self, request: Request) -> Waiting:
        """Position in the queue, the reason, and expected start and end. From memory, at most a
        second old."""
        ...

    async def estimate(self, new: NewRequest) -> RequestEstimate:
        """What ``new`` would wait for and take. It is not stored. From memory, as ``waiting``."""
        ...

    def usual_s(self, endpoint: str, pool: str) -> float | None:
        """Mean seconds of an endpoint's requests in a pool, from memory. None: none has ended."""
        ...

    async def ends_at(self, request: Request) -> datetime | None:
        """Expected end of a running request, from memory, never in the past. None if unknown."""
        ...

    async def cancel(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> CancelVerdict:
        """Cancel a queued request, or ask the replica of a running one to stop. ``actor``: who
        asked for it, for the audit log; None if nobody did, as when a client disconnects."""
        ...

    async def page(
        self,
        tenant: str | None,
        *,
        states: Sequence[State] = (),
        endpoints: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        """Requests, newest first; of all tenants if ``tenant`` is None. ``before``: id of the last
        row of the previous page. ``since`` and ``until`` (exclusive) limit the submit time."""
        ...

    async def open_sessions(self, tenant: str, pool: str) -> int:
        """Number of the tenant's realtime sessions in the pool that wait for a slot or hold one, at
        all ingress replicas."""
        ...

    async def record_frame(
        self, session: LeaseKey, request_id: str, state: State, usage: Usage
    ) -> None:
        """Record the usage of a realtime session's frame, whose id is ``request_id``. Idempotent:
        repeated calls count it once."""
        ...

    async def budget_left(self, tenant: str) -> BudgetLeft | None:
        """What is left of the tenant's budget now, without what is reserved. None: it has none."""
        ...

    async def delete(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> Sequence[str]:
        """Delete an ended request. Only its usage record remains, its entry in the audit log if
        an ``actor`` asked for it, and its idempotency key while valid. Returns the keys of its
        objects in storage, which are no longer needed. Raises ``RequestNotFound``, and
        ``RequestActive`` if it has not ended."""
        ...

    async def demand(self) -> Mapping[str, Demand]:
        """Current demand by pool."""
        ...


class Storage(Protocol):
    """Artifact storage by key."""

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket: ...

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        """URL at which storage itself serves the object, with this type and disposition. None if
        the object must be ``read``."""
        ...

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store an object, completely or not at all; returns its size in bytes. Raises
        ``StorageUnavailable`` if storage is full or unreachable."""
        ...

    async def begin_parts(self, key: str, media_type: str) -> str:
        """Start a multipart upload. Returns the storage's id for it."""
        ...

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        """Store a part, completely or not at all. It replaces an earlier part of the same number.
        Parts may come in any order and concurrently. ``NotFound`` if the upload is gone."""
        ...

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        """Complete the object from the parts with these ETags, by number; returns its size in
        bytes. Raises ``InvalidInput`` if a part is missing or too small, and ``NotFound``."""
        ...

    async def drop_parts(self, key: str, parts_id: str) -> None:
        """Abort a multipart upload. A missing upload is not an error."""
        ...

    async def size(self, key: str) -> int:
        """Size in bytes. Raises ``ArtifactNotFound``."""
        ...

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        """Size in bytes, and the first ``most`` of them, or none where they would cost a call of
        their own. Raises ``ArtifactNotFound``."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Read bytes ``start`` to ``end`` (exclusive) in chunks. Raises ``ArtifactNotFound``."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. Missing keys are not an error."""
        ...

    async def check(self) -> None:
        """Raise ``StorageUnavailable`` if a small object cannot be written and read back."""
        ...
