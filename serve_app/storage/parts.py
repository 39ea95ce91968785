"""What uploads in parts have in common, wherever they go."""

from __future__ import annotations

import re

from serve_app.domain.errors import InvalidInput, NotFound

PARTS_ID = re.compile(r"[0-9a-f]{32}")

MOST_PARTS = 10_000
"""As many as S3 takes."""


def missing_part(number: int | None = None) -> InvalidInput:
    """Not there, or another one by now than its ETag says. None: the store does not say which."""
    which = "a part" if number is None else f"part {number}"
    message = f"{which} is not there as its ETag says: upload it again"
    return InvalidInput.of_field("parts", message)


def no_parts() -> NotFound:
    return NotFound("There is no such upload, or no more: begin a new one.")
