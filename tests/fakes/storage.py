"""Artifacts in memory: the same port and the same refusals as a directory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import urlencode

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import ArtifactNotFound, Forbidden, StorageUnavailable, TooLarge
from serve_app.domain.ports import Clock
from serve_app.domain.upload import UploadPart
from serve_app.storage import keys
from serve_app.storage.keys import missing_part, upload_not_found
from serve_app.storage.tickets import TicketSigner

CHUNK_BYTES = 64 * 1024


class FakeStorage:
    def __init__(
        self, signing_key: bytes, internal_url: str, clock: Clock, max_bytes: int | None = None
    ) -> None:
        self.tickets = TicketSigner(signing_key, internal_url, clock)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, tuple[str, bytes]]] = {}  # ETag and content by number
        self.links: str | None = None  # set it to an origin, and clients are sent there
        self.away: StorageUnavailable | None = None  # set it, and every call fails with it
        self._max_bytes = max_bytes

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        return self.tickets.sign(key, media_type, max_bytes, valid_s)

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        if self.links is None:
            return None
        return f"{self.links}/{key}?{urlencode({'type': media_type, 'disposition': disposition})}"

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        del media_type  # kept by the key's extension
        self._check(key)
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if self._max_bytes is not None and len(content) > self._max_bytes:
                raise TooLarge(f"The artifact is larger than the {self._max_bytes} bytes allowed.")
        there = self.objects.setdefault(key, bytes(content))
        if there != content:
            raise Forbidden("This artifact was already uploaded with different content.")
        return len(content)

    async def begin_parts(self, key: str, media_type: str) -> str:
        del media_type
        self._check(key)
        parts_id = secrets.token_hex(16)
        self.parts[parts_id] = {}
        return parts_id

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        self._check(key)
        content = b"".join([chunk async for chunk in chunks])
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if parts_id not in self.parts:
            raise upload_not_found()
        self.parts[parts_id][number] = etag, content
        return UploadPart(number, etag, len(content))

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        there = self.parts.get(parts_id)
        if there is None:
            raise upload_not_found()
        for number, etag in etags.items():
            if number not in there or there[number][0] != etag:
                raise missing_part(number)

        async def contents() -> AsyncIterator[bytes]:
            for number in sorted(etags):
                yield there[number][1]

        size = await self.put(key, "", contents())
        del self.parts[parts_id]
        return size

    async def drop_parts(self, key: str, parts_id: str) -> None:
        self._check(key)
        self.parts.pop(parts_id, None)

    async def size(self, key: str) -> int:
        return len(self._get(key))

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        content = self._get(key)
        return len(content), content[:most]

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        content = self._get(key)[start:end]
        for at in range(0, len(content), CHUNK_BYTES):
            yield content[at : at + CHUNK_BYTES]

    async def delete(self, keys: Sequence[str]) -> None:
        if self.away is not None:
            raise self.away
        for key in keys:
            self.objects.pop(key, None)

    async def check(self) -> None:
        if self.away is not None:
            raise self.away

    def _get(self, key: str) -> bytes:
        self._check(key)
        if key not in self.objects:
            raise ArtifactNotFound("No such artifact.")
        return self.objects[key]

    def _check(self, key: str) -> None:
        if self.away is not None:
            raise self.away
        if not keys.valid(key):
            raise ArtifactNotFound("No such artifact.")
