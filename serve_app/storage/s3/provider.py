"""S3-compatible stores and how each differs from AWS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

ChecksumName = Literal["sha256", "crc32", "none"]

GIB, MIB = 2**30, 2**20
DEFAULT_REGION = "us-east-1"  # stores without regions accept it


@dataclass(frozen=True, slots=True)
class Provider:
    """A kind of store. The defaults are those of a store that is not known."""

    name: str
    path_style: bool | None = None  # None: only with a custom endpoint
    conditional_writes: bool = True  # takes `If-None-Match: *`
    checksum: ChecksumName = "none"  # header `x-amz-checksum-…` that it checks, besides Content-MD5
    etag_is_md5: bool = False  # of an object that was stored by one PUT without a KMS key
    encrypts: bool = True  # takes `x-amz-server-side-encryption: AES256`
    has_kms: bool = True  # takes `x-amz-server-side-encryption: aws:kms`
    deletes_many: bool = False  # takes DeleteObjects with a CRC32 instead of Content-MD5
    region: str = DEFAULT_REGION  # unless one is set
    max_put_bytes: int = 5 * GIB
    lifecycle: bool = True  # takes PutBucketLifecycleConfiguration
    aborts_by_lifecycle: bool = True  # takes AbortIncompleteMultipartUpload in it


PROVIDERS: Mapping[str, Provider] = {
    known_provider.name: known_provider
    for known_provider in (
        Provider("aws", checksum="sha256", etag_is_md5=True, deletes_many=True),
        Provider(
            "minio",
            path_style=True,
            checksum="sha256",
            deletes_many=True,
            # MinIO aborts uploads itself, after a day.
            aborts_by_lifecycle=False,
        ),
        Provider(
            "r2",
            path_style=True,
            etag_is_md5=True,
            encrypts=False,  # always encrypts, and refuses the header
            has_kms=False,
            deletes_many=True,
            region="auto",
            max_put_bytes=5 * GIB - 5 * MIB,
        ),
        Provider(
            "gcs",
            path_style=True,
            conditional_writes=False,  # has x-goog-if-generation-match instead
            etag_is_md5=True,
            encrypts=False,  # always encrypts; keys are set on the bucket
            has_kms=False,
            region="auto",
            lifecycle=False,  # has a document of its own
        ),
        Provider("ceph", path_style=True),
        Provider(
            "b2",
            conditional_writes=False,
            has_kms=False,
            lifecycle=False,  # has rules of its own
        ),
        Provider(
            "swift",
            path_style=True,
            checksum="sha256",
            etag_is_md5=True,
            encrypts=False,
            has_kms=False,
            deletes_many=True,
            lifecycle=False,
        ),
        Provider("other"),
    )
}

_HOSTS = {
    ".amazonaws.com": "aws",
    ".amazonaws.com.cn": "aws",
    ".r2.cloudflarestorage.com": "r2",
    ".backblazeb2.com": "b2",
    "storage.googleapis.com": "gcs",
}


def provider_of(name: str | None, endpoint_url: str | None) -> Provider:
    """Provider of this name; None: by the host of the endpoint."""
    if name is not None:
        return PROVIDERS[name]
    if endpoint_url is None:
        return PROVIDERS["aws"]
    host = urlsplit(endpoint_url).hostname or ""
    matches = (provider for end, provider in _HOSTS.items() if host.endswith(end))
    return PROVIDERS[next(matches, "other")]


def region_in(provider: Provider, endpoint_url: str | None) -> str | None:
    """Region that the endpoint's host names; None if it names none."""
    words = (urlsplit(endpoint_url or "").hostname or "").split(".")
    if provider.name == "b2" and len(words) >= 2 and words[0] == "s3":
        return words[1]  # s3.eu-central-003.backblazeb2.com
    return None
