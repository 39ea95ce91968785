"""Verification of a webhook by a receiver, from fal's documentation, without code of Darkroom."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEEWAY_S = 300


def verify_webhook(headers: Mapping[str, str], body: bytes, jwks: Mapping[str, Any]) -> bool:
    """Verify a webhook. ``headers`` have names in lower case; ``jwks`` is the fetched document."""
    request_id = headers["x-fal-webhook-request-id"]
    user_id = headers["x-fal-webhook-user-id"]
    timestamp = headers["x-fal-webhook-timestamp"]
    if abs(time.time_ns() / 1e9 - int(timestamp)) > LEEWAY_S:
        return False
    digest = hashlib.sha256(body).hexdigest()
    message = "\n".join([request_id, user_id, timestamp, digest]).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    for key in jwks["keys"]:
        x = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
        try:
            Ed25519PublicKey.from_public_bytes(x).verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False
