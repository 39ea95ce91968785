"""Files that clients bring: into storage, and into the book of what is there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    InvalidInput,
    NotFound,
    StorageUnavailable,
    TooLarge,
)
from serve_app.domain.ports import Storage
from serve_app.domain.upload import KeptFile, Part, Upload, UploadBook
from serve_app.storage.keys import upload_key, upload_type
from serve_app.storage.parts import missing_part, no_parts

MAX_PART_BYTES = 512 * 2**20
"""fal's clients send 10 MiB."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a client says of the file that it wants to bring."""

    tenant: str
    media_type: str
    file_name: str = ""
    keep_s: float | None = None  # None: as the tenant's retention


class Uploads:
    """Nothing gets into storage before it is in the book, and what breaks off is deleted: at once,
    or, when this process dies, by whoever looks through the book later."""

    def __init__(
        self,
        book: UploadBook,
        storage: Storage,
        max_bytes: int,
        token: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self.max_bytes = max_bytes
        self.too_large = (
            f"The file is larger than the {max_bytes} bytes allowed (DARKROOM_MAX_UPLOAD_BYTES)."
        )
        self._book = book
        self._storage = storage
        self._token = token

    async def offer(self, new: NewUpload, *, in_parts: bool = False) -> Upload:
        """A place for a file that comes later, at once or in parts."""
        upload = self._made(new)
        if in_parts:
            parts_id = await self._storage.begin_parts(upload.key, upload.media_type)
            upload = replace(upload, parts_id=parts_id)
        await self._book.open(upload)
        return upload

    async def take(self, new: NewUpload, chunks: AsyncIterator[bytes]) -> Upload:
        """A file that comes now. One that breaks off leaves nothing."""
        upload = await self.offer(new)
        try:
            return await self.receive(upload, chunks)
        except BaseException:
            # Deleted within seconds by whoever looks through the book, or else in some hours.
            with contextlib.suppress(DarkroomError):
                await asyncio.shield(self._book.give_up(upload.key))
            raise

    async def find(self, key: str, upload_id: str, *, in_parts: bool = False) -> Upload:
        """``NotFound`` unless it was offered, so, and still is."""
        upload = await self._book.find(key, upload_id)
        if upload is None or in_parts != (upload.parts_id is not None):
            raise no_parts()
        return upload

    async def receive(self, upload: Upload, chunks: AsyncIterator[bytes]) -> Upload:
        """The content of one that was offered. ``Forbidden``: it has other content already."""
        size = await self._storage.put(upload.key, upload.media_type, chunks)
        return await self._whole(upload, size)

    async def receive_part(self, upload: Upload, number: int, chunks: AsyncIterator[bytes]) -> Part:
        """``TooLarge``: with this one its parts are too much, and the upload is given up."""
        parts_id = _parts_id(upload)
        part = await self._storage.put_part(upload.key, parts_id, number, chunks)
        size = await self._book.add_part(upload.key, part)
        if size is None:
            await self._storage.drop_parts(upload.key, parts_id)
            raise no_parts()
        if size > self.max_bytes:
            await self._book.give_up(upload.key)
            raise TooLarge(self.too_large)
        return part

    async def join(self, upload: Upload, etags: Mapping[int, str]) -> Upload:
        """The file of these parts. ``InvalidInput``: one of them is not there."""
        if upload.size is not None:
            return upload  # a repeat of a call whose answer got lost
        try:
            size = await self._joined(upload, etags)
        except (InvalidInput, NotFound):
            # By another call meanwhile, or by one before that did not get to the book.
            try:
                size = await self._storage.size(upload.key)
            except ArtifactNotFound:
                size = None
            if size is None:
                raise
        return await self._whole(upload, size)

    async def _joined(self, upload: Upload, etags: Mapping[int, str]) -> int:
        there = await self._book.parts(upload.key)
        for number, etag in etags.items():
            if number not in there or there[number].etag != etag:
                raise missing_part(number)
        return await self._storage.join_parts(upload.key, _parts_id(upload), etags)

    async def kept(self, tenant: str, key: str) -> KeptFile:
        """One of the tenant's; ``ArtifactNotFound``."""
        found = await self._book.kept(tenant, key)
        if found is None:
            raise ArtifactNotFound("There is no such upload.")
        return found

    async def page(
        self, tenant: str, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[KeptFile]:
        """As ``UploadBook.page``."""
        return await self._book.page(tenant, before=before, limit=limit)

    async def delete(self, tenant: str, key: str) -> bool:
        """One of the tenant's, by hand. False: storage is away, and it is deleted as soon as it is
        not. ``ArtifactNotFound``."""
        if not await self._book.disown(tenant, key):
            raise ArtifactNotFound("There is no such upload.")
        try:
            # Parts, and what else there is of it, go with the next round of the disposal.
            await self._storage.delete([key])
        except StorageUnavailable:
            return False
        return True

    async def _whole(self, upload: Upload, size: int) -> Upload:
        if not await self._book.finish(upload.key, size):
            await self._storage.delete([upload.key])
            raise NotFound("The upload took too long and was given up: begin a new one.")
        return replace(upload, size=size)

    def _made(self, new: NewUpload) -> Upload:
        media_type = upload_type(new.media_type, new.file_name)
        return Upload(
            key=upload_key(media_type, new.file_name),
            id=self._token(16),
            tenant=new.tenant,
            media_type=media_type,
            keep_s=new.keep_s,
        )


def _parts_id(upload: Upload) -> str:
    if upload.parts_id is None:
        raise no_parts()
    return upload.parts_id
