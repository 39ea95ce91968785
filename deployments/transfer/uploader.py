"""Generated files, and their upload to the URLs of their tickets, with retries."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import httpx2

from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.atomic_file import PART_BYTES, write_beside
from serve_app.domain.errors import DarkroomError, StorageUnavailable, TooLarge, UploadPolicyFailed
from serve_app.domain.ports import Clock

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file to upload: its bytes, or a path, since a video may be too large to hold in memory."""

    ticket: UploadTicket
    body: bytes | Path
    width: int | None = None  # pixels
    height: int | None = None
    image: Image | None = None  # what an image file shows, if it is at hand; else the file is read

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    def artifact(self) -> Artifact:
        """Description with size and digest. Reads the whole file, so a large one takes a while."""
        return Artifact(
            key=self.ticket.key,
            media_type=self.ticket.media_type,
            size=self.size,
            sha256=self._digest("sha256").hex(),
            width=self.width,
            height=self.height,
        )

    def md5(self) -> str:
        """MD5 in base64, as in the header ``Content-MD5``. Reads the whole file."""
        return base64.b64encode(self._digest("md5")).decode()

    def in_memory(self) -> bytes:
        """Content of the file. Reads all of it into memory."""
        return self.body if isinstance(self.body, bytes) else self.body.read_bytes()

    def content(self) -> bytes | AsyncIterator[bytes]:
        """Body for one HTTP request. A file on disk is read in chunks."""
        return self.body if isinstance(self.body, bytes) else _parts(self.body)

    def _digest(self, name: str) -> bytes:
        if isinstance(self.body, bytes):
            return hashlib.new(name, self.body, usedforsecurity=False).digest()
        with self.body.open("rb") as file:
            return hashlib.file_digest(file, lambda: _hash(name)).digest()


class FileSink(Protocol):
    """Storage for uploaded files. The real implementation uploads with tickets."""

    async def put(self, file: MediaFile, *, without_end: bool = False) -> None:
        """Upload a file. ``TooLarge`` if it exceeds its ticket's limit. ``without_end``: wait for
        storage until the call is cancelled."""
        ...

    async def delete(self, ticket: UploadTicket) -> None: ...

    async def aclose(self) -> None: ...


class BucketSink(Protocol):
    """Buckets of clients, to which files go with the presigned forms of their tickets."""

    async def put(self, file: MediaFile) -> None:
        """Store a file. Raises ``UploadPolicyFailed``."""
        ...

    async def aclose(self) -> None: ...


def _hash(name: str) -> Any:
    return hashlib.new(name, usedforsecurity=False)


async def _parts(path: Path) -> AsyncIterator[bytes]:
    file: BinaryIO = await asyncio.to_thread(path.open, "rb")
    try:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            yield part
    finally:
        file.close()


log = logging.getLogger(__name__)

_XML = re.compile(r"<(?:Code|Message)>([^<]*)<")

_MD5 = re.compile(r"[0-9a-f]{32}")
ENCRYPTION = "x-amz-server-side-encryption"

_TRY_AGAIN = frozenset({408, 409, 425, 429})  # 409: S3, another PUT of the key is in progress
_EXISTS = 412  # reply to a conditional PUT if the object exists
_NEVER = 501  # storage does not support a part of the request, so a retry is useless


def may_pass(status: int) -> bool:
    """True if storage may answer a repeated request differently."""
    return (status >= 500 and status != _NEVER) or status in _TRY_AGAIN


# Calls of storage, which with S3 go past the ingress, and their count.

DONE = "done"
ERROR = "error"
"""Result of a call that storage could not do now, or of which it says that the bytes are others."""


@dataclass(slots=True)
class StorageCall:
    """A call under way. Its result is set when it ends without an exception."""

    result: str = DONE


class StorageCalls:
    """Number and seconds of a replica's calls of storage, by call and result. They only grow.

    A try is a call: an upload that succeeds at the third try has two ``error`` and one ``done``.
    """

    def __init__(self) -> None:
        self._number: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    @contextmanager
    def count_call(self, call: str) -> Generator[StorageCall]:
        """Count the ``write`` or ``read`` of the block, unless it is cancelled: then it has no
        result."""
        began, this = time.perf_counter(), StorageCall()
        try:
            yield this
        except Exception as error:
            self.add(call, _result_of(error), time.perf_counter() - began)
            raise
        self.add(call, this.result, time.perf_counter() - began)

    def add(self, call: str, result: str, seconds: float) -> None:
        self._number[call, result] += 1
        self._seconds[call, result] += seconds

    def counts(self) -> Mapping[str, Any]:
        """Both, as ``UsageDelta`` reads them."""
        return {"storage_calls": dict(self._number), "storage_seconds": dict(self._seconds)}


def _result_of(error: Exception) -> str:
    if isinstance(error, DarkroomError):
        return error.code
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "timeout"
    return "no_answer" if isinstance(error, httpx2.TransportError) else ERROR


class Backoff:
    """Delays that double. Each is drawn at random between half of the delay and the whole, so that
    replicas that failed together do not retry together."""

    def __init__(self, random: Random, *, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._random = random
        self._first_s = first_s
        self._most_s = most_s

    def delays(self) -> Iterator[float]:
        """Endless sequence of delays in seconds."""
        delay_s = self._first_s
        while True:
            yield delay_s * self._random.uniform(0.5, 1.0)
            delay_s = min(delay_s * 2, self._most_s)


class StorageRetry(StorageUnavailable):
    """Raised when storage has not responded for ``give_up_s``. It does not leave the replica: the
    attempt is handed back."""


class Uploader:
    """Uploader that needs only tickets and no credentials. Use it on one event loop."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        clock: Clock,
        backoff: Backoff,
        give_up_s: float,
        buckets: BucketSink | None = None,
        calls: StorageCalls | None = None,
    ) -> None:
        """``buckets``: stores what goes to buckets of clients; None: nothing does. ``calls``:
        counts the calls of our own storage."""
        self._buckets = buckets
        self._calls = calls or StorageCalls()
        self._client = client
        self._clock = clock
        self._backoff = backoff
        self._give_up_s = give_up_s

    async def put(self, file: MediaFile, *, without_end: bool = False) -> None:
        """Upload a file, with retries while storage does not respond.

        Raises ``TooLarge`` if the file exceeds its ticket's limit, ``StorageUnavailable`` if
        storage refuses it, and ``StorageRetry`` if the upload takes longer than ``give_up_s``,
        which is without ``without_end`` only. A file for a bucket of a client: see ``BucketSink``.
        """
        ticket, size = file.ticket, file.size
        if ticket.form:
            await self._post(file)
            return
        if size > ticket.max_bytes:
            raise TooLarge(f"A file has {size} bytes; at most {ticket.max_bytes} are allowed.")
        headers = await _headers(file)
        give_up_at = self._clock.monotonic() + self._give_up_s
        for number, delay_s in enumerate(self._backoff.delays()):
            left_s = self._give_up_s if without_end else give_up_at - self._clock.monotonic()
            try:
                with self._calls.count_call("write") as call:
                    problem = await self._try(file, headers, left_s, again=number > 0)
                    if problem is None:
                        return
                    call.result = ERROR
            except httpx2.HTTPError as error:
                problem = repr(error)
            except TimeoutError:
                problem = "storage was too slow"
            if not without_end and self._clock.monotonic() + delay_s >= give_up_at:
                raise StorageRetry(f"The upload did not succeed in time: {problem}")
            log.info("An upload failed (%s); retrying in %.1f s.", problem, delay_s)
            await asyncio.sleep(delay_s)

    async def _post(self, file: MediaFile) -> None:
        if self._buckets is None:
            raise UploadPolicyFailed("This replica stores no files in buckets of clients.")
        await self._buckets.put(file)

    async def delete(self, ticket: UploadTicket) -> None:
        """Delete an upload. Best effort: storage may refuse, and retention removes the rest. From a
        bucket of a client nothing can be deleted; the next attempt replaces the file."""
        if ticket.form:
            return
        try:
            if ticket.delete_url is not None:
                await self._client.delete(ticket.delete_url)
            else:
                await self._client.delete(ticket.url, headers=dict(ticket.headers))
        except httpx2.HTTPError as error:
            log.info("An unneeded upload could not be deleted: %r", error)

    async def aclose(self) -> None:
        await self._client.aclose()
        if self._buckets is not None:
            await self._buckets.aclose()

    async def _try(
        self, file: MediaFile, headers: Mapping[str, str], left_s: float, *, again: bool
    ) -> str | None:
        """Try one upload. None on success, or the reason why a retry may succeed, as is an
        ``httpx2.HTTPError`` or a ``TimeoutError``."""
        async with asyncio.timeout(left_s):
            if not again and await _written_beside(file):
                return None
            response = await self._client.put(
                file.ticket.url, content=file.content(), headers=headers
            )
        status = response.status_code
        if response.is_success:
            return await self._problem_of(file, headers, response)
        if again and status == _EXISTS:
            # The previous try succeeded and its reply was lost: no one else has this ticket.
            return None
        if may_pass(status):
            return f"storage answered {status}"
        if status == 413:
            raise TooLarge(f"Storage refused a file of {file.size} bytes as too large.")
        raise StorageUnavailable(f"Storage refused the upload: {status} {_reason(response.text)}")

    async def _problem_of(
        self, file: MediaFile, sent: Mapping[str, str], response: httpx2.Response
    ) -> str | None:
        """Compare what storage says it has with what was sent. None if it is the same."""
        encryption = sent.get(ENCRYPTION)
        if encryption is not None and response.headers.get(ENCRYPTION) != encryption:
            await self.delete(file.ticket)
            raise StorageUnavailable(
                "Storage took an upload without encrypting it as asked. The operator should run "
                "`darkroom doctor storage`."
            )
        etag = response.headers.get("etag", "").strip('"')
        if file.ticket.etag_is_md5 and _MD5.fullmatch(etag):
            sent_md5 = base64.b64decode(sent["content-md5"]).hex()
            if etag != sent_md5:
                await self.delete(file.ticket)
                return "storage has other bytes than were sent"
        return None


async def _written_beside(file: MediaFile) -> bool:
    """Write the file into the folder of our own storage. False: it is not here, or the ingress has
    to say why it does not take the file."""
    ticket = file.ticket
    return bool(ticket.marker) and await asyncio.to_thread(
        partial(
            write_beside,
            ticket.marker,
            ticket.key,
            file.body,
            max_bytes=ticket.max_bytes,
            least_free=ticket.least_free,
        )
    )


async def _headers(file: MediaFile) -> dict[str, str]:
    headers = {
        **dict(file.ticket.headers),
        "content-type": file.ticket.media_type,
        # Storage rejects chunked transfer encoding, which is the default for streamed bodies.
        "content-length": str(file.size),
    }
    if file.ticket.takes_md5:
        # Hashing a large file would block the event loop too long.
        headers["content-md5"] = await asyncio.to_thread(file.md5)
    return headers


def _reason(answer: str) -> str:
    """Code and message of S3's XML error. The rest would reveal the access key."""
    return ": ".join(_XML.findall(answer)) or answer[:200]


class HttpTransport(httpx2.AsyncBaseTransport):
    """``inner``, with an ``httpx2.ConnectError`` for connections that are reset as they are opened.

    Under uvloop such a connection has lost its socket when anyio 4.16 asks for its addresses, which
    is an ``AttributeError`` (1 in 75 of connections that were reset within a millisecond).
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._inner.handle_async_request(request)
        except AttributeError as error:
            message = "The connection was reset as it was opened."
            raise httpx2.ConnectError(message, request=request) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def http_client() -> httpx2.AsyncClient:
    """HTTP client for uploads. Ignores proxies of the environment: ticket URLs are internal."""
    inner = httpx2.AsyncHTTPTransport(trust_env=False, limits=httpx2.Limits(max_connections=32))
    return httpx2.AsyncClient(
        transport=HttpTransport(inner),
        trust_env=False,
        timeout=httpx2.Timeout(60.0, connect=5.0),
    )
