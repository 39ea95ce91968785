"""Location of the artifacts in an S3-compatible store, from the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config
from serve_app.storage import keys
from serve_app.storage.s3.provider import (
    PROVIDERS,
    ChecksumName,
    Provider,
    provider_of,
    region_in,
)

T = TypeVar("T")

_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Encryption:
    """Server-side encryption that every upload asks for: SSE-S3, or SSE-KMS with a key."""

    kms_key_id: str | None = None  # None: SSE-S3; empty: SSE-KMS with the account's default key

    def parameters(self) -> dict[str, str]:
        """Parameters for boto3."""
        if self.kms_key_id is None:
            return {"ServerSideEncryption": self.method}
        key = {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
        return {"ServerSideEncryption": self.method, **key}

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers that a presigned PUT with these parameters needs."""
        key = ((KMS_KEY_HEADER, self.kms_key_id),) if self.kms_key_id else ()
        return ((ENCRYPTION_HEADER, self.method), *key)

    @property
    def method(self) -> str:
        """Value of S3's header."""
        return "AES256" if self.kms_key_id is None else "aws:kms"


@dataclass(frozen=True, slots=True)
class AssumedRole:
    """Role of another account, assumed by STS before its bucket is used."""

    arn: str
    external_id: str = ""  # that the role's trust policy requires; empty: none
    session_s: int = 3600  # lifetime of its credentials; renewed at half of it
    sts_endpoint_url: str | None = None  # None: AWS


ENCRYPTION_HEADER = "x-amz-server-side-encryption"
KMS_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"


@dataclass(frozen=True, slots=True)
class S3Location:
    """Bucket, how to reach it, and how clients download from it. Contains no secrets."""

    bucket: str
    prefix: str = ""  # precedes every key; empty, or ends with a slash
    endpoint_url: str | None = None  # None: AWS
    public_endpoint_url: str | None = None  # the endpoint for clients; None: the ingress's
    region: str | None = None  # None: from the AWS environment
    path_style: bool | None = None  # None: only with a custom endpoint
    redirect: bool = False  # True: clients download from the store; False: through the ingress
    conditional_writes: bool = True  # uploads send `If-None-Match: *`
    provider: Provider = PROVIDERS["other"]
    checksum: ChecksumName = "none"  # additional checksum of uploads
    encryption: Encryption | None = None  # None: as the bucket does by itself
    role: AssumedRole | None = None  # assumed with the credentials; None: they are used themselves
    location_id: str = ""  # of a location of tenants; empty: the installation's own

    @property
    def etag_is_md5(self) -> bool:
        """True if the ETag of an object of one PUT is its MD5."""
        if self.encryption is not None and self.encryption.kms_key_id is not None:
            return False
        return self.provider.etag_is_md5

    def name(self, key: str) -> str:
        return self.prefix + key

    @property
    def place(self) -> str:
        """Bucket, endpoint and prefix, in words."""
        under = f" under {self.prefix}" if self.prefix else ""
        return f"the bucket {self.bucket} at {self.endpoint_url or 'AWS'}{under}"

    @property
    def description(self) -> str:
        """Description for messages."""
        whose = f" (location {self.location_id})" if self.location_id else ""
        return f"the bucket {self.bucket} at {self.endpoint_url or 'AWS'}{whose}"


def location_of(config: Config) -> S3Location | None:
    """S3 location from the settings; None if artifacts go to the directory.

    Raises ``Misconfigured`` for invalid or contradicting settings.
    """
    storage = config.storage
    if not storage.s3_bucket:
        _refuse_orphans(config)
        return None
    bucket = checked_bucket("DARKROOM_S3_BUCKET", storage.s3_bucket)
    region = checked_region("DARKROOM_S3_REGION", storage.s3_region)
    endpoint_url = checked_origin("DARKROOM_S3_ENDPOINT_URL", storage.s3_endpoint_url)
    provider = provider_of(storage.s3_provider, endpoint_url)
    if config.limits.max_artifact_bytes > provider.max_put_bytes:
        raise Misconfigured(
            f"S3 accepts at most {provider.max_put_bytes:,} bytes in one upload. Set "
            f"DARKROOM_MAX_ARTIFACT_BYTES to {provider.max_put_bytes} or less."
        )
    redirect = storage.s3_downloads == "redirect"
    if storage.s3_public_endpoint_url and not redirect:
        raise Misconfigured(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL has no effect while downloads go through the ingress. "
            "Set DARKROOM_S3_DOWNLOADS=redirect, or unset it."
        )
    return S3Location(
        bucket=bucket,
        prefix=checked_prefix("DARKROOM_S3_PREFIX", storage.s3_prefix),
        endpoint_url=endpoint_url,
        public_endpoint_url=checked_origin(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL", storage.s3_public_endpoint_url
        ),
        region=region or region_in(provider, endpoint_url),
        path_style=either(storage.s3_path_style, provider.path_style),
        redirect=redirect,
        conditional_writes=either(storage.s3_conditional_writes, provider.conditional_writes),
        provider=provider,
        checksum=storage.s3_checksum or provider.checksum,
        encryption=encryption_of(
            provider, storage.s3_encryption, storage.s3_kms_key_id, "DARKROOM_S3_{}"
        ),
    )


def either(value: T | None, default: T) -> T:
    return default if value is None else value


def encryption_of(
    provider: Provider, method: str | None, kms_key_id: str | None, setting: str
) -> Encryption | None:
    """Encryption by its settings. ``setting`` is their name, with a gap for the rest of it.

    Raises ``Misconfigured`` if the store does not have it.
    """
    if kms_key_id and method != "aws:kms":
        name, other = setting.format("KMS_KEY_ID"), setting.format("ENCRYPTION")
        raise Misconfigured(f"{name} has no effect without {other}=aws:kms. Set it, or unset both.")
    if not method:
        return None
    if not (provider.has_kms if method == "aws:kms" else provider.encrypts):
        raise Misconfigured(
            f"{setting.format('ENCRYPTION')} is {method}, which {provider.name} does not take. "
            "Unset it, and set the encryption on the bucket in the provider's own console."
        )
    return Encryption((kms_key_id or "") if method == "aws:kms" else None)


def _refuse_orphans(config: Config) -> None:
    """Refuse S3 settings without a bucket, because they would silently have no effect."""
    variables = [
        f"DARKROOM_{name.upper()}"
        for name, field in type(config.storage).model_fields.items()
        if name.startswith("s3_") and getattr(config.storage, name) not in (field.default, "")
    ]
    if variables:
        raise Misconfigured(
            f"{', '.join(variables)} is set, but no bucket: set DARKROOM_S3_BUCKET, or unset all "
            "S3 settings to keep the artifacts in the data directory."
        )


def checked_bucket(setting: str, bucket: str) -> str:
    """Return ``bucket``. Raises ``Misconfigured`` unless it is the name of a bucket."""
    if _BUCKET.fullmatch(bucket) is None:
        raise Misconfigured(
            f"{setting} is {bucket!r}, which is not a valid bucket name. Use the name alone: 3 to "
            "63 lower-case letters, digits, dots and hyphens."
        )
    return bucket


def checked_region(setting: str, region: str | None) -> str | None:
    """Return ``region``, None if it is empty. Raises ``Misconfigured``."""
    if region and _REGION.fullmatch(region) is None:
        raise Misconfigured(
            f"{setting} is {region!r}, which is not a valid region name. Use a name such as "
            "eu-west-1."
        )
    return region or None


def checked_prefix(setting: str, value: str | None) -> str:
    """Prefix that ends with a slash, or empty. Raises ``Misconfigured``."""
    prefix = (value or "").strip("/")
    if prefix and not keys.valid(prefix):
        raise Misconfigured(
            f"{setting} is {value!r}, which is not valid. Use segments of letters, "
            "digits, `.`, `_` and `-`, separated by slashes; no segment may start with a dot."
        )
    return f"{prefix}/" if prefix else ""


def checked_origin(setting: str, url: str | None) -> str | None:
    """URL without a path, None if it is empty. Raises ``Misconfigured``."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(
            f"{setting} is {url!r}, which is not valid. Use a URL such as https://s3.example."
        )
    if parts.path.strip("/") or parts.query or parts.username:
        raise Misconfigured(
            f"{setting} is {url!r}, which is not valid. Use only scheme, host and port. "
            "The bucket and the prefix of the keys have settings of their own."
        )
    return url.rstrip("/")
