"""Upload of one object to the bucket."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.storage.s3 import errors
from serve_app.storage.s3.location import S3Location

log = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20
"""Size of a part, above S3's minimum of 5 MiB. With S3's limit of 10,000 parts, an object can have
80 GiB."""


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
        self._object = {"Bucket": location.bucket, "Key": name}
        self._media_type = media_type
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
        self._client.put_object(
            **self._object,
            **self._condition,
            Body=self._held,
            ContentType=self._media_type,
            ContentMD5=md5(self._held),
        )

    def _send_held(self) -> None:
        if self._upload_id is None:
            begun = self._client.create_multipart_upload(
                **self._object, ContentType=self._media_type
            )
            self._upload_id = begun["UploadId"]
        number = len(self._parts) + 1
        answer = self._client.upload_part(
            **self._object,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=self._held,
            ContentMD5=md5(self._held),
        )
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})

    def _complete(self) -> None:
        self._client.complete_multipart_upload(
            **self._object,
            **self._condition,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._parts},
        )


def md5(body: bytes) -> str:
    """MD5 for the header ``Content-MD5``, with which S3 refuses a body damaged in transit."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


# Download of an object, or of a range of it.

CHUNK_BYTES = 1 << 20
MAX_INTERRUPTIONS = 3  # interruptions of the stream without a byte between them


class S3Download:
    """Download of the bytes ``start`` to ``end`` (exclusive). Every method blocks; run it in a
    thread.

    An interrupted stream is resumed where it broke, because objects never change.
    """

    def __init__(self, client: Any, location: S3Location, name: str, start: int, end: int) -> None:
        self._client = client
        self._object = {"Bucket": location.bucket, "Key": name}
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
        return self._body.read(min(self._end - self._at, CHUNK_BYTES))

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
