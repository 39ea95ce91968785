"""Encoding of frames: msgpack in binary messages, in both directions."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeVar, cast

import msgpack

from serve_app.domain.errors import FieldProblem, InvalidInput, TooLarge
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.outcome import Outcome

SizedT = TypeVar("SizedT", bound=Sized)

MAX_DEPTH = 32
"""Limit of nested maps and lists in a frame. No input has more than four levels."""

MAX_VALUES = 20_000
"""Limit of the values in a frame, those of maps and lists included. Each takes microseconds of the
process, and a frame of thousands may be a few hundred bytes when it is sent."""

SMALL = 16 * 1024
"""Bytes of a frame that is decoded at once. Larger ones go to a thread, which takes 0.1 ms more."""

MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"RIFF": "image/webp",
}
"""First bytes of file types. Bytes in a frame come without their type."""


def unpack(message: bytes, max_bytes: int) -> dict[str, Any]:
    """Decode the input in a frame to JSON values.

    Bytes become data URIs. A field that is nil is left out, because JavaScript sends ``undefined``
    as nil. ``TooLarge``: over ``max_bytes`` or ``MAX_VALUES``. ``InvalidInput``: not a map of JSON
    values.
    """
    if len(message) > max_bytes:
        raise TooLarge(f"The frame has {len(message)} bytes; the limit is {max_bytes}.")
    count = _Counter()
    try:
        value = msgpack.unpackb(
            message,
            raw=False,
            strict_map_key=True,
            list_hook=count,
            object_hook=count,
            max_array_len=MAX_VALUES,
            max_map_len=MAX_VALUES,
        )
    except msgpack.StackError:
        raise _invalid_value((), "it is nested too deeply") from None
    except (ValueError, msgpack.UnpackException) as error:
        # `FormatError`, for what is not msgpack, has no message.
        raise _invalid_value((), str(error) or "it is not msgpack") from None
    if not isinstance(value, dict):
        raise _invalid_value((), "it should be a map of the input's fields")
    fields = cast("dict[Any, Any]", value)
    return {name: inner for name, inner in _plain(fields, ()).items() if inner is not None}


class _Counter:
    """Counts the values of lists and maps while they are decoded."""

    def __init__(self) -> None:
        self._values = 0

    def __call__(self, container: SizedT) -> SizedT:
        self._values += len(container)
        if self._values > MAX_VALUES:
            raise TooLarge(f"The frame has more than {MAX_VALUES} values.")
        return container


def pack(value: Mapping[str, Any]) -> bytes:
    """Encode a frame. Halves of surrogate pairs, which apps cut out of texts, become ``?``."""
    packed = msgpack.packb(value, use_bin_type=True, unicode_errors="replace")
    return cast("bytes", packed)


def render_output(outcome: Outcome, files: Mapping[str, bytes], *, inline: bool) -> dict[str, Any]:
    """Output of a frame with its files inside.

    A file is bytes under ``content``, or with ``inline`` (``sync_mode``) a data URI under ``url``.
    """

    def render(value: Any) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            if isinstance(key := fields.get("artifact"), str) and key in files:
                rest = {name: inner for name, inner in fields.items() if name != "artifact"}
                return types[key] | rest | _content(files[key], types[key]["content_type"])
            return {name: render(inner) for name, inner in fields.items()} | _decode_image(fields)
        if isinstance(value, (list, tuple)):
            return [render(inner) for inner in cast("Sequence[Any]", value)]
        return value

    def _content(body: bytes, media_type: str) -> dict[str, Any]:
        return {"url": data_uri(body, media_type)} if inline else {"content": body}

    types: dict[str, dict[str, Any]] = {
        artifact.key: {"content_type": artifact.media_type} for artifact in outcome.artifacts
    }
    return render(outcome.output or {})


def _decode_image(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of an image that a family wrote into its output, which is JSON, as Base64."""
    content = fields.get("content")
    if not isinstance(content, str) or not str(fields.get("content_type", "")).startswith("image/"):
        return {}
    try:
        return {"content": base64.b64decode(content, validate=True)}
    except ValueError:  # it is not Base64, or not ASCII
        return {}


def _plain(value: Any, where: tuple[str | int, ...]) -> Any:
    """``value`` as JSON. ``InvalidInput`` names the place where that is not possible."""
    if len(where) > MAX_DEPTH:
        raise _invalid_value(where[:3], "it is nested too deeply")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid_value(where, "it should be a finite number")
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise _invalid_value(where, "it should not contain NUL")
        return value
    if isinstance(value, bytes):
        return data_uri(value, _media_type(value))
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_plain(inner, (*where, number)) for number, inner in enumerate(items)]
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return {_name(name, where): _plain(inner, (*where, name)) for name, inner in fields.items()}
    raise _invalid_value(where, f"it should be a JSON value or bytes, not a {type(value).__name__}")


def _name(name: Any, where: tuple[str | int, ...]) -> str:
    if not isinstance(name, str) or "\0" in name:
        raise _invalid_value(where, "the names of its fields should be text")
    return name


def _media_type(body: bytes) -> str:
    for magic, media_type in MAGIC.items():
        if body.startswith(magic):
            return media_type
    return "application/octet-stream"


def _invalid_value(where: tuple[str | int, ...], what: str) -> InvalidInput:
    subject = ".".join(str(part) for part in where) or "The frame"
    problem = FieldProblem(("body", *where), what, "value_error")
    return InvalidInput(f"{subject}: {what}.", (problem,))
