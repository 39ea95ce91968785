"""Where in which S3-compatible store the artifacts lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config
from serve_app.storage import keys

MOST_BYTES_AT_ONCE = 5 * 2**30
"""S3 takes no more in one PUT, and a ticket is for one PUT."""

_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, how to reach it, and how clients get at what lies in it. No secret."""

    bucket: str
    prefix: str = ""  # before every key; empty, or ends in a slash
    endpoint_url: str | None = None  # None: AWS
    public_endpoint_url: str | None = None  # as clients reach it; None: as the ingress does
    region: str | None = None  # None: what the AWS environment says
    path_style: bool | None = None  # None: only with an endpoint of one's own
    redirect: bool = False  # downloads go to the store; else through the ingress
    conditional_writes: bool = True  # uploads say `If-None-Match: *`

    def name(self, key: str) -> str:
        return self.prefix + key

    @property
    def there(self) -> str:
        """For messages."""
        return f"the bucket {self.bucket} at {self.endpoint_url or 'AWS'}"


def location_of(config: Config) -> S3Location | None:
    """None when the artifacts go to the directory; ``Misconfigured`` for what cannot be meant."""
    if not config.s3_bucket:
        _refuse_orphans(config)
        return None
    if _BUCKET.fullmatch(config.s3_bucket) is None:
        raise Misconfigured(
            f"DARKROOM_S3_BUCKET is {config.s3_bucket!r}, which no bucket can be called: it takes "
            "the bare name, 3 to 63 small letters, digits, dots and hyphens."
        )
    if config.s3_region and _REGION.fullmatch(config.s3_region) is None:
        raise Misconfigured(
            f"DARKROOM_S3_REGION is {config.s3_region!r}, which no region is called: it takes a "
            "name such as eu-west-1."
        )
    if config.max_artifact_bytes > MOST_BYTES_AT_ONCE:
        raise Misconfigured(
            "S3 takes at most 5 GiB in one upload: set DARKROOM_MAX_ARTIFACT_BYTES to "
            f"{MOST_BYTES_AT_ONCE} or less."
        )
    redirect = config.s3_downloads == "redirect"
    if config.s3_public_endpoint_url and not redirect:
        raise Misconfigured(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL is where clients are sent for downloads, and "
            "downloads go through the ingress: set DARKROOM_S3_DOWNLOADS=redirect, or leave it out."
        )
    return S3Location(
        bucket=config.s3_bucket,
        prefix=_prefix(config.s3_prefix),
        endpoint_url=_origin("DARKROOM_S3_ENDPOINT_URL", config.s3_endpoint_url),
        public_endpoint_url=_origin(
            "DARKROOM_S3_PUBLIC_ENDPOINT_URL", config.s3_public_endpoint_url
        ),
        region=config.s3_region or None,
        path_style=config.s3_path_style,
        redirect=redirect,
        conditional_writes=config.s3_conditional_writes,
    )


def _refuse_orphans(config: Config) -> None:
    """Without a bucket every other setting of S3 would silently do nothing."""
    given = [
        f"DARKROOM_{name.upper()}"
        for name, field in type(config).model_fields.items()
        if name.startswith("s3_") and getattr(config, name) not in (field.default, "")
    ]
    if given:
        raise Misconfigured(
            f"{', '.join(given)} is set, but no bucket: set DARKROOM_S3_BUCKET, or leave all of S3 "
            "out to keep the artifacts in the data directory."
        )


def _prefix(given: str | None) -> str:
    prefix = (given or "").strip("/")
    if prefix and not keys.valid(prefix):
        raise Misconfigured(
            f"DARKROOM_S3_PREFIX is {given!r}: it takes letters, digits, `.`, `_` and `-`, in "
            "segments between slashes, none of which starts with a dot."
        )
    return f"{prefix}/" if prefix else ""


def _origin(setting: str, given: str | None) -> str | None:
    if not given:
        return None
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(f"{setting} is {given!r}: it takes a URL, such as https://s3.example.")
    if parts.path.strip("/") or parts.query or parts.username:
        raise Misconfigured(
            f"{setting} is {given!r}: it takes scheme, host and port alone. The bucket is named by "
            "DARKROOM_S3_BUCKET, what comes before the keys by DARKROOM_S3_PREFIX."
        )
    return given.rstrip("/")
