"""Checksums of uploads, and what a store says about an object that it has stored."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.storage.keys import DamagedFile
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.provider import ChecksumName

_ETAG = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]*)?")
_PARAMETERS: Mapping[ChecksumName, str] = {"sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32"}


def md5(body: bytes) -> str:
    """MD5 for the header ``Content-MD5``, with which S3 refuses a body damaged in transit."""
    return encode_digest(hashlib.md5(body, usedforsecurity=False).digest())


def encode_digest(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


class Checksum:
    """The additional checksum of a location, which may be none.

    Values are base64 as in S3's headers.
    """

    def __init__(self, location: S3Location) -> None:
        self._name: ChecksumName = location.checksum
        self._parameter = _PARAMETERS.get(self._name, "")

    def __bool__(self) -> bool:
        return bool(self._parameter)

    def of(self, body: bytes) -> dict[str, str]:
        """Parameter for boto3 with the checksum of ``body``."""
        return {self._parameter: encode_digest(self.digest(body))} if self else {}

    def parameter(self, answer: Mapping[str, Any]) -> dict[str, str]:
        """Parameter for boto3 with the value in a response; none if the store does not give it."""
        checksum = self.value_in(answer)
        return {self._parameter: checksum} if checksum else {}

    def algorithm(self) -> dict[str, str]:
        """Parameter for boto3 at the begin of an upload in parts."""
        return {"ChecksumAlgorithm": self._name.upper()} if self else {}

    def digest(self, body: bytes) -> bytes:
        if self._name == "sha256":
            return hashlib.sha256(body).digest()
        return zlib.crc32(body).to_bytes(4, "big")

    def value_in(self, answer: Mapping[str, Any]) -> str:
        """Value in a response; empty if the store does not give it."""
        return str(answer.get(self._parameter, "")) if self else ""


class RunningChecksum:
    """Additional checksum of a part that arrives in pieces."""

    def __init__(self, location: S3Location) -> None:
        self._name: ChecksumName = location.checksum
        self._sha256 = hashlib.sha256()
        self._crc32 = 0

    def update(self, data: bytes) -> None:
        if self._name == "sha256":
            self._sha256.update(data)
        elif self._name == "crc32":
            self._crc32 = zlib.crc32(data, self._crc32)

    def parameter(self) -> dict[str, str]:
        """Parameter for boto3; none without an additional checksum."""
        name = _PARAMETERS.get(self._name)
        if name is None:
            return {}
        crc32 = self._crc32.to_bytes(4, "big")
        digest = self._sha256.digest() if self._name == "sha256" else crc32
        return {name: encode_digest(digest)}


class Digests:
    """Digests of an object that arrives in parts, by which a store's answer is verified."""

    def __init__(self, location: S3Location) -> None:
        self._location = location
        self._checksum = Checksum(location)
        self._md5s: list[bytes] = []
        self._sums: list[bytes] = []

    def add(self, part: bytes) -> None:
        self._md5s.append(hashlib.md5(part, usedforsecurity=False).digest())
        if self._checksum:
            self._sums.append(self._checksum.digest(part))

    def verify(self, answer: Mapping[str, Any]) -> bool:
        """Compare with the answer to a PUT, to the completion of parts, or to a HEAD.

        Raises ``DamagedFile`` if it differs. False if the answer says nothing to compare.
        """
        checksum = self._checksum.value_in(answer)
        if checksum:
            self._compare(
                checksum, encode_digest(self._sums[0]), _composite(self._checksum, self._sums)
            )
            return True
        etag = str(answer.get("ETag", "")).strip('"')
        if not self._location.etag_is_md5 or not _ETAG.fullmatch(etag):
            return False
        joined = hashlib.md5(b"".join(self._md5s), usedforsecurity=False).hexdigest()
        self._compare(etag, self._md5s[0].hex(), f"{joined}-{len(self._md5s)}")
        return True

    def _compare(self, checksum: str, whole: str, composite: str) -> None:
        if checksum == composite or (len(self._md5s) == 1 and checksum == whole):
            return
        # Stores may answer a checksum of the whole object, which parts do not give.
        if len(self._md5s) > 1 and "-" not in checksum:
            return
        raise damaged_file_error(self._location, "stored something else than was sent")


def _composite(checksum: Checksum, sums: Sequence[bytes]) -> str:
    return f"{encode_digest(checksum.digest(b''.join(sums)))}-{len(sums)}"


def damaged_file_error(location: S3Location, what: str) -> DamagedFile:
    return DamagedFile(
        f"{location.description} {what}: its checksum is another. The store, or a proxy in front "
        "of it, damages files: run `darkroom doctor storage`."
    )


class ReadCheck:
    """Digest of an object that is read as a whole, compared with the store's ETag.

    Covers objects of one PUT and those that ``S3Upload`` sent in parts of ``part_bytes``; not those
    of clients' parts, whose sizes are not known, and not those with a KMS key, whose ETag is
    random.
    """

    def __init__(self, etag: str, size: int, part_bytes: int) -> None:
        bare = etag.strip('"')
        self._wanted, _, parts = bare.partition("-")
        self._parts = int(parts) if parts.isdecimal() else 0
        self._part_bytes = part_bytes if self._parts else size
        expected = -(-size // part_bytes)
        self.possible = bool(_ETAG.fullmatch(bare)) and self._parts in (0, expected)
        self._current = hashlib.md5(usedforsecurity=False)
        self._in_part = 0
        self._digests: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            piece = view[: self._part_bytes - self._in_part]
            self._current.update(piece)
            self._in_part += len(piece)
            view = view[len(piece) :]
            if self._parts and self._in_part == self._part_bytes:
                self._next_part()

    def matches(self) -> bool:
        """Compare after the last byte."""
        if not self._parts:
            return self._current.hexdigest() == self._wanted
        if self._in_part:
            self._next_part()
        return (
            hashlib.md5(b"".join(self._digests), usedforsecurity=False).hexdigest() == self._wanted
        )

    def _next_part(self) -> None:
        self._digests.append(self._current.digest())
        self._current = hashlib.md5(usedforsecurity=False)
        self._in_part = 0
