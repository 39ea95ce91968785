"""Signatures of webhooks with the same keys in two header sets: fal's and Standard Webhooks'."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.ports import Clock
from serve_app.domain.webhook import SigningSeed, SigningSeeds

KEEP_S = 60.0
"""Cache time of the keys. A new key is announced a day before it signs."""

OVERLAP_S = 86_400.0
"""Time for which a replaced key is still published to receivers."""


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """Message to sign and send. The signature includes the time of the try."""

    delivery_id: str  # the same for every try
    request_id: str
    tenant: str
    body: bytes
    trace: str = ""  # W3C trace context to send


class SigningKey:
    """Ed25519 key pair that signs webhooks."""

    def __init__(self, seed: SigningSeed) -> None:
        self.kid = seed.kid
        self.signs = seed.signs
        self._seed = seed.seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed.seed)

    @property
    def public(self) -> bytes:
        """Public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def jwk(self) -> dict[str, str]:
        """JSON Web Key of the public key (Ed25519, RFC 8037)."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        key = {"kty": "OKP", "crv": "Ed25519", "x": x}
        return key | {"kid": self.kid, "alg": "EdDSA", "use": "sig"}

    def sign(self, content: bytes) -> bytes:
        return self._private.sign(content)

    def secret_of(self, tenant: str) -> bytes:
        """Tenant's symmetric secret, 32 bytes. It reveals nothing about the key."""
        info = f"darkroom webhook secret of {tenant}".encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._seed)


class Signer:
    """Signer with the current key. Use it in one event loop only."""

    def __init__(self, seeds: SigningSeeds, clock: Clock) -> None:
        self._seeds = seeds
        self._clock = clock
        self._keys: Sequence[SigningKey] = ()
        self._read_at = 0.0

    async def keys(self) -> Sequence[SigningKey]:
        """Keys that receivers should know.

        These are the signing key, its successor if there is one, and its predecessor for a day.
        Raises ``DatabaseUnavailable`` if no keys have been read yet.
        """
        now = self._clock.monotonic()
        if not self._keys or now - self._read_at >= KEEP_S:
            try:
                self._keys = published_keys(await self._seeds.all())
                self._read_at = now
            except DatabaseUnavailable:
                if not self._keys:
                    raise  # otherwise the keys that were read last are still usable
        return self._keys

    def forget(self) -> None:
        """Clear the cache after the keys have changed."""
        self._keys = ()

    async def headers(self, message: SignedMessage) -> Mapping[str, str]:
        """Signature headers of both sets."""
        keys = await self.keys()
        signing = [key for key in keys if key.signs][-1]
        timestamp = int(self._clock.now().timestamp())
        return {**_fals(message, timestamp, signing), **_standard(message, timestamp, keys)}

    async def jwks(self) -> Mapping[str, Any]:
        return {"keys": [key.jwk() for key in await self.keys()]}

    async def secrets_of(self, tenant: str) -> Sequence[str]:
        """Secret ``whsec_…`` of each key. Every webhook has a signature for each of them."""
        secrets = [base64.b64encode(key.secret_of(tenant)) for key in await self.keys()]
        return [f"whsec_{secret.decode()}" for secret in secrets]


def published_keys(seeds: Sequence[SigningSeed]) -> Sequence[SigningKey]:
    """Keys to publish, from all keys in the order in which they sign. See ``Signer.keys``."""
    return [
        SigningKey(seed)
        for seed, after in zip(seeds, [*seeds[1:], None], strict=True)
        if after is None or after.age_s < OVERLAP_S
    ]


def _fals(message: SignedMessage, timestamp: int, key: SigningKey) -> dict[str, str]:
    digest = hashlib.sha256(message.body).hexdigest()
    content = f"{message.request_id}\n{message.tenant}\n{timestamp}\n{digest}"
    return {
        "x-fal-webhook-request-id": message.request_id,
        "x-fal-webhook-user-id": message.tenant,
        "x-fal-webhook-timestamp": str(timestamp),
        "x-fal-webhook-signature": key.sign(content.encode()).hex(),
    }


def _standard(message: SignedMessage, timestamp: int, keys: Sequence[SigningKey]) -> dict[str, str]:
    """Standard Webhooks headers: symmetric (``v1``) and asymmetric (``v1a``) signatures by every
    key, because a receiver may know any of them."""
    content = f"{message.delivery_id}.{timestamp}.".encode() + message.body
    signatures: list[str] = []
    for key in keys:
        by_secret = hmac.new(key.secret_of(message.tenant), content, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(by_secret).decode()}")
        signatures.append(f"v1a,{base64.b64encode(key.sign(content)).decode()}")
    return {
        "webhook-id": message.delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
