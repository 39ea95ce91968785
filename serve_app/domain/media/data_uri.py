"""Files inside of URLs (RFC 2397)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from urllib.parse import unquote_to_bytes

_FILE = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w.+-]+=[^,;]*)*;base64,", re.ASCII | re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")


def is_data_uri(url: str) -> bool:
    """Return whether a URL holds a file."""
    return url[:5].lower() == "data:"


def begins_as_file(text: str) -> bool:
    """Return whether a text, which may be prose, is a data URI with a type and base64."""
    return _FILE.match(text) is not None


def data_uri(content: bytes, media_type: str) -> str:
    """URL that holds a file."""
    return data_uri_of_base64(b64encode(content).decode("ascii"), media_type)


def data_uri_of_base64(encoded: str, media_type: str) -> str:
    """URL that holds a file whose content is in base64 already."""
    return f"data:{media_type};base64,{encoded}"


def media_type_of_data_uri(uri: str) -> str:
    """Media type that a data URI states, without its parameters; empty if it states none."""
    return uri[5:].partition(",")[0].partition(";")[0]


def read_data_uri(uri: str) -> bytes:
    """Content of a data URI. ``ValueError`` says why it cannot be read.

    Of base64, either alphabet is read. Clients insert line breaks and omit the padding.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise ValueError("the data: URI has no comma")
    content = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return content
    compact = b"".join(content.split()).rstrip(b"=").translate(_STANDARD)
    try:
        return b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"the data: URI cannot be read: {error}") from None
