"""Input file of ``darkroom batch run``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from serve_app.domain.errors import InvalidInput

METADATA = "darkroom_input"
"""Key in the metadata of a batch: SHA-256 of its lines, by which a repeated command finds it."""
RUN = "/run/"


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Lines to run, as they are uploaded."""

    content: bytes
    url: str
    names: Sequence[str]  # custom ids

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.url.encode() + b"\0" + self.content).hexdigest()


def read_source(file: Path, endpoint: str | None) -> BatchSource:
    """Read a file. ``endpoint``: its lines are inputs of this endpoint; None: they are lines of
    OpenAI's batches. ``InvalidInput`` names the line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as UTF-8 text: {error}.") from None
    numbered = [(n, each) for n, each in enumerate(text.split("\n"), 1) if each.strip()]
    if not numbered:
        raise InvalidInput(f"{file} has no lines. Write one JSON object on each line.")
    lines = [_line(n, each, endpoint) for n, each in numbered]
    content = "\n".join(json.dumps(each, separators=(",", ":")) for each in lines) + "\n"
    return BatchSource(
        content.encode(), str(lines[0]["url"]), [str(each.get("custom_id")) for each in lines]
    )


def _line(number: int, text: str, endpoint: str | None) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"Line {number} is not JSON ({error}). Write one JSON object on each line, such as "
            '{"prompt": "a red circle"}.'
        ) from None
    if not isinstance(value, dict):
        raise InvalidInput(f"Line {number} is not a JSON object.")
    fields = cast("dict[str, Any]", value)
    whole = {"custom_id", "url", "body"} <= fields.keys()
    if endpoint is None and not whole:
        raise InvalidInput(
            f"Line {number} is not a line of OpenAI's batches: it has no `custom_id`, `url` or "
            "`body`. If the lines are inputs of an endpoint, name it: --endpoint ID"
        )
    if endpoint is None:
        return fields
    if whole:
        raise InvalidInput(
            f"Line {number} is a line of OpenAI's batches, which names its call. Leave out "
            "--endpoint."
        )
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": RUN + endpoint,
        "body": fields,
    }
