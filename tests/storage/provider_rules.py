"""Refusals of S3-compatible stores, as their documentation and the reports of their users say.

They are written down here apart from ``serve_app.storage.s3.provider``, so that the two can differ.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Headers = Mapping[str, str]


class Refused(Exception):
    def __init__(self, status: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Call:
    """A call of S3. ``query``: names of its parameters. ``region``: for which it is signed."""

    method: str
    headers: Headers
    query: frozenset[str]
    region: str
    body: bytes

    @property
    def deletes_many(self) -> bool:
        return self.method == "POST" and "delete" in self.query

    @property
    def checksums(self) -> list[str]:
        return [name for name in self.headers if name.startswith("x-amz-checksum-")]


def not_implemented(what: str) -> Refused:
    return Refused("501 Not Implemented", "NotImplemented", f"{what} is not implemented")


def aws(call: Call) -> None:
    if call.deletes_many and not call.checksums and "content-md5" not in call.headers:
        raise Refused("400 Bad Request", "InvalidRequest", "Missing required header: Content-MD5")


def r2(call: Call) -> None:
    if call.region != "auto":
        raise Refused("400 Bad Request", "InvalidRegionName", "The region must be auto")
    if "x-amz-server-side-encryption" in call.headers:
        raise not_implemented("x-amz-server-side-encryption")


def gcs(call: Call) -> None:
    if call.region != "auto":
        raise Refused("400 Bad Request", "InvalidRegionName", "The region must be auto")
    if call.method == "PUT" and "if-none-match" in call.headers:
        raise Refused("400 Bad Request", "InvalidArgument", "If-None-Match is not for uploads")
    if call.deletes_many:
        raise Refused("405 Method Not Allowed", "MethodNotAllowed", "Not for buckets")
    if "x-amz-server-side-encryption" in call.headers:
        raise Refused("400 Bad Request", "InvalidArgument", "Use x-goog-encryption")


def ceph(call: Call) -> None:
    if call.deletes_many and "content-md5" not in call.headers:
        raise Refused("400 Bad Request", "InvalidRequest", "Missing required header: Content-MD5")


def b2(call: Call) -> None:
    if "if-none-match" in call.headers or "if-match" in call.headers:
        raise not_implemented("A conditional write")
    if call.checksums or "x-amz-sdk-checksum-algorithm" in call.headers:
        raise Refused("400 Bad Request", "InvalidArgument", "Unsupported header x-amz-checksum")
    if call.headers.get("x-amz-server-side-encryption") == "aws:kms":
        raise not_implemented("SSE-KMS")


def minio(call: Call) -> None:
    aws(call)
    if "lifecycle" in call.query and b"AbortIncompleteMultipartUpload" in call.body:
        raise Refused("400 Bad Request", "MalformedXML", "The XML is not well-formed")


RULES: Mapping[str, Callable[[Call], None]] = {
    "aws": aws,
    "minio": minio,
    "r2": r2,
    "gcs": gcs,
    "ceph": ceph,
    "b2": b2,
}


def check_digests(call: Call) -> None:
    """Refuse a body that is not the one that its checksums are of."""
    digests: dict[str, Callable[[bytes], bytes]] = {
        "content-md5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
        "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
        "x-amz-checksum-crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    }
    for name, digest in digests.items():
        value = call.headers.get(name)
        if value is None or (call.method == "POST" and "uploadId" in call.query):
            continue  # the completion of parts names the checksum of the object
        if base64.b64decode(value) != digest(call.body):
            raise Refused("400 Bad Request", "BadDigest", f"{name} is of another body")


def check(call: Call, like: str) -> None:
    """Raise ``Refused`` if the provider ``like`` refuses the call; empty: only for its digests."""
    check_digests(call)
    if like:
        RULES[like](call)
