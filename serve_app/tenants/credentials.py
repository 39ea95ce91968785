"""API key credentials in the form ``id:secret``."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.domain.errors import Misconfigured, Unauthenticated

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(r"[\x21-\x7e]{16,256}")


@dataclass(frozen=True, slots=True)
class Credential:
    """Public id and secret of a key. ``repr`` omits the secret, so that it is never logged."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential(id={self.id!r})"

    def __str__(self) -> str:
        return f"{self.id}:{self.secret}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret. A slow hash is not necessary: the secret has 256 random bits."""
        return digest_of(self.secret)


def new_credential(token: Callable[[int], str] = secrets.token_hex) -> Credential:
    return Credential(id=f"dk_{token(8)}", secret=token(32))


def new_token() -> str:
    """Secret of a link: 192 random bits, short enough for a QR code."""
    return secrets.token_urlsafe(24)


def digest_of(secret: str) -> bytes:
    """What is stored in place of a secret, which is random, so that its hash need not be slow."""
    return hashlib.sha256(secret.encode()).digest()


def short_hash(text: str) -> str:
    """What is recorded in place of a text that may be a secret: it says whether it was the same."""
    return f"sha256:{digest_of(text).hex()[:12]}"


def parse(text: str) -> Credential | None:
    """Parse ``id:secret``; None if ``text`` is malformed."""
    key_id, colon, secret = text.partition(":")
    if not colon or not _ID.fullmatch(key_id) or not _SECRET.fullmatch(secret):
        return None
    return Credential(key_id, secret)


def parse_setting(text: str) -> Credential:
    """Parse a key from the operator's settings. Raises ``Misconfigured`` if it is malformed."""
    credential = parse(text.strip())
    if credential is None:
        raise Misconfigured(
            "DARKROOM_API_KEY must be `id:secret`: an id of letters, digits, `-` or `_`, a colon, "
            "and a secret of at least 16 characters without spaces."
        )
    return credential


def claimed_id(header: str | None) -> str:
    """Id of the key that an ``Authorization`` header names, true or not; empty if it names none."""
    credential = parse((header or "").partition(" ")[2].strip())
    return "" if credential is None else credential.id


def from_header(header: str | None) -> Credential:
    """Credential of an ``Authorization`` header: ``Key id:secret`` or ``Bearer id:secret``.

    Raises ``Unauthenticated`` if the header is missing or malformed.
    """
    if not header:
        raise Unauthenticated(
            "An API key is required: send the header `Authorization: Key <id>:<secret>`."
        )
    scheme, _, rest = header.partition(" ")
    if scheme.lower() not in ("key", "bearer"):
        raise Unauthenticated("The Authorization header must be `Key <id>:<secret>`.")
    credential = parse(rest.strip())
    if credential is None:
        raise Unauthenticated("The API key is malformed: it must be `<id>:<secret>`.")
    return credential
