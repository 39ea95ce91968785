"""How a receiver checks a webhook, as fal's documentation has it: nothing of Darkroom's in it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEEWAY_S = 300


def verified(headers: Mapping[str, str], body: bytes, jwks: Mapping[str, Any]) -> bool:
    """``headers`` with names in lower case; ``jwks`` as it was fetched."""
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
