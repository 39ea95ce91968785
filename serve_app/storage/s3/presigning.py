"""Presigned URLs: AWS Signature Version 4 in the query of the URL.

boto3 makes the same URLs at fifteen times the CPU, and an image with its thumbnail needs six. So
one URL is taken from it, for host, path and region, and the others are signed here
(https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_PROBE = "x"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _now() -> datetime:
    return datetime.now(UTC)


class Presigner:
    """Signs URLs of one bucket at one endpoint."""

    def __init__(
        self, client: Any, bucket: str, credentials: Any, now: Callable[[], datetime] = _now
    ) -> None:
        """``client``: boto3's client of the endpoint, with the same ``credentials``, which are
        frozen ones of botocore."""
        url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": _PROBE}, 60)
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._folder = parts.path.removesuffix(_PROBE)
        is_default = parts.port in (None, _DEFAULT_PORTS[parts.scheme])
        # `hostname` has no brackets round an IPv6 address, and the header Host has.
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else f"{parts.hostname}"
        self._host = name if is_default else f"{name}:{parts.port}"
        (credential,) = parse_qs(parts.query)["X-Amz-Credential"]
        _, _, self._region, self._service, self._end = credential.rsplit("/", 4)
        self._credentials = credentials
        self._now = now
        self._key_of = "", b""  # the day, and the key that signs on it

    def url(
        self,
        method: str,
        name: str,
        valid_s: float,
        *,
        headers: Sequence[tuple[str, str]] = (),
        params: Mapping[str, str] | None = None,
    ) -> str:
        """URL for one call on the object ``name``. Names of ``headers`` are lower-case."""
        at = self._now().strftime("%Y%m%dT%H%M%SZ")
        day = at[:8]
        scope = f"{day}/{self._region}/{self._service}/{self._end}"
        signed = sorted([("host", self._host), *headers])
        names = ";".join(header for header, _ in signed)
        auth = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self._credentials.access_key}/{scope}",
            "X-Amz-Date": at,
            "X-Amz-Expires": str(int(valid_s)),
            "X-Amz-SignedHeaders": names,
        }
        if self._credentials.token is not None:
            auth["X-Amz-Security-Token"] = self._credentials.token
        pairs = [f"{key}={quote(value, '')}" for key, value in {**(params or {}), **auth}.items()]
        path = self._folder + quote(name, "/~")
        lines = "".join(f"{header}:{' '.join(value.split())}\n" for header, value in signed)
        call = f"{method}\n{path}\n{'&'.join(sorted(pairs))}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(call.encode()).hexdigest()
        signature = _hmac(self._key(day), f"{_ALGORITHM}\n{at}\n{scope}\n{digest}").hex()
        return f"{self._origin}{path}?{'&'.join(pairs)}&X-Amz-Signature={signature}"

    def _key(self, day: str) -> bytes:
        if self._key_of[0] != day:
            key = f"AWS4{self._credentials.secret_key}".encode()
            for part in (day, self._region, self._service, self._end):
                key = _hmac(key, part)
            self._key_of = day, key
        return self._key_of[1]


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
