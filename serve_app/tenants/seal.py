"""Encryption of what the database keeps for processes and never shows: tokens and secrets.

The key is derived from a secret of the installation, so a dump of the table alone does not show
the values. Whoever reads the whole database does: the secret is in it, unless it is the operator's
own.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serve_app.domain.errors import Unavailable

NONCE_BYTES = 12


class Seal:
    """Encryption for one purpose. A sealed value can be opened for its owner only."""

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        derive = HKDF(hashes.SHA256(), 32, salt=None, info=purpose)
        self._cipher = AESGCM(derive.derive(secret))

    def seal(self, owner: str, value: str, nonce: bytes | None = None) -> bytes:
        """Encrypted value. ``nonce``: 12 bytes that are never used twice; None: random ones."""
        nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        return nonce + self._cipher.encrypt(nonce, value.encode(), owner.encode())

    def open(self, owner: str, sealed: bytes, what: str) -> str:
        """The value. ``Unavailable``: it was sealed with another secret, or for another owner.
        ``what``: its name, for the message."""
        nonce, body = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, body, owner.encode()).decode()
        except InvalidTag:
            raise Unavailable(
                f"{what} cannot be decrypted: the installation's secret has changed. Set it again."
            ) from None
