"""URLs that clients send, which may be any text."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split_url(text: str) -> SplitResult:
    """Parts of a URL. All of them are empty for a text that is none, such as ``http://[``."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")
