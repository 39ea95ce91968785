"""The book of uploads in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.domain.upload import KeptFile, Upload, UploadPart, UploadUse
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.uploads import ABANDONED_S, AGAIN_S
from tests.fakes.batches import FakeBatches
from tests.fakes.keyring import Note


@dataclass
class _Entry:
    upload: Upload
    created_at: float  # on the clock, like the other one
    due_at: float | None
    since: datetime
    unwanted: bool = False
    parts: dict[int, UploadPart] = field(default_factory=dict[int, UploadPart])


class FakeUploads:
    def __init__(
        self, clock: Clock, retention: Retention | None = None, note: Note = lambda *_: None
    ) -> None:
        """``note`` writes the audit."""
        self._note = note
        self._clock = clock
        self._retention = retention or Retention()
        self._entries: dict[str, _Entry] = {}
        self.batches: FakeBatches | None = None  # that read and write uploads

    async def open(self, upload: Upload) -> None:
        assert upload.key not in self._entries
        now = self._clock.monotonic()
        self._entries[upload.key] = _Entry(upload, now, now + ABANDONED_S, self._clock.now())

    async def usage(self, tenant: str) -> UploadUse:
        own = [
            entry
            for entry in self._entries.values()
            if entry.upload.tenant == tenant and not entry.unwanted
        ]
        parts = sum(part.size for entry in own for part in entry.parts.values())
        return UploadUse(
            sum(entry.upload.size or 0 for entry in own) + parts,
            sum(entry.upload.size is None for entry in own),
        )

    async def totals(self, tenants: Sequence[str]) -> Mapping[str, int]:
        totals: dict[str, int] = {}
        for entry in self._entries.values():
            if (
                entry.upload.tenant in tenants
                and not entry.unwanted
                and entry.upload.size is not None
            ):
                totals[entry.upload.tenant] = totals.get(entry.upload.tenant, 0) + entry.upload.size
        return totals

    def list_complete(self) -> Sequence[Upload]:
        """Uploads that are complete."""
        uploads = (entry.upload for entry in self._entries.values() if not entry.unwanted)
        return [upload for upload in uploads if upload.size is not None]

    async def find(self, key: str, upload_id: str) -> Upload | None:
        entry = self._entries.get(key)
        if entry is None or entry.unwanted or entry.upload.id != upload_id:
            return None
        if entry.upload.size is None:
            entry.due_at = self._clock.monotonic() + ABANDONED_S
        return entry.upload

    async def add_part(self, key: str, part: UploadPart) -> int | None:
        entry = self._entries.get(key)
        if entry is None or entry.unwanted or entry.upload.size is not None:
            return None
        entry.parts[part.number] = part
        return sum(piece.size for piece in entry.parts.values())

    async def parts(self, key: str) -> Mapping[int, UploadPart]:
        entry = self._entries.get(key)
        return dict(entry.parts) if entry else {}

    async def finish(self, key: str, size: int) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.unwanted:
            return False
        if entry.upload.size is None:
            keep_s = entry.upload.keep_s
            entry.due_at = None if keep_s is None else self._clock.monotonic() + keep_s
        entry.upload = replace(entry.upload, size=size)
        entry.parts.clear()
        return True

    async def abandon(self, key: str) -> None:
        if key in self._entries:
            self._entries[key].unwanted = True
            self._entries[key].due_at = self._clock.monotonic()

    async def delete(
        self, tenant: str, key: str, actor: Actor | None = None, batches_of: str | None = None
    ) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.unwanted or entry.upload.tenant != tenant:
            return False
        if not self._shown(key, batches_of):
            return False
        await self.abandon(key)
        if actor is not None:
            self._note(actor, "upload.delete", key, {"tenant": tenant})
        return True

    async def find_file(
        self, tenant: str, key: str, batches_of: str | None = None
    ) -> KeptFile | None:
        return next((file for file in self._kept(tenant, batches_of) if file.key == key), None)

    async def page(
        self,
        tenant: str,
        *,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
        batches_of: str | None = None,
    ) -> Sequence[KeptFile]:
        files = sorted(self._kept(tenant, batches_of), key=_order, reverse=True)
        return [file for file in files if before is None or _order(file) < before][:limit]

    async def read_by(self, tenant: str, key: str) -> str | None:
        return None if self.batches is None else self.batches.reads(tenant, key)

    def _shown(self, key: str, batches_of: str | None) -> bool:
        return self.batches is None or self.batches.shows(key, batches_of)

    def _kept(self, tenant: str, batches_of: str | None) -> Sequence[KeptFile]:
        age_s = self._retention.upload_age_s(tenant)
        return [
            KeptFile(
                *(key, entry.upload.media_type, entry.upload.size, entry.since, expires_at),
                entry.upload.metadata,
            )
            for key, entry in self._entries.items()
            if entry.upload.tenant == tenant
            and not entry.unwanted
            and entry.upload.size is not None
            if self._shown(key, batches_of)
            for keep_s in [age_s if entry.upload.keep_s is None else entry.upload.keep_s]
            for expires_at in [None if keep_s is None else entry.since + timedelta(seconds=keep_s)]
        ]

    async def mark_aged(self) -> None:
        for key, entry in self._entries.items():
            age_s = self._retention.upload_age_s(entry.upload.tenant)
            if (
                age_s is not None
                and entry.upload.size is not None
                and entry.created_at < self._clock.monotonic() - age_s
            ):
                await self.abandon(key)

    async def take_unwanted(self, most: int) -> Sequence[Upload]:
        now = self._clock.monotonic()
        due = [
            (stored.due_at, key)
            for key, stored in self._entries.items()
            if stored.due_at is not None and stored.due_at <= now
        ]
        taken = [self._entries[key] for _, key in sorted(due)[:most]]
        for entry in taken:
            entry.unwanted, entry.due_at = True, now + AGAIN_S
        return [stored.upload for stored in taken]

    async def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key in self._entries and self._entries[key].unwanted:
                del self._entries[key]


def _order(file: KeptFile) -> tuple[datetime, str]:
    return file.created_at, file.key
