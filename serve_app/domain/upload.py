"""Files that clients upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor


@dataclass(frozen=True, slots=True)
class UploadPart:
    """Stored part of a multipart upload. ``etag`` identifies its content, without the quotes that
    it has in HTTP."""

    number: int  # from 1
    etag: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """File that a client uploads.

    ``id`` has 128 random bits: knowing it gives the right to send the content. ``parts_id`` is the
    storage's id of a multipart upload; None: the file comes in one piece.
    """

    key: str  # in storage
    id: str
    tenant: str
    media_type: str
    keep_s: float | None = None  # from its arrival; None: the tenant's retention
    parts_id: str | None = None
    size: int | None = None  # bytes; None: incomplete
    key_id: str = ""  # key that asked for it, with which the right to send it ends
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])  # not read with it


@dataclass(frozen=True, slots=True)
class KeptFile:
    """Complete upload, as its tenant sees it."""

    key: str
    media_type: str
    size: int  # bytes
    created_at: datetime
    expires_at: datetime | None  # None: it does not expire
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what its client says


@dataclass(frozen=True, slots=True)
class UploadUse:
    """What a tenant's uploads take. Parts of uploads that are not complete count."""

    size: int  # bytes
    open: int  # uploads that were begun and not completed


class UploadBook(Protocol):
    """Registry of uploads. Every method may raise ``DatabaseUnavailable``.

    An upload that is opened but not completed is considered abandoned after some time without a
    call about it.
    """

    async def open(self, upload: Upload) -> None:
        """Register an upload before anything of it is stored, so that a crash leaves no orphan."""
        ...

    async def usage(self, tenant: str) -> UploadUse:
        """What the tenant's uploads take now."""
        ...

    async def totals(self, tenants: Sequence[str]) -> Mapping[str, int]:
        """Bytes of complete uploads, by tenant. Those without any may be left out."""
        ...

    async def find(self, key: str, upload_id: str) -> Upload | None:
        """Upload to which a client is about to send content. None if it does not exist any more."""
        ...

    async def add_part(self, key: str, part: UploadPart) -> int | None:
        """Record a part; it replaces an earlier one of the same number. Returns the total size of
        the parts in bytes. None if the upload does not accept parts any more."""
        ...

    async def parts(self, key: str) -> Mapping[int, UploadPart]:
        """Stored parts by number."""
        ...

    async def finish(self, key: str, size: int) -> bool:
        """Mark the upload as complete. False if it was given up in between: then its object must be
        deleted. Idempotent."""
        ...

    async def abandon(self, key: str) -> None:
        """Mark everything of this upload for deletion."""
        ...

    async def delete(
        self, tenant: str, key: str, actor: Actor | None = None, batches_of: str | None = None
    ) -> bool:
        """Delete an upload for its tenant. False if the tenant has no such upload. ``actor``: who
        asked for it, for the audit log. ``batches_of``: as in ``find_file``."""
        ...

    async def find_file(
        self, tenant: str, key: str, batches_of: str | None = None
    ) -> KeptFile | None:
        """A complete upload of the tenant that is not marked for deletion, or None. ``batches_of``:
        API key whose batches are the only ones of which it may be a result; None: of any."""
        ...

    async def page(
        self,
        tenant: str,
        *,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
        batches_of: str | None = None,
    ) -> Sequence[KeptFile]:
        """Uploads of the tenant, latest first. ``before``: time and key of the last row of the
        previous page. ``batches_of``: as in ``find_file``."""
        ...

    async def read_by(self, tenant: str, key: str) -> str | None:
        """Id of a batch that has not ended and reads this upload, or None."""
        ...

    async def mark_aged(self) -> None:
        """Mark uploads for deletion whose age exceeds the tenant's retention. Call it periodically:
        it marks a bounded number, and goes on with the others."""
        ...

    async def take_unwanted(self, most: int) -> Sequence[Upload]:
        """Uploads to delete now: abandoned, given up or expired. Those that are not forgotten are
        returned again some minutes later."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove the records: nothing is left of these uploads in storage."""
        ...
