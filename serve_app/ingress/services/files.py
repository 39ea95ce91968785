"""Files of this installation: storage, and uploads of clients."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry

from serve_app.domain.artifact import Lifecycles
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    InvalidInput,
    NotFound,
    Overloaded,
    RequestActive,
    StorageFull,
    StorageUnavailable,
    TooLarge,
)
from serve_app.domain.ports import Storage
from serve_app.domain.upload import KeptFile, Upload, UploadBook, UploadPart, UploadUse
from serve_app.ingress.services.file_access import AccessRules, FileAccessControl
from serve_app.settings import NO_LIMITS, Config, TenantLimits
from serve_app.settings.live import LiveValues
from serve_app.storage.keys import missing_part, upload_key, upload_not_found, upload_type
from serve_app.storage.tickets import TicketSigner
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.scopes import Caller

MAX_PART_BYTES = 512 * 2**20
"""Largest part. fal's clients send parts of 10 MiB."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """Client's description of a file to upload."""

    tenant: str
    media_type: str
    file_name: str = ""
    keep_s: float | None = None  # None: the tenant's retention
    acl: AccessRules | None = None  # None: the tenant's default
    key_id: str = ""  # as of ``Upload``
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


OPEN_RETRY_S = 60.0
"""When a tenant with too many open uploads may try again: they are completed, or given up later."""


@dataclass(slots=True)
class UploadLimits(LiveValues):
    """Limits of files that clients upload; see the settings of the same names. All but
    ``max_bytes`` may change while the ingress runs."""

    max_bytes: int  # of one file
    max_bytes_per_tenant: int
    max_open_per_tenant: int
    tenants: Mapping[str, TenantLimits]

    @classmethod
    def of(cls, config: Config) -> UploadLimits:
        return cls(
            max_bytes=config.limits.max_upload_bytes,
            max_bytes_per_tenant=config.limits.max_uploads_bytes_per_tenant,
            max_open_per_tenant=config.limits.max_open_uploads_per_tenant,
            tenants=config.queue.tenant_limits,
        )

    def bytes_of_tenant(self, tenant: str) -> int:
        return self.tenants.get(tenant, NO_LIMITS).max_uploads_bytes or self.max_bytes_per_tenant

    def location_of(self, tenant: str) -> str:
        """Storage location of the tenant's new files; empty: the installation's own storage."""
        return self.tenants.get(tenant, NO_LIMITS).storage or ""


class Uploads:
    """Uploads of this installation.

    The bytes of a tenant's files are limited: before each file or part, and while it arrives.
    Files that arrive at the same moment are each held against what was stored before them.

    A file is recorded in the book before it gets into storage. An interrupted upload is deleted: at
    once, or if this process dies, later by the cleanup that reads the book.
    """

    def __init__(
        self,
        book: UploadBook,
        storage: Storage,
        limits: UploadLimits,
        access: FileAccessControl,
        token: Callable[[int], str] = secrets.token_hex,
        metrics: Metrics | None = None,
    ) -> None:
        """``metrics``: None for none that are read."""
        self._access = access
        self.max_bytes = limits.max_bytes
        self.too_large = (
            f"The file exceeds the limit of {limits.max_bytes} bytes (DARKROOM_MAX_UPLOAD_BYTES)."
        )
        self._limits = limits
        self._book = book
        self._storage = storage
        self._token = token
        self._metrics = metrics or Metrics(CollectorRegistry())

    async def offer(self, new: NewUpload, *, in_parts: bool = False) -> Upload:
        """Record a file that is uploaded later, in one call or in parts.

        Raises ``StorageFull`` if the tenant's files take all the bytes that they may, and
        ``Overloaded`` if it has too many open uploads.
        """
        used = await self._book.usage(new.tenant)
        self._remaining_bytes(new.tenant, used)
        if used.open >= self._limits.max_open_per_tenant:
            raise Overloaded(
                f"{used.open} of your uploads are open, and {self._limits.max_open_per_tenant} may "
                "be (DARKROOM_MAX_OPEN_UPLOADS_PER_TENANT). Complete some. An upload that gets no "
                "call is given up after some hours.",
                OPEN_RETRY_S,
                "open_uploads_limit",
            )
        upload = await self._create_upload(new)
        if in_parts:
            parts_id = await self._storage.begin_parts(upload.key, upload.media_type)
            upload = replace(upload, parts_id=parts_id)
        await self._book.open(upload)
        return upload

    async def take(self, new: NewUpload, chunks: AsyncIterator[bytes]) -> Upload:
        """Store a file from this call. An interrupted upload leaves nothing."""
        upload = await self.offer(new)
        try:
            return await self.receive(upload, chunks)
        except BaseException:
            # The cleanup deletes it within seconds, or if this fails, after some hours.
            with contextlib.suppress(DarkroomError):
                await asyncio.shield(self._book.abandon(upload.key))
            raise

    async def take_whole(self, new: NewUpload, content: bytes) -> Upload:
        """Store a file whose content is in memory. Raises as ``take``."""

        async def at_once() -> AsyncIterator[bytes]:
            yield content

        return await self.take(new, at_once())

    async def write(self, new: NewUpload, chunks: AsyncIterator[bytes]) -> Upload:
        """Store a file that Darkroom makes for the tenant. It counts towards the tenant's bytes,
        and is stored also beyond their limit."""
        upload = await self._create_upload(new)
        await self._book.open(upload)
        try:
            size = await self._storage.put(upload.key, upload.media_type, chunks)
            return await self._finish_upload(upload, size)
        except BaseException:
            with contextlib.suppress(DarkroomError):
                await asyncio.shield(self._book.abandon(upload.key))
            raise

    async def find(self, key: str, upload_id: str, *, in_parts: bool = False) -> Upload:
        """Upload with this key and id. ``NotFound``: there is none, or not of this kind."""
        upload = await self._book.find(key, upload_id)
        if upload is None or in_parts != (upload.parts_id is not None):
            raise upload_not_found()
        return upload

    async def receive(self, upload: Upload, chunks: AsyncIterator[bytes]) -> Upload:
        """Store the content of a recorded file. ``Forbidden``: it already has other content."""
        if upload.size is None:  # otherwise a repeat, which adds nothing
            chunks = await self._limit_chunks(upload.tenant, chunks)
        with self._metrics.uploading("client"):
            size = await self._storage.put(upload.key, upload.media_type, chunks)
        self._metrics.count_uploaded_bytes("client", size)
        return await self._finish_upload(upload, size)

    async def receive_part(
        self, upload: Upload, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        """Store one part. ``TooLarge``: the parts together are too large; the upload is aborted."""
        parts_id = _parts_id(upload)
        capped = await self._limit_chunks(upload.tenant, chunks)
        with self._metrics.uploading("client"):
            part = await self._storage.put_part(upload.key, parts_id, number, capped)
        self._metrics.count_uploaded_bytes("client", part.size)
        size = await self._book.add_part(upload.key, part)
        if size is None:
            await self._storage.drop_parts(upload.key, parts_id)
            raise upload_not_found()
        if size > self.max_bytes:
            await self._book.abandon(upload.key)
            raise TooLarge(self.too_large)
        return part

    async def join(self, upload: Upload, etags: Mapping[int, str]) -> Upload:
        """Join the parts into the file. ``InvalidInput``: a part is missing. ``TooLarge``."""
        if upload.size is not None:
            return upload  # a repeat of a call whose response was lost
        try:
            size = await self._join_parts(upload, etags)
        except (InvalidInput, NotFound):
            # Another call has joined them, now or earlier without recording it in the book.
            try:
                size = await self._storage.size(upload.key)
            except ArtifactNotFound:
                size = None
            if size is None:
                raise
        return await self._finish_upload(upload, size)

    async def _join_parts(self, upload: Upload, etags: Mapping[int, str]) -> int:
        there = await self._book.parts(upload.key)
        for number, etag in etags.items():
            if number not in there or there[number].etag != etag:
                raise missing_part(number)
        if sum(there[number].size for number in etags) > self.max_bytes:
            # A part of another call was recorded, and that call has not given the upload up yet.
            await self._book.abandon(upload.key)
            raise TooLarge(self.too_large)
        return await self._storage.join_parts(upload.key, _parts_id(upload), etags)

    async def sizes(self, tenants: Sequence[str]) -> Mapping[str, int]:
        """Bytes of each tenant's complete files, 0 for one without any."""
        totals = await self._book.totals(tenants)
        return {tenant: totals.get(tenant, 0) for tenant in tenants}

    # A caller that is limited to some endpoints has no results of other keys' batches.

    async def get_file(self, caller: Caller, key: str) -> KeptFile:
        """File of the caller's tenant. ``ArtifactNotFound``."""
        file = await self._book.find_file(caller.tenant, key, caller.batches_of)
        if file is None:
            raise no_upload()
        return file

    async def page(
        self, caller: Caller, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[KeptFile]:
        """Page of the files of the caller's tenant, as ``UploadBook.page``."""
        own = caller.batches_of
        return await self._book.page(caller.tenant, before=before, limit=limit, batches_of=own)

    async def all_of(
        self, tenant: str, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[KeptFile]:
        """Page of all files of a tenant, for an operator."""
        return await self._book.page(tenant, before=before, limit=limit)

    async def delete(self, caller: Caller, key: str, actor: Actor) -> bool:
        """Delete a file of the caller's tenant. False: storage is not available, and the file is
        deleted later. ``ArtifactNotFound``. ``RequestActive``: a batch still reads it."""
        reader = await self._book.read_by(caller.tenant, key)
        if reader is not None:
            raise RequestActive(
                f"The batch {reader} reads this file. Delete it when the batch has ended, or "
                f"cancel the batch: POST /openai/v1/batches/{reader}/cancel."
            )
        if not await self._book.delete(caller.tenant, key, actor, caller.batches_of):
            raise no_upload()
        return await self._try_delete(key)

    async def discard(self, tenant: str, key: str) -> None:
        """Delete a file that Darkroom has made with ``write``, now or later."""
        if await self._book.delete(tenant, key):
            await self._try_delete(key)

    async def _try_delete(self, key: str) -> bool:
        try:
            # Parts and other remains are deleted by the next round of the disposal.
            await self._storage.delete([key])
        except StorageUnavailable:
            return False
        return True

    async def _limit_chunks(
        self, tenant: str, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """``chunks``, until they exceed what the tenant's files may still take."""
        left = self._remaining_bytes(tenant, await self._book.usage(tenant))

        async def cap() -> AsyncIterator[bytes]:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > left:
                    raise self._quota(tenant)
                yield chunk

        return cap()

    def _remaining_bytes(self, tenant: str, used: UploadUse) -> int:
        left = self._limits.bytes_of_tenant(tenant) - used.size
        if left <= 0:
            raise self._quota(tenant)
        return left

    def _quota(self, tenant: str) -> StorageFull:
        most = self._limits.bytes_of_tenant(tenant)
        return StorageFull(
            f"Your uploaded files may take {most} bytes (DARKROOM_MAX_UPLOADS_BYTES_PER_TENANT, or "
            "max_uploads_bytes of the tenant), and this one exceeds that. Delete some: "
            "DELETE /v1/uploads/{key}."
        )

    async def _finish_upload(self, upload: Upload, size: int) -> Upload:
        if not await self._book.finish(upload.key, size):
            await self._storage.delete([upload.key])
            raise NotFound("The upload took too long and was aborted. Start a new one.")
        return replace(upload, size=size)

    async def _create_upload(self, new: NewUpload) -> Upload:
        media_type = upload_type(new.media_type, new.file_name)
        access = self._access.of_new(new.tenant, new.acl)
        access_id = "" if access is None else await self._access.store_rules(access)
        return Upload(
            key=upload_key(
                media_type,
                new.file_name,
                location=self._limits.location_of(new.tenant),
                access=access_id,
            ),
            id=self._token(16),
            tenant=new.tenant,
            media_type=media_type,
            keep_s=new.keep_s,
            key_id=new.key_id,
            metadata=new.metadata,
        )


def no_upload() -> ArtifactNotFound:
    return ArtifactNotFound("There is no such upload.")


def _parts_id(upload: Upload) -> str:
    if upload.parts_id is None:
        raise upload_not_found()
    return upload.parts_id


async def _enough_space() -> None:
    """Check for storage on other machines, whose free space is not known here."""


@dataclass(frozen=True, slots=True)
class Files:
    """Storage of files, and the records about them."""

    storage: Storage
    uploads: Uploads
    access: FileAccessControl
    lifecycles: Lifecycles
    tickets: TicketSigner | None = None  # None: storage takes uploads itself
    # Each raises ``StorageFull``: for submits, for files of clients, for artifacts of replicas.
    check_disk_space: Callable[[], Awaitable[None]] = _enough_space
    check_disk_for_upload: Callable[[], Awaitable[None]] = _enough_space
    check_disk_for_artifact: Callable[[], Awaitable[None]] = _enough_space
