"""Artifacts in a bucket."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import ArtifactNotFound, Forbidden, StorageUnavailable, TooLarge
from serve_app.domain.upload import Part
from serve_app.storage import keys as key_names
from serve_app.storage.s3 import troubles
from serve_app.storage.s3.clients import S3Clients, StaticKey
from serve_app.storage.s3.download import S3Download
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.parts import S3Parts
from serve_app.storage.s3.upload import PART_BYTES, AlreadyThere, S3Upload, md5

READING = "s3:GetObject (and s3:ListBucket, to be told what is not there)"

LINK_CACHING = "private, max-age=31536000, immutable"


class S3Storage:
    """Implements ``domain.ports.Storage`` over one bucket. ``start`` it before use.

    An object is there whole or not at all, and never changes: a second ``put`` of the same key with
    the same bytes is no error, with others it is ``Forbidden``. Against another ingress that holds
    only with conditional writes. Nothing blocks the event loop, and no object is held whole: an
    upload takes two parts of memory, a download a chunk.
    """

    tickets = None  # replicas upload to the store itself

    def __init__(
        self,
        location: S3Location,
        key: StaticKey | None,
        max_bytes: int | None = None,
        spool: Path | None = None,
    ) -> None:
        """``spool``: see ``S3Parts``."""
        self.location = location
        self._clients = S3Clients(location, key)
        self._in_parts = S3Parts(self._clients, location.bucket, spool)
        self._max_bytes = max_bytes
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """``Misconfigured`` without credentials. Whether the bucket is there, ``check`` says."""
        await self._clients.start()

    async def aclose(self) -> None:
        await self._clients.aclose()

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        """A presigned PUT, and a presigned DELETE. S3 cannot be told a largest size beforehand:
        ``max_bytes`` is kept by the replica."""
        named = self._named(key)
        put = {**named, "ContentType": media_type}
        headers = [("content-type", media_type)]
        if self.location.conditional_writes:
            put["IfNoneMatch"] = "*"
            headers.append(("if-none-match", "*"))
        signer, valid = self._clients.uploads, int(valid_s)
        return UploadTicket(
            key=key,
            url=signer.generate_presigned_url("put_object", put, valid),
            media_type=media_type,
            max_bytes=max_bytes,
            headers=tuple(headers),
            delete_url=signer.generate_presigned_url("delete_object", named, valid),
            takes_md5=True,
        )

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        if not self.location.redirect:
            return None
        return self.presigned_get(key, media_type, disposition, valid_s)

    def presigned_get(self, key: str, media_type: str, disposition: str, valid_s: float) -> str:
        """For whoever has it, at the endpoint that clients reach; works for no other method."""
        wanted = {
            **self._named(key),
            "ResponseContentType": media_type,
            "ResponseContentDisposition": disposition,
            "ResponseCacheControl": LINK_CACHING,
        }
        return self._clients.downloads.generate_presigned_url("get_object", wanted, int(valid_s))

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the whole or nothing; returns bytes. ``StorageFull``, ``StorageUnavailable``."""
        name = self._named(key)["Key"]
        # Where the store knows no conditions, at least this ingress does not race with itself.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if await self._exists(key):
                size, sha256 = await _digest(self._parts(chunks))
                await self._refuse_other_content(key, sha256)
                return size
            upload = S3Upload(self._clients.calls, self.location, name, media_type)
            try:
                return await self._send(upload, chunks)
            except AlreadyThere:
                await self._refuse_other_content(key, upload.sha256)
                return await self.size(key)
            finally:
                # Also when the caller was cancelled in mid-upload: no parts stay.
                await asyncio.shield(
                    self._clients.in_thread("s3:AbortMultipartUpload", upload.discard)
                )

    async def begin_parts(self, key: str, media_type: str) -> str:
        return await self._in_parts.begin(self._name(key), media_type)

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> Part:
        return await self._in_parts.put(self._name(key), parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        await self._in_parts.join(self._name(key), parts_id, etags)
        return await self.size(key)

    async def drop_parts(self, key: str, parts_id: str) -> None:
        await self._in_parts.drop(self._name(key), parts_id)

    async def size(self, key: str) -> int:
        answer = await self._clients.call(READING, "head_object", Key=self._named(key)["Key"])
        return int(answer["ContentLength"])

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        name = self._named(key)["Key"]
        download = S3Download(self._clients.calls, self.location, name, start, end)
        try:
            while chunk := await self._clients.in_thread("s3:GetObject", download.read):
                yield chunk
        finally:
            await asyncio.shield(self._clients.in_thread("s3:GetObject", download.close))

    async def delete(self, keys: Sequence[str]) -> None:
        # One by one: not every store knows how to delete several in one call.
        names = [self.location.name(key) for key in keys if key_names.valid(key)]
        await asyncio.gather(
            *(self._clients.call("s3:DeleteObject", "delete_object", Key=name) for name in names)
        )

    async def check(self) -> None:
        """Gives up within some seconds, and says what is wrong."""
        named = self._named(f"check/{secrets.token_hex(8)}.bin")
        content = secrets.token_bytes(32)
        client = self._clients.checks
        run = self._clients.check
        await run("s3:PutObject", client.put_object, **named, Body=content, ContentMD5=md5(content))
        try:
            answer = await run("s3:GetObject", client.get_object, **named)
            back = await run("s3:GetObject", answer["Body"].read)
        finally:
            await run("s3:DeleteObject", client.delete_object, **named)
        if back != content:
            raise StorageUnavailable(
                f"{self.location.there} gave back other bytes than were written."
            )

    async def bucket_region(self) -> str | None:
        """Where the bucket is, if the store tells. ``StorageUnavailable`` when it is not there."""
        try:
            answer = await self._clients.call("s3:ListBucket", "head_bucket")
        except ArtifactNotFound:
            raise troubles.no_bucket(self.location) from None
        headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
        return headers.get("x-amz-bucket-region")

    async def _send(self, upload: S3Upload, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        async for part in self._parts(chunks):
            size += len(part)
            await self._clients.in_thread("s3:PutObject", upload.add, part)
        await self._clients.in_thread("s3:PutObject", upload.complete)
        return size

    async def _parts(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes in pieces of ``PART_BYTES``; ``TooLarge`` as soon as it is known."""
        pending, size = bytearray(), 0
        async for chunk in chunks:
            size += len(chunk)
            if self._max_bytes is not None and size > self._max_bytes:
                raise TooLarge(f"The artifact is larger than the {self._max_bytes} bytes allowed.")
            pending += chunk
            while len(pending) >= PART_BYTES:
                yield bytes(pending[:PART_BYTES])
                del pending[:PART_BYTES]
        if pending:
            yield bytes(pending)

    async def _exists(self, key: str) -> bool:
        try:
            await self.size(key)
        except ArtifactNotFound:
            return False
        return True

    async def _refuse_other_content(self, key: str, sha256: bytes) -> None:
        _, there = await _digest(self.read(key, 0, await self.size(key)))
        if there != sha256:
            raise Forbidden("This artifact was already uploaded with other content.")

    def _name(self, key: str) -> str:
        return str(self._named(key)["Key"])

    def _named(self, key: str) -> dict[str, Any]:
        if not key_names.valid(key):
            raise ArtifactNotFound("No such artifact.")
        return {"Bucket": self.location.bucket, "Key": self.location.name(key)}


async def _digest(chunks: AsyncIterator[bytes]) -> tuple[int, bytes]:
    size, digest = 0, hashlib.sha256()
    async for chunk in chunks:
        size += len(chunk)
        await asyncio.to_thread(digest.update, chunk)
    return size, digest.digest()
