"""One object, or a range of it, on its way out of the bucket."""

from __future__ import annotations

import logging
import threading
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.storage.s3 import troubles
from serve_app.storage.s3.location import S3Location

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
MOST_BREAKS = 3  # of the stream, without a byte between them


class S3Download:
    """Bytes ``start`` to ``end`` (exclusive). Every method blocks and runs in a thread.

    A stream that breaks goes on where it broke: objects never change.
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
        """Some of the bytes that are left; empty at the end, or where the object ends before."""
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
                if troubles.code_of(error) in ("InvalidRange", "416"):
                    return b""  # the object ends before
                raise
            self._body = answer["Body"]
        return self._body.read(min(self._end - self._at, CHUNK_BYTES))

    def _broke(self, error: BotoCoreError) -> None:
        # Before the first byte boto3 has tried several times already.
        reading = self._body is not None
        self._drop()
        self._breaks += 1
        if not reading or self._breaks > MOST_BREAKS:
            raise error
        log.info("A download broke at byte %d and goes on there: %s", self._at, error)

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
