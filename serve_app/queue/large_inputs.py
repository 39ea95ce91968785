"""What is told of an input that is too long to be told whole: pictures inside it, mostly.

The whole of it is for the replica alone. A status, a list or a log would carry megabytes each time
somebody looks, and whoever remembers many requests would remember all their pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.queue import wording

LARGE_CHARACTERS = 64 * 1024
"""Of JSON in ASCII."""
FIELD_CHARACTERS = 2048
BEGINNING = 100
FIELDS = 64


class Encoded:
    """An input as it is stored. ``told``: what is told of it, itself unless it is large."""

    __slots__ = ("large", "text", "told")

    def __init__(self, input: Mapping[str, Any]) -> None:
        self.text = wording.compact(input)
        self.large = len(self.text) > LARGE_CHARACTERS
        self.told = told(input) if self.large else input

    @property
    def shown(self) -> str | None:
        """``told`` as it is stored beside a large one."""
        return wording.compact(self.told) if self.large else None


def told(input: Mapping[str, Any]) -> Mapping[str, Any]:
    """Each field that is not long itself as it is; of a long text the beginning and its length, of
    any other its length alone."""
    cut = {name[:BEGINNING]: _told(value) for name, value in list(input.items())[:FIELDS]}
    left_out = len(input) - FIELDS
    return cut | ({"…": f"{left_out} more fields"} if left_out > 0 else {})


def _told(value: object) -> object:
    if isinstance(value, str):
        if len(value) <= FIELD_CHARACTERS:
            return value
        return f"{value[:BEGINNING]}… ({len(value)} characters)"
    length = len(wording.compact(value))
    return value if length <= FIELD_CHARACTERS else f"… ({length} characters of JSON)"
