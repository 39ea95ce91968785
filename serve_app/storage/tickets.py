"""Upload tickets: signed URLs for the upload of one object through the ingress."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Forbidden
from serve_app.domain.ports import Clock


@dataclass(frozen=True, slots=True)
class TicketGrant:
    """Rights of a valid ticket."""

    key: str
    media_type: str
    max_bytes: int


class TicketSigner:
    """Issuer and verifier of tickets: HMAC-SHA256 over key, media type, size and expiry.

    ``signing_key`` is secret and the same in every ingress replica.
    """

    def __init__(self, signing_key: bytes, internal_url: str, clock: Clock) -> None:
        self._signing_key = signing_key
        self._internal_url = internal_url.rstrip("/")
        self._clock = clock
        self.marker = ""  # of ``UploadTicket``; empty: replicas write nothing themselves
        self.least_free: Callable[[], int] = lambda: 0

    def sign(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        expires = int(self._clock.now().timestamp() + valid_s)
        signature = self._signature(key, media_type, max_bytes, expires)
        query = f"type={quote(media_type)}&max={max_bytes}&expires={expires}"
        return UploadTicket(
            key=key,
            url=f"{self._internal_url}/files/{quote(key)}?{query}&signature={signature}",
            media_type=media_type,
            max_bytes=max_bytes,
            headers=(("content-type", media_type),),
            marker=self.marker,
            least_free=self.least_free(),
        )

    def check(self, key: str, params: Mapping[str, str]) -> TicketGrant:
        """Rights of the ticket in ``params``. Raises ``Forbidden`` unless it is valid for ``key``
        and has not expired."""
        try:
            media_type, signature = params["type"], params["signature"]
            max_bytes, expires = int(params["max"]), int(params["expires"])
        except (KeyError, ValueError):
            raise Forbidden(
                "To write or delete here needs a ticket, as replicas have; this URL has none."
            ) from None
        expected = self._signature(key, media_type, max_bytes, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forbidden("The upload ticket is not valid for this key.")
        if self._clock.now().timestamp() > expires:
            raise Forbidden("The upload ticket has expired.")
        return TicketGrant(key, media_type, max_bytes)

    def _signature(self, key: str, media_type: str, max_bytes: int, expires: int) -> str:
        # NUL cannot occur in any of the values, so different tuples give different texts.
        text = "\0".join((key, media_type, str(max_bytes), str(expires)))
        return hmac.digest(self._signing_key, text.encode(), "sha256").hex()
