"""Batches: many requests from one file, which run while nothing else waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor


class BatchStatus(StrEnum):
    """Status of a batch, by OpenAI's names. The last four are final."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"  # its requests are being cancelled
    FINALIZING = "finalizing"  # its files are being written
    FAILED = "failed"  # its input file is not valid; nothing ran
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


class BatchStop(StrEnum):
    """Reason why a batch sends no more requests."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class BatchFile:
    """Input or output of batches. Its content is an upload of the tenant."""

    id: str
    tenant: str
    key: str  # of the upload
    name: str
    purpose: str
    size: int  # bytes
    created_at: datetime
    expires_at: datetime | None = None
    batch: str | None = None  # that wrote it


@dataclass(frozen=True, slots=True)
class NewBatch:
    """Batch before it is stored."""

    id: str
    tenant: str
    key_id: str  # of the API key with whose rights its requests are submitted
    origin: str  # for URLs in its results
    endpoint: str  # path of the call that its lines make
    input_file: str
    input_key: str  # of the upload
    window_s: float
    metadata: Mapping[str, str] | None = None
    keep_outputs_s: float | None = None  # None: the tenant's retention
    webhook: str | None = None  # URL, checked
    max_cost: str | None = None  # of all lines together, such as ``5 EUR``
    headers: Mapping[str, str] | None = None  # of the call; they hold for each line


@dataclass(frozen=True, slots=True)
class BatchError:
    """Reason why an input file was refused. ``line``: from 1; None: the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Batch as it is stored. Times are the database's clock, UTC."""

    id: str
    tenant: str
    key_id: str
    origin: str
    endpoint: str
    input_file: str
    input_key: str
    status: BatchStatus
    created_at: datetime
    expires_at: datetime
    read_at: datetime = field(compare=False)
    metadata: Mapping[str, str] | None = None
    keep_outputs_s: float | None = None
    stop: BatchStop | None = None
    errors: Sequence[BatchError] = ()
    total: int = 0  # lines; 0 before they are validated
    completed: int = 0
    failed: int = 0
    output_file: str | None = None
    error_file: str | None = None
    in_progress_at: datetime | None = None
    cancelling_at: datetime | None = None
    finalizing_at: datetime | None = None
    ended_at: datetime | None = None
    max_cost: str | None = None
    headers: Mapping[str, str] | None = None

    @property
    def age_s(self) -> float:
        return (self.read_at - self.created_at).total_seconds()

    @property
    def left_s(self) -> float:
        """Seconds until it expires."""
        return (self.expires_at - self.read_at).total_seconds()


@dataclass(frozen=True, slots=True)
class BatchLine:
    """Line of an input file that makes one request. ``start`` and ``size``: its bytes."""

    line: int  # from 1
    custom_id: str
    start: int
    size: int
    request_id: str | None = None  # None: not chosen yet


@dataclass(frozen=True, slots=True)
class LineResult:
    """End of a line. ``response`` and ``error``: as in OpenAI's files. ``inlined``: keys of files
    whose content the written result has as base64, in the order of its images."""

    line: int
    succeeded: bool
    response: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    inlined: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class EndedLine:
    """Result of a line with the ids that its written result has."""

    custom_id: str
    request_id: str | None
    result: LineResult


class BatchFiles(Protocol):
    """Files of batches. A file whose upload is deleted is gone too."""

    async def add(
        self, file_id: str, tenant: str, key: str, name: str, purpose: str, batch: str | None = None
    ) -> BatchFile | None:
        """Record a file whose upload is complete; None: the upload is gone. ``batch``: that wrote
        the file."""
        ...

    async def get(
        self, tenant: str, file_id: str, batches_of: str | None = None
    ) -> BatchFile | None:
        """``batches_of``: API key whose batches are the only ones that may have written it; None:
        any."""
        ...

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        after_at: datetime | None = None,
        limit: int = 20,
        ascending: bool = False,
        batches_of: str | None = None,
    ) -> Sequence[BatchFile]:
        """Files in the order of their creation. ``after``: id of the last file of the previous
        page; an unknown id gives an empty page. ``after_at``: its creation, with which it may
        have been deleted meanwhile. ``batches_of``: as in ``get``."""
        ...

    async def written_by(self, batch: str) -> Sequence[BatchFile]:
        """Files that a batch has written."""
        ...


class BatchWork(Protocol):
    """Calls of the worker that runs batches. Each may be repeated after a crash, and made by two
    workers at once."""

    async def active(self, most: int) -> Sequence[StoredBatch]:
        """Batches that have not ended, oldest first."""
        ...

    async def find(self, batch: str) -> StoredBatch | None: ...

    async def expire(self) -> None:
        """Stop batches whose time is over. Those that are being validated end at once."""
        ...

    async def add_lines(self, batch: str, lines: Sequence[BatchLine]) -> None:
        """Store lines of a batch that is being validated. Lines that are stored are left alone."""
        ...

    async def begin(self, batch: str, total: int) -> bool:
        """End the validation: requests may be sent. False: the batch is in another status."""
        ...

    async def refuse(self, batch: str, errors: Sequence[BatchError]) -> None:
        """End a batch that is being validated as failed."""
        ...

    async def in_flight(self, batch: str) -> int:
        """Number of lines that were taken and have not ended."""
        ...

    async def unsent(self, batch: str, most: int) -> Sequence[BatchLine]:
        """Lines with an id for which no submit was confirmed, as after a crash."""
        ...

    async def take(self, batch: str, request_ids: Sequence[str]) -> Sequence[BatchLine]:
        """Give the next waiting lines these ids, one each. Committed before anything is submitted,
        so that a worker after a crash submits the same ids. None once the batch is stopped."""
        ...

    async def mark_sent(self, batch: str, lines: Sequence[int]) -> None:
        """Confirm that the requests of these lines are stored."""
        ...

    async def put_back(self, batch: str, lines: Sequence[int]) -> None:
        """Let lines wait again whose requests are certainly not stored."""
        ...

    async def ended_lines(self, batch: str, most: int) -> Sequence[BatchLine]:
        """Sent lines whose request has ended or was deleted."""
        ...

    async def running(self, batch: str, most: int) -> Sequence[BatchLine]:
        """Sent lines whose request has not ended."""
        ...

    async def settle(self, batch: str, results: Sequence[LineResult]) -> None:
        """Record ends of lines, and count each once."""
        ...

    async def drop_waiting(self, batch: str, most: int, error: Mapping[str, Any]) -> int:
        """End waiting lines of a stopped batch with ``error``; returns their number."""
        ...

    async def finalize(self, batch: str) -> bool:
        """Begin to write the files, if all lines have ended."""
        ...

    async def results(
        self, batch: str, *, succeeded: bool, after: int, most: int
    ) -> Sequence[EndedLine]:
        """Results after a line number, in the order of the lines."""
        ...

    async def finish(self, batch: str, output_file: str | None, error_file: str | None) -> bool:
        """End a batch whose files are written. Its lines are deleted, and its webhook is due.
        False: it had ended already."""
        ...

    async def forget_lines(self) -> None:
        """Delete lines of batches that have ended, a bounded number. Call it periodically: a batch
        that was stopped while it was validated leaves some."""
        ...


class BatchBook(Protocol):
    """Batches of all tenants. Methods raise ``DatabaseUnavailable``."""

    @property
    def files(self) -> BatchFiles: ...

    @property
    def work(self) -> BatchWork: ...

    async def create(self, new: NewBatch, most_active: int) -> StoredBatch:
        """Store a batch. ``Overloaded``: the tenant has ``most_active`` batches that have not
        ended."""
        ...

    async def get(self, tenant: str, batch: str) -> StoredBatch | None: ...

    async def page(
        self,
        tenant: str,
        after: str | None = None,
        limit: int = 20,
        *,
        after_at: datetime | None = None,
    ) -> Sequence[StoredBatch]:
        """Batches, newest first. ``after``: id of the last one of the previous page; an unknown id
        gives an empty page. ``after_at``: its creation, with which it may have been deleted
        meanwhile."""
        ...

    async def cancel(self, tenant: str, batch: str, actor: Actor) -> StoredBatch | None:
        """Stop a batch, unless it is stopped or has ended. None: the tenant has none with this id.
        Written to the audit log."""
        ...
