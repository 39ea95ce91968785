"""Reading the body of a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import DarkroomError, FieldProblem, InvalidInput, TooLarge
from serve_app.ingress.services.cpu_executor import in_cpu_thread

PARSE_IN_THREAD_BYTES = 256 * 1024
"""Size from which a body is parsed in a thread, so that it does not block other calls."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


async def read_body(request: HttpRequest, max_bytes: int) -> bytes:
    """Return the whole body. Raise ``TooLarge`` as soon as it is known to exceed ``max_bytes``."""
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
    """Return the body as JSON.

    ``InvalidInput`` names the position where it is not valid JSON, or the field whose text cannot
    be stored.
    """
    raw = await read_body(request, max_bytes)
    if len(raw) > PARSE_IN_THREAD_BYTES:
        return await in_cpu_thread(parse, raw)
    return parse(raw)


def parse(raw: bytes) -> Any:
    """Parse ``raw`` as JSON. Raise ``InvalidInput`` if it is not valid JSON."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise _not_json("the body is not UTF-8", error.start) from None
    except RecursionError:
        raise _not_json("it is nested too deeply", 0) from None
    except ValueError as error:  # NaN, or a number with thousands of digits
        raise _not_json(str(error), 0) from None
    if b"\\u" in raw:
        reject_unstorable(value, ("body",))
    return value


def reject_unstorable(value: Any, where: tuple[str | int, ...]) -> None:
    """Raise ``InvalidInput`` with the location if ``value`` contains NUL or a lone surrogate.

    JSON allows both as escapes, and a form can contain NUL, but PostgreSQL and UTF-8 cannot store
    them.
    """
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            message = "Input should not contain NUL or half of a surrogate pair"
            problem = FieldProblem(where, message, "string_unicode")
            raise InvalidInput(f"{'.'.join(map(str, where[1:]))}: {message}", (problem,))
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            reject_unstorable(key, where)
            reject_unstorable(inner, (*where, key))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Any]", value)):
            reject_unstorable(inner, (*where, index))


def _not_json(what: str, position: int) -> InvalidInput:
    problem = FieldProblem(("body", position), "JSON decode error", "json_invalid", {"error": what})
    return InvalidInput(
        f"The body is not valid JSON: {what} (at character {position}).", (problem,)
    )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body exceeds the limit of {max_bytes} bytes. Send a smaller one.")


# Parsing of forms with files (``multipart/form-data``).

MULTIPART = "multipart/form-data"
MAX_FIELDS = 128


@dataclass(frozen=True, slots=True)
class FormFile:
    """One file of a form."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """Texts by field (the last one of each), and files by field. ``image[]`` means ``image``."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[FormFile]] = field(default_factory=dict)


def is_form(request: HttpRequest) -> bool:
    return request.headers.get("content-type", "").lower().startswith(MULTIPART)


async def read_form(request: HttpRequest, max_bytes: int, most_files: int) -> Form:
    """Parse a form. ``TooLarge``: it exceeds ``max_bytes``. ``InvalidInput``: it is not a form."""
    raw = await read_body(request, max_bytes)
    found = Form()
    parser = MultiPartParser(
        Headers(scope=request.scope),
        _at_once(raw),
        max_files=most_files,
        max_fields=MAX_FIELDS,
        max_part_size=max_bytes,
    )
    parser.spool_max_size = max_bytes + 1  # it is already in memory; a file would be another copy
    try:
        parsed = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        why = getattr(error, "message", None) or "it is not well formed"
        raise InvalidInput(f"The body is not a valid form: {why}") from None
    try:
        for name, value in parsed.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                media_type = value.content_type or "application/octet-stream"
                file = FormFile(value.filename or plain, media_type, await value.read())
                found.files.setdefault(plain, []).append(file)
            else:
                found.texts[plain] = value
    finally:
        await parsed.close()
    reject_unstorable(found.texts, ("body",))
    return found


async def _at_once(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw


# Streaming of a file in the body of a call.

DISK_CHECK_BYTES = 16 * 2**20
"""Bytes received between two checks of the free disk space."""

LINGER_S, LINGER_BYTES = 3.0, 64 * 2**20
"""Most seconds and bytes to read of the body of a refused client. A client that is still
sending when the connection closes may never see the response."""

DiskCheck = Callable[[], Awaitable[None]]


class UploadStream:
    """Body of a call in pieces, limited to ``max_bytes``.

    ``TooLarge`` is raised before the first byte if the client declares the size. ``StorageFull``
    is raised when ``room`` raises it, also in the middle.
    """

    def __init__(
        self, request: HttpRequest, max_bytes: int, larger: str, room: DiskCheck | None = None
    ) -> None:
        """``larger``: message for a body that is too large."""
        self._request = request
        self._max_bytes = max_bytes
        self._larger = larger
        self._room = room
        self._ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        self._check(self._declared())
        if self._room is not None:
            await self._room()
        size, looked_at = 0, 0
        while not self._ended:
            chunk = await self._receive()
            size += len(chunk)
            self._check(size)
            if self._room is not None and size - looked_at >= DISK_CHECK_BYTES:
                looked_at = size
                await self._room()
            if chunk:
                yield chunk

    @asynccontextmanager
    async def drain_on_error(self) -> AsyncGenerator[None]:
        """After an error in the block, read the rest of the body (up to a limit), then raise it."""
        try:
            yield
        except DarkroomError:
            await self._drain()
            raise

    async def _drain(self) -> None:
        drained = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_S):
                while not self._ended and drained < LINGER_BYTES:
                    drained += len(await self._receive())

    def _declared(self) -> int:
        declared = self._request.headers.get("content-length", "")
        return int(declared) if declared.isdecimal() else 0

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(self._larger)

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise ClientDisconnect
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")
