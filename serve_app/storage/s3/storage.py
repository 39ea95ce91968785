"""Artifact storage in an S3 bucket."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from botocore.exceptions import ClientError

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import (
    ArtifactNotFound,
    Forbidden,
    StorageUnavailable,
    TooLarge,
)
from serve_app.domain.upload import UploadPart
from serve_app.storage import keys as key_names
from serve_app.storage.blocking import run_blocking
from serve_app.storage.keys import is_private
from serve_app.storage.listing import FOLDERS, StoredObject
from serve_app.storage.s3 import errors
from serve_app.storage.s3.checksums import Checksum, md5
from serve_app.storage.s3.clients import S3Clients, StaticKey
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.parts import S3Parts
from serve_app.storage.s3.presigning import Presigner
from serve_app.storage.s3.transfer import (
    MAX_BYTES,
    PART_BYTES,
    AlreadyExists,
    S3Download,
    S3Upload,
    check_encryption,
    encryption_parameters,
)

log = logging.getLogger(__name__)

READING = "s3:GetObject (and s3:ListBucket, to detect missing objects)"

MAX_DELETES = 1000  # objects in one DeleteObjects; the limit of S3

LINK_CACHING = "private, max-age=31536000, immutable"
PRIVATE_CACHING = "private, no-store"


class S3Storage:
    """Implementation of ``domain.ports.Storage`` over one bucket. Call ``start`` before use.

    An object exists completely or not at all, and never changes: a second ``put`` of a key with the
    same bytes succeeds, with different bytes it raises ``Forbidden``. Against another ingress
    replica this holds only with conditional writes. Nothing blocks the event loop. No object is
    held in memory: an upload takes two parts of memory, a download one chunk.
    """

    tickets = None  # replicas upload directly to the store

    def __init__(
        self,
        location: S3Location,
        key: StaticKey | None,
        max_bytes: int = MAX_BYTES,
        spool: Path | None = None,
    ) -> None:
        """``spool``: see ``S3Parts``."""
        self.location = location
        self._clients = S3Clients(location, key)
        self._in_parts = S3Parts(self._clients, location, spool)
        self._max_bytes = max_bytes
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Create the clients. Raises ``Misconfigured`` without credentials.

        ``check`` tests whether the bucket exists.
        """
        await self._clients.start()

    async def aclose(self) -> None:
        await self._clients.aclose()

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        """Ticket with a presigned PUT and a presigned DELETE.

        S3 cannot limit the size of a presigned PUT, so the replica enforces ``max_bytes``.
        """
        name = self._name(key)
        headers = [("content-type", media_type)]
        if self.location.conditional_writes:
            headers.append(("if-none-match", "*"))
        if self.location.encryption is not None:
            headers += self.location.encryption.headers()
        signer = _require_open(self._clients.uploads)
        return UploadTicket(
            key=key,
            url=signer.url("PUT", name, valid_s, headers=headers),
            media_type=media_type,
            max_bytes=max_bytes,
            headers=tuple(headers),
            delete_url=signer.url("DELETE", name, valid_s),
            takes_md5=True,
            etag_is_md5=self.location.etag_is_md5,
        )

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        if not self.location.redirect:
            return None
        return self.presigned_get(key, media_type, disposition, valid_s)

    def presigned_get(self, key: str, media_type: str, disposition: str, valid_s: float) -> str:
        """Presigned GET at the endpoint for clients. Anyone who has the URL can use it, for GET
        only."""
        answered = {
            "response-content-type": media_type,
            "response-content-disposition": disposition,
            "response-cache-control": PRIVATE_CACHING if is_private(key) else LINK_CACHING,
        }
        signer = _require_open(self._clients.downloads)
        return signer.url("GET", self._name(key), valid_s, params=answered)

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store all chunks or nothing, and return the size in bytes.

        Raises ``StorageFull`` or ``StorageUnavailable``.
        """
        name = self._bucket_and_key(key)["Key"]
        # If the store has no conditional writes, the lock at least prevents races in this process.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if await self._exists(key):
                size, sha256 = await _digest(self._parts(chunks))
                await self._refuse_other_content(key, sha256)
                return size
            upload = S3Upload(self._clients.calls, self.location, name, media_type)
            try:
                return await self._send(upload, chunks)
            except AlreadyExists:
                await self._refuse_other_content(key, upload.sha256)
                return await self.size(key)
            finally:
                # Runs even if the caller is cancelled during the upload: no parts remain.
                await asyncio.shield(
                    self._clients.in_thread("s3:AbortMultipartUpload", upload.discard)
                )

    async def begin_parts(self, key: str, media_type: str) -> str:
        return await self._in_parts.begin(self._name(key), media_type)

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        return await self._in_parts.put(self._name(key), parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        await self._in_parts.join(self._name(key), parts_id, etags)
        return await self.size(key)

    async def drop_parts(self, key: str, parts_id: str) -> None:
        await self._in_parts.drop(self._name(key), parts_id)

    async def size(self, key: str) -> int:
        answer = await self._clients.call(
            READING, "head_object", Key=self._bucket_and_key(key)["Key"]
        )
        return int(answer["ContentLength"])

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        del most
        return await self.size(key), b""

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        name = self._bucket_and_key(key)["Key"]
        download = S3Download(self._clients.calls, self.location, name, start, end)
        try:
            while chunk := await self._clients.in_thread("s3:GetObject", download.read):
                yield chunk
        finally:
            await asyncio.shield(self._clients.in_thread("s3:GetObject", download.close))

    async def files(self) -> AsyncIterator[StoredObject]:
        """All objects, in the byte order of their keys. Needs s3:ListBucket."""
        start = len(self.location.prefix)
        for folder in FOLDERS:
            page: dict[str, str] = {"Prefix": self.location.name(folder)}
            while True:
                answer = await self._clients.call("s3:ListBucket", "list_objects_v2", **page)
                for entry in answer.get("Contents", ()):
                    yield StoredObject(entry["Key"][start:], entry["Size"], entry["LastModified"])
                if not answer.get("IsTruncated"):
                    break
                page["ContinuationToken"] = answer["NextContinuationToken"]

    async def delete(self, keys: Sequence[str]) -> None:
        names = [self.location.name(key) for key in keys if key_names.valid(key)]
        if self.location.provider.deletes_many and len(names) > 1:
            batches = [names[at : at + MAX_DELETES] for at in range(0, len(names), MAX_DELETES)]
            await asyncio.gather(*(self._delete_many(batch) for batch in batches))
            return
        await asyncio.gather(
            *(self._clients.call("s3:DeleteObject", "delete_object", Key=name) for name in names)
        )

    async def _delete_many(self, names: Sequence[str]) -> None:
        """Delete at most ``MAX_DELETES`` objects. S3 answers 200 also if some remain."""
        objects = {"Objects": [{"Key": name} for name in names], "Quiet": True}
        answer = await self._clients.call("s3:DeleteObject", "delete_objects", Delete=objects)
        remaining = [
            failure for failure in answer.get("Errors", ()) if failure["Code"] != "NoSuchKey"
        ]
        if remaining:
            first = ClientError({"Error": remaining[0]}, "DeleteObjects")
            raise errors.explain(first, self.location, "s3:DeleteObject") from first

    async def check(self) -> None:
        """Write, read and delete a small object with short timeouts. Raises ``DarkroomError``."""
        named = self._bucket_and_key(f"check/{secrets.token_hex(8)}.bin")
        content = secrets.token_bytes(32)
        client = self._clients.checks
        run = self._clients.check
        stored = await run(
            "s3:PutObject",
            client.put_object,
            **named,
            **encryption_parameters(self.location),
            **Checksum(self.location).of(content),
            Body=content,
            ContentMD5=md5(content),
        )
        try:
            check_encryption(self.location, stored)
            answer = await run("s3:GetObject", client.get_object, **named)
            back = await run("s3:GetObject", answer["Body"].read)
        finally:
            await run("s3:DeleteObject", client.delete_object, **named)
        if back != content:
            raise StorageUnavailable(
                f"The bytes read from {self.location.description} differ from those written."
            )

    async def call(self, action: str, operation: str, **parameters: Any) -> Any:
        """Call an operation of boto3's client on the bucket. ``action`` is its name in policies."""
        return await self._clients.call(action, operation, **parameters)

    async def bucket_region(self) -> str | None:
        """Region of the bucket, if the store reports it.

        Raises ``StorageUnavailable`` if the bucket does not exist.
        """
        try:
            answer = await self._clients.call("s3:ListBucket", "head_bucket")
        except ArtifactNotFound:
            raise errors.no_bucket(self.location) from None
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
        """Bytes of ``chunks`` in pieces of ``PART_BYTES``. Raises ``TooLarge`` as early as
        possible."""
        pending, size = bytearray(), 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self._max_bytes:
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
            raise Forbidden("This artifact was already uploaded with different content.")

    def _name(self, key: str) -> str:
        return str(self._bucket_and_key(key)["Key"])

    def _bucket_and_key(self, key: str) -> dict[str, Any]:
        if not key_names.valid(key):
            raise ArtifactNotFound("No such artifact.")
        return {"Bucket": self.location.bucket, "Key": self.location.name(key)}


def _require_open(signer: Presigner | None) -> Presigner:
    if signer is None:
        raise StorageUnavailable("The storage is closed.")
    return signer


async def _digest(chunks: AsyncIterator[bytes]) -> tuple[int, bytes]:
    size, digest = 0, hashlib.sha256()
    async for chunk in chunks:
        size += len(chunk)
        await run_blocking(digest.update, chunk)
    return size, digest.digest()
