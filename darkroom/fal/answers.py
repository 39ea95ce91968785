"""What an app's HTTP answer means for a request: an output, or a failure."""

from __future__ import annotations

import json
from typing import Any, cast

from darkroom.fal.exchange import Exchange
from darkroom.fal.local_files import LocalFiles
from darkroom.media_types import suffix_of_type
from darkroom.reporting import place_of

INVALID = 422

RETRIED = frozenset({503, 504})
"""Statuses after which another attempt may succeed: of fal's errors of a GPU, and of time."""


class Failure(Exception):
    """An answer that is no output. ``field``: of the input, if the app refused one."""

    def __init__(
        self,
        message: str,
        status: int = 500,
        field: str = "",
        type: str = "",
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.field = field
        self.type = type
        self.cause = cause

    def as_message(self) -> dict[str, Any]:
        if 400 <= self.status < 500:
            return {
                "kind": "invalid",
                "field": self.field,
                "message": self.message,
                "type": self.type,
            }
        return {
            "kind": "failed",
            "message": self.message,
            "retry": self.status in RETRIED,
        }


def failure_of(exchange: Exchange, content: bytes) -> Failure:
    """Failure of an answer with an error status, of none, or of a stream that broke."""
    status, error = exchange.status, exchange.error
    if status < 400:  # the app raised before its answer, or within it
        message = place_of(error) if error else "The app ended the call without an answer."
        return Failure(message, cause=error)
    detail = _detail(content)
    if isinstance(detail, list) and detail:
        first = cast("dict[str, Any]", cast("list[Any]", detail)[0])
        loc = [str(part) for part in first.get("loc", ())]
        field = ".".join(loc[1:] if loc[:1] in (["body"], ["query"]) else loc)
        return Failure(str(first.get("msg")), status, field, str(first.get("type", "")), error)
    if error is not None and status == 500:  # fal's text says only that it failed
        return Failure(place_of(error), status, cause=error)
    message = detail if isinstance(detail, str) else json.dumps(detail)
    if error is not None and status in RETRIED:
        message = f"{message} ({place_of(error)})"
    return Failure(message, status, cause=error)


def _detail(content: bytes) -> Any:
    try:
        document = json.loads(content)
    except ValueError:
        return content.decode(errors="replace").strip() or "The app's answer is empty."
    return (
        cast("dict[str, Any]", document).get("detail", document)
        if isinstance(document, dict)
        else document
    )


def outputs_of(content_type: str, content: bytes, files: LocalFiles) -> dict[str, Any]:
    """Output of a successful answer. What is no object is sent as ``output``, and what is no JSON
    as a file."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not content:
        return {"output": None}
    if media_type in ("", "application/json"):
        try:
            output = json.loads(content)
        except ValueError:
            output = content.decode(errors="replace")
        return cast("dict[str, Any]", output) if isinstance(output, dict) else {"output": output}
    if media_type.startswith("text/"):
        return {"output": content.decode(errors="replace")}
    kind = media_type.partition("/")[0]
    path = files.new("output" + (suffix_of_type(media_type) or ".bin"))
    path.write_bytes(content)
    url = files.offer(path, media_type)
    name = kind if kind in ("image", "video", "audio") else "file"
    return {name: {"url": url, "content_type": media_type, "file_size": len(content)}}
