"""Files that clients bring, on their way in and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Part:
    """A stored piece of an upload in parts. ``etag`` tells its content from another's; without the
    quotes that it has in HTTP."""

    number: int  # from 1
    etag: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a client brings.

    ``id`` has 128 random bits: to know it is the right to send the content. ``parts_id`` is the
    storage's own name of an upload in parts; None: it comes at once.
    """

    key: str  # in storage
    id: str
    tenant: str
    media_type: str
    keep_s: float | None = None  # deleted so long after it came; None: as the tenant's retention
    parts_id: str | None = None
    size: int | None = None  # bytes; None: it is not there yet


@dataclass(frozen=True, slots=True)
class KeptFile:
    """An upload that is whole, as its tenant looks at it."""

    key: str
    media_type: str
    size: int  # bytes
    created_at: datetime
    expires_at: datetime | None  # None: it is kept


class UploadBook(Protocol):
    """Which files clients have brought, or are about to. Every method may raise
    ``DatabaseUnavailable``.

    What is opened and does not become whole is taken for abandoned after a while without a call
    about it.
    """

    async def open(self, upload: Upload) -> None:
        """Before anything of it is stored: whatever dies, what lies in storage is in the book."""
        ...

    async def find(self, key: str, upload_id: str) -> Upload | None:
        """For whoever is about to send some of it. None: there is none such, or no more."""
        ...

    async def add_part(self, key: str, part: Part) -> int | None:
        """Bytes of all its parts now, of the same number only the last one. None: no more parts
        are taken."""
        ...

    async def parts(self, key: str) -> Mapping[int, Part]:
        """Those that were stored, by number."""
        ...

    async def finish(self, key: str, size: int) -> bool:
        """It is whole. False: it was given up meanwhile, and its object is to be deleted. Doing it
        twice is no error."""
        ...

    async def give_up(self, key: str) -> None:
        """Whatever there is of it is to be deleted."""
        ...

    async def disown(self, tenant: str, key: str) -> bool:
        """The same by hand, of one of the tenant's; False: it has none such."""
        ...

    async def kept(self, tenant: str, key: str) -> KeptFile | None:
        """One of the tenant's that is whole and wanted."""
        ...

    async def page(
        self, tenant: str, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[KeptFile]:
        """Those of the tenant, the latest first; ``before``: time and key of the last one of the
        page before."""
        ...

    async def mark_aged(self) -> None:
        """Give up what was kept for as long as its tenant's retention says."""
        ...

    async def take_unwanted(self, most: int) -> Sequence[Upload]:
        """What is to be deleted now: abandoned, given up, or kept long enough. Unless they are
        forgotten they come again some minutes later."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Nothing is left of them in storage."""
        ...
