"""Reading the body of a call."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, cast

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import FieldProblem, InvalidInput, TooLarge

THREAD_BYTES = 256 * 1024
"""From this size on the body is parsed in a thread: others would wait for it."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


async def read_body(request: HttpRequest, max_bytes: int) -> bytes:
    """All of it; ``TooLarge`` as soon as it is known to be longer than ``max_bytes``."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    receive = request.receive
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_json(request: HttpRequest, max_bytes: int) -> Any:
    """The body as JSON; ``InvalidInput`` says where it is not, or holds what cannot be stored."""
    raw = await read_body(request, max_bytes)
    if len(raw) > THREAD_BYTES:
        return await asyncio.to_thread(parse, raw)
    return parse(raw)


def parse(raw: bytes) -> Any:
    """``raw`` as JSON; ``InvalidInput`` when it is none."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise _invalid(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise _invalid("the body is not UTF-8", error.start) from None
    except RecursionError:
        raise _invalid("it is nested too deeply", 0) from None
    except ValueError as error:  # NaN, or a number with thousands of digits
        raise _invalid(str(error), 0) from None
    if b"\\u" in raw:
        refuse_unstorable(value, ("body",))
    return value


def refuse_unstorable(value: Any, where: tuple[str | int, ...]) -> None:
    """``InvalidInput`` names where in ``value`` there is NUL or a lone surrogate: JSON can have
    them as escapes, and a form can have NUL, but they are no text anywhere else."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            message = "Input should not contain NUL or half of a surrogate pair"
            problem = FieldProblem(where, message, "string_unicode")
            raise InvalidInput(f"{'.'.join(map(str, where[1:]))}: {message}", (problem,))
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            refuse_unstorable(key, where)
            refuse_unstorable(inner, (*where, key))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Any]", value)):
            refuse_unstorable(inner, (*where, index))


def _invalid(what: str, position: int) -> InvalidInput:
    problem = FieldProblem(("body", position), "JSON decode error", "json_invalid", {"error": what})
    return InvalidInput(
        f"The body is not valid JSON: {what} (at character {position}).", (problem,)
    )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {max_bytes} bytes allowed here.")
