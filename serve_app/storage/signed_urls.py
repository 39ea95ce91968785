"""Signatures with which anyone reads a private file: in a URL, or in the token of a replica."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from serve_app.domain.errors import Forbidden
from serve_app.domain.media.file_access import FileAccess
from serve_app.domain.ports import Clock

EXPIRES, ID, SIGNATURE = "expires", "id", "signature"
READER = "darkroom-reader"
"""Beginning of the tokens of replicas. No API key begins with it."""


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """Query of a signed URL."""

    query: str
    signature: str
    expires_at: int | None  # as a time stamp; None: it does not expire


class FileUrlSigner:
    """Issuer and verifier of signatures: HMAC-SHA256 over the key, the expiry, and the generation
    of the file's signatures, which a revocation of all of them increases.

    ``secret`` is the same in every ingress replica.
    """

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def with_keyed_id(self, access: FileAccess, *, outputs: bool) -> FileAccess:
        """Rules of new files, with an id that only this installation can compute."""
        return access.with_keyed_id(self._secret + b"\0rules", outputs=outputs)

    def sign(
        self, key: str, expires_at: int | None, generation: int = 0, *, unique: bool = False
    ) -> SignedUrl:
        """Query for a URL of the file. ``unique``: it differs from all others, so that it can be
        revoked alone; otherwise the same arguments give the same URL."""
        id_ = secrets.token_urlsafe(9) if unique else ""
        signature = self._signature("read", key, expires_at or "", id_, generation)
        fields = {EXPIRES: expires_at, ID: id_, SIGNATURE: signature}
        query = "&".join(f"{name}={value}" for name, value in fields.items() if value)
        return SignedUrl(query, signature, expires_at)

    def check(self, key: str, params: Mapping[str, str], generation: int) -> SignedUrl:
        """The signature in ``params``. ``Forbidden``: it is not valid for the file, or it has
        expired."""
        signature, expires = params.get(SIGNATURE, ""), params.get(EXPIRES, "")
        expected = self._signature("read", key, expires, params.get(ID, ""), generation)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forbidden(
                "The signature of this URL is not valid for this file, or it was revoked. Ask its "
                "owner for a new URL."
            )
        if expires and self._clock.now().timestamp() >= int(expires):
            at = datetime.fromtimestamp(int(expires), self._clock.now().tzinfo)
            raise Forbidden(
                f"This URL expired at {at.isoformat()}. Read the result again, or ask the file's "
                "owner for a new URL."
            )
        return SignedUrl("", signature, int(expires) if expires else None)

    def reader_token(self, tenant: str, valid_s: float) -> str:
        """Token with which a replica reads what ``tenant`` may read."""
        expires = int(self._clock.now().timestamp() + valid_s)
        name = base64.urlsafe_b64encode(tenant.encode()).decode()
        return f"{READER}.{name}.{expires}.{self._signature('reader', tenant, expires)}"

    def reader(self, header: str | None) -> str | None:
        """Tenant of the replica's token in this ``Authorization`` header; None: it has none.
        ``Forbidden``: the token is not valid, or it has expired."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not text.startswith(f"{READER}."):
            return None
        try:
            _, name, expires, signature = text.split(".")
            tenant = base64.urlsafe_b64decode(name).decode()
            expected = self._signature("reader", tenant, int(expires))
        except ValueError:
            expected, tenant, expires, signature = "x", "", "0", ""
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forbidden("The token of this replica is not valid.")
        if self._clock.now().timestamp() >= int(expires):
            raise Forbidden("The token of this replica has expired.")
        return tenant

    def _signature(self, kind: str, *of: object) -> str:
        # NUL cannot occur in a query's values after their check, nor in a key or a tenant's name.
        text = "\0".join((kind, *(str(part) for part in of)))
        digest = hmac.digest(self._secret, text.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
