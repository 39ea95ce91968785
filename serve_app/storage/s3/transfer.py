"""One object on its way into the bucket."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.storage.s3 import troubles
from serve_app.storage.s3.location import S3Location

log = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20
"""A multiple of what S3 takes least, 5 MiB. With its most, 10,000 parts, 80 GiB are the limit."""


class AlreadyThere(Exception):
    """An object of this name exists, and stays as it is. No error yet: it may be the same."""


class S3Upload:
    """Every method blocks and runs in a thread.

    Holds at most one part: a small object is one PUT, a larger one goes part by part as it comes.
    As a cancelled caller does not stop the thread that sends for it, ``discard`` may come while
    another method still runs: the lock puts them in order, and nothing is sent after a discard.
    """

    def __init__(self, client: Any, location: S3Location, name: str, media_type: str) -> None:
        self._client = client
        self._object = {"Bucket": location.bucket, "Key": name}
        self._media_type = media_type
        self._condition = {"IfNoneMatch": "*"} if location.conditional_writes else {}
        self._lock = threading.Lock()
        self._discarded = False
        self._held = b""  # the last part, until it is known whether another follows
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    def add(self, part: bytes) -> None:
        """``PART_BYTES`` of them; only the last may be less."""
        with self._lock:
            if self._discarded:
                return
            self._digest.update(part)
            if self._held:
                self._send_held()
            self._held = part

    def complete(self) -> None:
        """The object is there, whole. ``AlreadyThere`` when another one is."""
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
                # NoSuchUpload: our own completion, whose answer was lost on the way.
                if troubles.is_conflict(error) or troubles.code_of(error) == "NoSuchUpload":
                    raise AlreadyThere from error
                raise
            self._upload_id = None

    def discard(self) -> None:
        """Leave no parts behind; after ``complete`` there are none, and the object stays."""
        with self._lock:
            self._discarded = True
            self._held = b""
            if self._upload_id is None:
                return
            try:
                self._client.abort_multipart_upload(**self._object, UploadId=self._upload_id)
            except (BotoCoreError, ClientError) as error:
                log.info("The parts of a broken upload stay in the bucket: %s", error)

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
    """As the header ``Content-MD5`` wants it: S3 refuses a body that was damaged on its way."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
