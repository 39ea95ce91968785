"""Location of the artifacts in an S3-compatible store, from the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config
from serve_app.storage import keys

MAX_PUT_BYTES = 5 * 2**30
"""Maximum size of one PUT on S3. A ticket is for one PUT."""

_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


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

    def name(self, key: str) -> str:
        return self.prefix + key

    @property
    def description(self) -> str:
        """Description for messages."""
        return f"the bucket {self.bucket} at {self.endpoint_url or 'AWS'}"


def location_of(config: Config) -> S3Location | None:
    """S3 location from the settings; None if artifacts go to the directory.

    Raises ``Misconfigured`` for invalid or contradicting settings.
    """
    storage = config.storage
    if not storage.s3_bucket:
        _refuse_orphans(config)
        return None
    if _BUCKET.fullmatch(storage.s3_bucket) is None:
        raise Misconfigured(
            f"DARKROOM_S3_BUCKET is {storage.s3_bucket!r}, which is not a valid bucket name. Use "
            "the name alone: 3 to 63 lower-case letters, digits, dots and hyphens."
        )
    if storage.s3_region and _REGION.fullmatch(storage.s3_region) is None:
        raise Misconfigured(
            f"DARKROOM_S3_REGION is {storage.s3_region!r}, which is not a valid region name. Use a "
            "name such as eu-west-1."
        )
    if config.limits.max_artifact_bytes > MAX_PUT_BYTES:
        raise Misconfigured(
            "S3 accepts at most 5 GiB in one upload. Set DARKROOM_MAX_ARTIFACT_BYTES to "
            f"{MAX_PUT_BYTES} or less."
        )
    redirect = storage.s3_downloads == "redirect"
    if storage.s3_public_endpoint_url and not redirect:
        raise Misconfigured(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL has no effect while downloads go through the ingress. "
            "Set DARKROOM_S3_DOWNLOADS=redirect, or unset it."
        )
    return S3Location(
        bucket=storage.s3_bucket,
        prefix=_prefix(storage.s3_prefix),
        endpoint_url=_origin("DARKROOM_S3_ENDPOINT_URL", storage.s3_endpoint_url),
        public_endpoint_url=_origin(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL", storage.s3_public_endpoint_url
        ),
        region=storage.s3_region or None,
        path_style=storage.s3_path_style,
        redirect=redirect,
        conditional_writes=storage.s3_conditional_writes,
    )


def _refuse_orphans(config: Config) -> None:
    """Refuse S3 settings without a bucket, because they would silently have no effect."""
    given = [
        f"DARKROOM_{name.upper()}"
        for name, field in type(config.storage).model_fields.items()
        if getattr(config.storage, name) not in (field.default, "")
    ]
    if given:
        raise Misconfigured(
            f"{', '.join(given)} is set, but no bucket: set DARKROOM_S3_BUCKET, or unset all S3 "
            "settings to keep the artifacts in the data directory."
        )


def _prefix(given: str | None) -> str:
    prefix = (given or "").strip("/")
    if prefix and not keys.valid(prefix):
        raise Misconfigured(
            f"DARKROOM_S3_PREFIX is {given!r}, which is not valid. Use segments of letters, "
            "digits, `.`, `_` and `-`, separated by slashes; no segment may start with a dot."
        )
    return f"{prefix}/" if prefix else ""


def _origin(setting: str, given: str | None) -> str | None:
    if not given:
        return None
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(
            f"{setting} is {given!r}, which is not valid. Use a URL such as https://s3.example."
        )
    if parts.path.strip("/") or parts.query or parts.username:
        raise Misconfigured(
            f"{setting} is {given!r}, which is not valid. Use only scheme, host and port. "
            "DARKROOM_S3_BUCKET names the bucket, and DARKROOM_S3_PREFIX the prefix of the keys."
        )
    return given.rstrip("/")
