"""Signatures of webhooks: fal's header set and that of Standard Webhooks, by the same keys."""

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
"""For so long the keys are not read anew. A new one is announced a day before it signs."""

OVERLAP_S = 86_400.0
"""For so long after a key was replaced receivers still learn of it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent, and signed with the time of the try."""

    delivery_id: str  # the same at each try
    request_id: str
    tenant: str
    body: bytes


class SigningKey:
    def __init__(self, seed: SigningSeed) -> None:
        self.kid = seed.kid
        self.signs = seed.signs
        self._seed = seed.seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed.seed)

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def jwk(self) -> dict[str, str]:
        """As RFC 8037 writes an Ed25519 key."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        key = {"kty": "OKP", "crv": "Ed25519", "x": x}
        return key | {"kid": self.kid, "alg": "EdDSA", "use": "sig"}

    def sign(self, content: bytes) -> bytes:
        return self._private.sign(content)

    def secret_of(self, tenant: str) -> bytes:
        """32 bytes that the tenant may know, and that tell nothing of the key."""
        info = f"darkroom webhook secret of {tenant}".encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._seed)


class Signer:
    """Signs with the key of the day. Give it to one event loop."""

    def __init__(self, seeds: SigningSeeds, clock: Clock) -> None:
        self._seeds = seeds
        self._clock = clock
        self._keys: Sequence[SigningKey] = ()
        self._read_at = 0.0

    async def keys(self) -> Sequence[SigningKey]:
        """Those that receivers should know: the one that signs, its successor once there is one,
        and its predecessor for a day."""
        now = self._clock.monotonic()
        if not self._keys or now - self._read_at >= KEEP_S:
            try:
                self._keys = known(await self._seeds.all())
                self._read_at = now
            except DatabaseUnavailable:
                if not self._keys:
                    raise  # else those that were read last are good enough
        return self._keys

    def forget(self) -> None:
        """The keys were changed: read them again."""
        self._keys = ()

    async def headers(self, parcel: Parcel) -> Mapping[str, str]:
        """Both sets."""
        keys = await self.keys()
        signing = [key for key in keys if key.signs][-1]
        timestamp = int(self._clock.now().timestamp())
        return {**_fals(parcel, timestamp, signing), **_standard(parcel, timestamp, keys)}

    async def jwks(self) -> Mapping[str, Any]:
        return {"keys": [key.jwk() for key in await self.keys()]}

    async def secrets_of(self, tenant: str) -> Sequence[str]:
        """``whsec_…`` of each key; whichever the tenant takes, its signature is there."""
        found = [base64.b64encode(key.secret_of(tenant)) for key in await self.keys()]
        return [f"whsec_{secret.decode()}" for secret in found]


def known(seeds: Sequence[SigningSeed]) -> Sequence[SigningKey]:
    """What ``Signer.keys`` tells, from all keys in the order in which they sign."""
    return [
        SigningKey(seed)
        for seed, after in zip(seeds, [*seeds[1:], None], strict=True)
        if after is None or after.age_s < OVERLAP_S
    ]


def _fals(parcel: Parcel, timestamp: int, key: SigningKey) -> dict[str, str]:
    digest = hashlib.sha256(parcel.body).hexdigest()
    content = f"{parcel.request_id}\n{parcel.tenant}\n{timestamp}\n{digest}"
    return {
        "x-fal-webhook-request-id": parcel.request_id,
        "x-fal-webhook-user-id": parcel.tenant,
        "x-fal-webhook-timestamp": str(timestamp),
        "x-fal-webhook-signature": key.sign(content.encode()).hex(),
    }


def _standard(parcel: Parcel, timestamp: int, keys: Sequence[SigningKey]) -> dict[str, str]:
    """Symmetric (``v1``) and not (``v1a``), by every key: a receiver may have any of them."""
    content = f"{parcel.delivery_id}.{timestamp}.".encode() + parcel.body
    signatures: list[str] = []
    for key in keys:
        by_secret = hmac.new(key.secret_of(parcel.tenant), content, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(by_secret).decode()}")
        signatures.append(f"v1a,{base64.b64encode(key.sign(content)).decode()}")
    return {
        "webhook-id": parcel.delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
