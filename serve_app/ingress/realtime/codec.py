"""Frames as they travel: msgpack in binary messages, both ways."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgpack

from serve_app.domain.errors import FieldProblem, InvalidInput, TooLarge
from serve_app.domain.outcome import Outcome

DEEPEST = 32
"""Levels of maps and lists in a frame. No input has more than four."""

MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"RIFF": "image/webp",
}
"""How files begin. Bytes in a frame come without their type."""


def unpack(message: bytes, max_bytes: int) -> dict[str, Any]:
    """The input in a frame, as JSON would have it: bytes become data URIs, and a field that is nil
    counts as not given (JavaScript sends ``undefined`` so).

    ``TooLarge`` over ``max_bytes``; ``InvalidInput`` for what is no map of JSON values.
    """
    if len(message) > max_bytes:
        raise TooLarge(f"The frame has {len(message)} bytes, and {max_bytes} are allowed here.")
    try:
        value = msgpack.unpackb(message, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        # Of several libraries' errors; `StackError`, of what is nested too deeply, has no words.
        raise _invalid((), str(error) or "it is nested too deeply") from None
    if not isinstance(value, dict):
        raise _invalid((), "it should be a map of the input's fields")
    fields = cast("dict[Any, Any]", value)
    return {name: inner for name, inner in _plain(fields, ()).items() if inner is not None}


def pack(value: Mapping[str, Any]) -> bytes:
    return cast("bytes", msgpack.packb(value, use_bin_type=True))


def rendered(outcome: Outcome, files: Mapping[str, bytes], *, inline: bool) -> dict[str, Any]:
    """The output of a frame with its files inside: under ``content`` the bytes, or with ``inline``
    (what ``sync_mode`` asks for) under ``url`` a data URI."""

    def render(value: Any) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            if isinstance(key := fields.get("artifact"), str) and key in files:
                rest = {name: inner for name, inner in fields.items() if name != "artifact"}
                return types[key] | rest | _content(files[key], types[key]["content_type"])
            return {name: render(inner) for name, inner in fields.items()} | _unpacked(fields)
        if isinstance(value, (list, tuple)):
            return [render(inner) for inner in cast("Sequence[Any]", value)]
        return value

    def _content(body: bytes, media_type: str) -> dict[str, Any]:
        return {"url": data_uri(body, media_type)} if inline else {"content": body}

    types: dict[str, dict[str, Any]] = {
        each.key: {"content_type": each.media_type} for each in outcome.artifacts
    }
    return render(outcome.output or {})


def data_uri(body: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(body).decode('ascii')}"


def _unpacked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A picture that its family writes into the output, as Base64 since outputs are JSON."""
    content = fields.get("content")
    if not isinstance(content, str) or not str(fields.get("content_type", "")).startswith("image/"):
        return {}
    try:
        return {"content": base64.b64decode(content, validate=True)}
    except binascii.Error:
        return {}


def _plain(value: Any, where: tuple[str | int, ...]) -> Any:
    """``value`` as JSON has it; ``InvalidInput`` where it cannot be."""
    if len(where) > DEEPEST:
        raise _invalid(where[:3], "it is nested too deeply")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid(where, "it should be a finite number")
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise _invalid(where, "it should not contain NUL")
        return value
    if isinstance(value, bytes):
        return data_uri(value, _media_type(value))
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_plain(inner, (*where, number)) for number, inner in enumerate(items)]
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return {_name(name, where): _plain(inner, (*where, name)) for name, inner in fields.items()}
    raise _invalid(where, f"it should be a JSON value or bytes, not a {type(value).__name__}")


def _name(name: Any, where: tuple[str | int, ...]) -> str:
    if not isinstance(name, str) or "\0" in name:
        raise _invalid(where, "the names of its fields should be text")
    return name


def _media_type(body: bytes) -> str:
    for magic, media_type in MAGIC.items():
        if body.startswith(magic):
            return media_type
    return "application/octet-stream"


def _invalid(where: tuple[str | int, ...], what: str) -> InvalidInput:
    subject = ".".join(str(part) for part in where) or "The frame"
    problem = FieldProblem(("body", *where), what, "value_error")
    return InvalidInput(f"{subject}: {what}.", (problem,))
