"""Texts that are Unicode: Python's may have half of a surrogate pair, which no encoding has."""

from __future__ import annotations

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def to_well_formed(value: Any) -> Any:
    """``value``, which is JSON, with a question mark for each half of a surrogate pair: apps make
    them by cutting a text in the middle of an emoji."""
    text = _encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return value
