"""What the parts need of each other, as protocols. Each has one real form and one fake, and both
pass the same contract suite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.lease import (
    Ask,
    Demand,
    Finish,
    Held,
    Presence,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.ledger import Ledger
from serve_app.domain.operations import Operations
from serve_app.domain.outcome import Usage
from serve_app.domain.progress import Preview
from serve_app.domain.request import (
    CancelVerdict,
    LogLine,
    NewRequest,
    Request,
    State,
    Waiting,
)
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.domain.upload import Part


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class LeasePort(Protocol):
    """What a replica calls on the ingress. Real: the ingress deployment's handle."""

    async def announce(self, presence: Presence) -> None: ...

    async def ask(self, ask: Ask) -> Work:
        """Wait at most a few seconds for work or a signal. Never raises for want of work."""
        ...

    async def report(self, report: Report) -> ReportReply: ...

    async def finish(self, finish: Finish) -> Verdict:
        """Hand in the outcome. Idempotent: send it until it is answered."""
        ...

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        """Give the lease up without a failure: the request is queued again, at its old place. Its
        next attempt goes on from ``snapshot``, or from the last one that a report named."""
        ...


class LeaseTerms(Protocol):
    """What the catalogue and storage add to a stored request to make a lease of it."""

    @property
    def files_url(self) -> str:
        """As ``Lease.files_url``."""
        ...

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """Today's specification; None when the catalogue no longer has it."""
        ...

    def tickets(
        self, request_id: str, attempt: int, endpoint: Endpoint, input: Mapping[str, Any]
    ) -> tuple[UploadTicket, ...]:
        """One ticket per file that the attempt may produce. Made again, they have the same keys."""
        ...

    def snapshot_ticket(self, held: Held) -> UploadTicket:
        """For one snapshot of the attempt; each has another key."""
        ...

    def snapshot_url(self, key: str) -> str:
        """Where a replica reads the snapshot."""
        ...


class Queue(LeasePort, Protocol):
    """The durable core. All errors are of the tree in ``errors.py``; when the database is away,
    ``DatabaseUnavailable``.
    """

    @property
    def operations(self) -> Operations:
        """What an operator sees of it, and does to it by hand."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What was consumed, and what has ended."""
        ...

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        """Store. When this returns, the request survives whatever dies. ``Overloaded`` past the
        caps, and while ``most_queued`` or more are queued in its pool: by counts that are at most
        a second old and never taken for one call.

        A repeat is not stored: the request that has its idempotency key is returned, in whatever
        state it is. Its id tells: it is not ``new.id``. ``InvalidInput`` when that request had
        another body.

        With a ``reuse_digest``, when a request of the tenant with the same one has succeeded and
        its artifacts are kept, the new one is stored with that outcome, at its end: ``reuses``
        names the other, and nothing was consumed. While the other is queued or runs, the new one is
        queued and ``follows`` it: it ends with the same outcome. If there is none to share, because
        the other fails, or is cancelled or deleted, one of those that follow is made, and the rest
        follow that.
        """
        ...

    async def repeated(self, new: NewRequest) -> Request | None:
        """The request of which ``new`` is a repeat; None: of none so far. To be asked before
        ``submit``, which knows repeats by their idempotency key only.

        With a ``replay_key`` it may also be one that was ``undelivered`` in the last minute, with
        the same body and key. Each of these is given again once.
        """
        ...

    async def undelivered(self, new: NewRequest, request_id: str) -> None:
        """The answer to the submit of ``new`` did not reach its client; it was about
        ``request_id``."""
        ...

    async def get(self, tenant: str, request_id: str) -> Request:
        """``RequestNotFound`` also for another tenant's."""
        ...

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        """Return as soon as the state is final, or after ``timeout_s`` as it is then."""
        ...

    async def changed(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        """Return at the next change of state, attempt, progress or log, or after ``timeout_s``.

        With ``since``, what the caller saw last: at once when it is not so any more, so that a
        change between two calls is not missed. A final request returns at once.
        """
        ...

    async def log(self, request_id: str, level: str, message: str) -> None:
        """Append a line to the request's own log. An unknown request is no error."""
        ...

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        """The request's own log from the line behind the sequence ``after``; ``RequestNotFound``
        also for another tenant's. However many ask at once, one statement reads for them all."""
        ...

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        """The newest preview of the running attempt, if there is one. Asking is what makes them:
        for a few seconds from now, the replica is told that somebody looks.

        ``RequestNotFound`` also for another tenant's; ``NotFound`` for a request that was submitted
        without previews, or that does not run."""
        ...

    async def waiting(self, request: Request) -> Waiting:
        """Place in the queue, the reason, and when it should start and end; from memory, at most a
        second old."""
        ...

    async def ends_at(self, request: Request) -> datetime | None:
        """When a running request should end, from memory; never past. None: nobody can tell."""
        ...

    async def cancel(self, tenant: str, request_id: str) -> CancelVerdict: ...

    async def page(
        self,
        tenant: str | None,
        *,
        states: Sequence[State] = (),
        endpoint: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        """Newest first, of all tenants where none is named; ``before`` is the id of the last one of
        the page before. ``since`` and ``until`` (exclusive) are about the submit."""
        ...

    async def drew(self, session: Held, request_id: str, state: State, usage: Usage) -> None:
        """A frame of a realtime session ended, which had the id ``request_id``: what it took is
        counted once, however often this is called."""
        ...

    async def delete(self, tenant: str, request_id: str) -> Sequence[str]:
        """Delete an ended request: nothing is kept of it but its usage line, and its idempotency
        key while that counts. Returns the keys of its objects in storage, which are unwanted now.
        ``RequestNotFound``; ``RequestActive`` while it has not ended."""
        ...

    async def demand(self) -> Mapping[str, Demand]:
        """By pool."""
        ...


class Liveness(Protocol):
    """Who is known to be dead. Real: Ray's actor table."""

    async def dead(self, actor_ids: Sequence[str]) -> frozenset[str]:
        """Those that are certainly dead. Unknown is not dead."""
        ...

    async def bygone(self, actor_ids: Sequence[str]) -> frozenset[str]:
        """Those of an earlier run of the whole installation: it was stopped under them, or killed,
        which is no failure of what they ran."""
        ...


class Storage(Protocol):
    """Artifacts by key."""

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket: ...

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        """A URL at which storage itself serves the object, with this type and disposition; None:
        ``read`` it."""
        ...

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the whole or nothing; returns bytes. ``StorageUnavailable`` when full or away."""
        ...

    async def begin_parts(self, key: str, media_type: str) -> str:
        """Its name for the upload of an object that comes in parts."""
        ...

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> Part:
        """Store one, whole or not at all, in place of an earlier one of the number. In any order,
        several at once. ``NotFound``: the upload is no more."""
        ...

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        """Make the object of the parts with these ETags, by number; returns bytes.
        ``InvalidInput``: one of them is not there, or is too small for the store. ``NotFound``."""
        ...

    async def drop_parts(self, key: str, parts_id: str) -> None:
        """Of an upload that is not to be. Missing ones are no error."""
        ...

    async def size(self, key: str) -> int:
        """Bytes; ``ArtifactNotFound``."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``end`` (exclusive) in chunks; ``ArtifactNotFound``."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Missing keys are no error."""
        ...

    async def check(self) -> None:
        """Raise ``StorageUnavailable`` when a small object cannot be written and read back."""
        ...
