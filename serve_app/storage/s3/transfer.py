"""Upload of one object to the bucket."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.domain.errors import StorageUnavailable
from serve_app.storage.s3 import errors
from serve_app.storage.s3.checksums import Checksum, Digests, ReadCheck, damaged_file_error, md5
from serve_app.storage.s3.location import S3Location

log = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20
"""Size of a part, above S3's minimum of 5 MiB."""
MAX_BYTES = 10_000 * PART_BYTES
"""Size of an object that is sent in these parts: S3 takes no more of them."""


class AlreadyExists(Exception):
    """An object of this name exists and was not changed. Not yet an error: it may be the same."""


class S3Upload:
    """Upload of one object. Every method blocks and runs in a thread.

    Holds at most one part: a small object is sent as one PUT, a larger one part by part.
    Cancelling a caller does not stop its sending thread, so ``discard`` may be called while another
    method still runs. The lock orders them, and nothing is sent after a discard.
    """

    def __init__(self, client: Any, location: S3Location, name: str, media_type: str) -> None:
        self._client = client
        self._location = location
        self._object = {"Bucket": location.bucket, "Key": name}
        self._made = {"ContentType": media_type, **encryption_parameters(location)}
        self._checksum = Checksum(location)
        self._digests = Digests(location)
        self._condition = {"IfNoneMatch": "*"} if location.conditional_writes else {}
        self._lock = threading.Lock()
        self._discarded = False
        self._held = b""  # the last part, until it is known whether another one follows
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    def add(self, part: bytes) -> None:
        """Add a part of ``PART_BYTES``; only the last part may be smaller."""
        with self._lock:
            if self._discarded:
                return
            self._digest.update(part)
            if self._held:
                self._send_held()
            self._held = part

    def complete(self) -> None:
        """Finish the object. Raises ``AlreadyExists`` if an object of this name exists."""
        with self._lock:
            if self._discarded:
                return
            try:
                if self._upload_id is None:
                    self._put_whole()
                else:
                    self._send_held()
                    self._complete()
            except ClientError as error:
                # NoSuchUpload: our own earlier completion, whose response was lost.
                if errors.is_conflict(error) or errors.code_of(error) == "NoSuchUpload":
                    raise AlreadyExists from error
                raise
            self._upload_id = None

    def discard(self) -> None:
        """Delete the parts sent so far. After ``complete`` the object stays."""
        with self._lock:
            self._discarded = True
            self._held = b""
            if self._upload_id is None:
                return
            try:
                self._client.abort_multipart_upload(**self._object, UploadId=self._upload_id)
            except (BotoCoreError, ClientError) as error:
                log.info("The parts of an aborted upload remain in the bucket: %s", error)

    def _put_whole(self) -> None:
        self._digests.add(self._held)
        answer = self._client.put_object(
            **self._object,
            **self._condition,
            **self._made,
            **self._checksum.of(self._held),
            Body=self._held,
            ContentMD5=md5(self._held),
        )
        self._verify(answer)

    def _send_held(self) -> None:
        if self._upload_id is None:
            begun = self._client.create_multipart_upload(
                **self._object, **self._made, **self._checksum.algorithm()
            )
            self._upload_id = begun["UploadId"]
            check_encryption(self._location, begun)
        number = len(self._parts) + 1
        self._digests.add(self._held)
        checksum = self._checksum.of(self._held)
        answer = self._client.upload_part(
            **self._object,
            **checksum,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=self._held,
            ContentMD5=md5(self._held),
        )
        # S3 wants the checksums again; a store that answers none does not know them.
        known = checksum if self._checksum.value_in(answer) else {}
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number, **known})

    def _complete(self) -> None:
        answer = self._client.complete_multipart_upload(
            **self._object,
            **self._condition,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._parts},
        )
        self._verify(answer)

    def _verify(self, answer: Mapping[str, Any]) -> None:
        """Compare what is stored with what was sent. An object that differs is deleted."""
        try:
            if not self._parts:
                check_encryption(self._location, answer)
            if not self._digests.verify(answer) and self._checksum:
                there = self._client.head_object(**self._object, ChecksumMode="ENABLED")
                self._digests.verify(there)
        except StorageUnavailable:
            self._client.delete_object(**self._object)
            raise


def encryption_parameters(location: S3Location) -> Mapping[str, str]:
    """Parameters for boto3 with which an upload asks for encryption."""
    return {} if location.encryption is None else location.encryption.parameters()


def check_encryption(location: S3Location, answer: Mapping[str, Any]) -> None:
    """Raise ``StorageUnavailable`` unless the answer to an upload says that it is encrypted."""
    encryption = location.encryption
    if encryption is not None and answer.get("ServerSideEncryption") != encryption.method:
        raise not_encrypted(location)


def not_encrypted(location: S3Location) -> StorageUnavailable:
    return StorageUnavailable(
        f"{location.description} took an upload without encrypting it as asked. Set the "
        "encryption on the bucket itself and unset DARKROOM_S3_ENCRYPTION (for a tenant's "
        "location: `encryption`), or use a store that has it."
    )


# Download of an object, or of a range of it.

CHUNK_BYTES = 1 << 20
MAX_INTERRUPTIONS = 3  # interruptions of the stream without a byte between them


class S3Download:
    """Download of the bytes ``start`` to ``end`` (exclusive). Every method blocks; run it in a
    thread.

    An interrupted stream is resumed where it broke, because objects never change. If the whole
    object is read and the store's ETag tells its digest, the last chunk comes only after its digest
    was found right; else ``DamagedFile`` is raised.
    """

    def __init__(self, client: Any, location: S3Location, name: str, start: int, end: int) -> None:
        self._client = client
        self._location = location
        self._object = {"Bucket": location.bucket, "Key": name}
        self._check: ReadCheck | None = None  # if the whole object is read
        self._at = start
        self._end = end
        self._body: Any = None
        self._breaks = 0
        self._lock = threading.Lock()
        self._closed = False

    def read(self) -> bytes:
        """Next bytes; empty at ``end`` or at the end of the object."""
        with self._lock:
            while self._at < self._end and not self._closed:
                try:
                    chunk = self._next()
                except BotoCoreError as error:
                    self._broke(error)
                    continue
                self._at += len(chunk)
                self._breaks = 0
                self._verify(chunk)
                return chunk
            return b""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def _next(self) -> bytes:
        if self._body is None:
            byte_range = f"bytes={self._at}-{self._end - 1}"
            try:
                answer = self._client.get_object(**self._object, Range=byte_range)
            except ClientError as error:
                if errors.code_of(error) in ("InvalidRange", "416"):
                    return b""  # the object is shorter
                raise
            self._body = answer["Body"]
            self._begin_check(answer)
        return self._body.read(min(self._end - self._at, CHUNK_BYTES))

    def _begin_check(self, answer: Mapping[str, Any]) -> None:
        if self._at or not self._location.etag_is_md5:
            return  # resumed, a part of the object, or a store without such ETags
        size = str(answer.get("ContentRange", "")).rpartition("/")[2]
        if size.isdecimal() and int(size) <= self._end:
            self._end = int(size)
            check = ReadCheck(answer["ETag"], self._end, PART_BYTES)
            self._check = check if check.possible else None

    def _verify(self, chunk: bytes) -> None:
        if self._check is None:
            return
        self._check.update(chunk)
        if self._at >= self._end and not self._check.matches():
            raise damaged_file_error(self._location, "answered with something else than was stored")

    def _broke(self, error: BotoCoreError) -> None:
        # Before the first byte boto3 has already retried several times.
        reading = self._body is not None
        self._drop()
        self._breaks += 1
        if not reading or self._breaks > MAX_INTERRUPTIONS:
            raise error
        log.info("A download broke at byte %d and is resumed there: %s", self._at, error)

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
