"""Files inside of URLs."""

from __future__ import annotations

import base64


def data_uri(content: bytes, media_type: str) -> str:
    """URL that holds a file (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
