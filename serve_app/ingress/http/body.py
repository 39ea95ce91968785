"""Reading the body of a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive

from serve_app.catalog.fields.pydantic_schema import invalid_input
from serve_app.domain.errors import (
    BodyTooSlow,
    FieldProblem,
    InvalidInput,
    TooLarge,
)
from serve_app.domain.json_depth import MAX_DEPTH, is_deep
from serve_app.domain.json_size import MAX_VALUES
from serve_app.domain.ports import Clock
from serve_app.domain.sharing.admission import current_admission, end_admission
from serve_app.ingress.http.errors import JSON_INVALID
from serve_app.ingress.services.cpu_executor import in_cpu_thread

ModelT = TypeVar("ModelT", bound=BaseModel)

PARSE_IN_THREAD_BYTES = 256 * 1024
"""Size from which a body is parsed in a thread, so that it does not block other calls."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:MAX_SHOWN_DIGITS]} is too large")
    return number


MAX_SHOWN_DIGITS = 40
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)

SMALL_BYTES = 16 * 1024
"""Size up to which a body costs no more than the rest of its call, so it is not counted."""

MAX_OWN_FIELDS = 1000
"""Fields of a body whose fields are all known. A million unknown ones were a mistake each, which
took 1 GB and 23 s, in which no other call was answered."""

VALUE_BYTES = 40
"""Bytes of a long text that cost as much as a value."""


async def read_body(
    request: HttpRequest, max_bytes: int, cost: Callable[[bytes], int] = len
) -> bytes:
    """Return the whole body. Raise ``TooLarge`` as soon as it is known to exceed ``max_bytes``, and
    ``Overloaded`` if too many bodies of its tenant wait.

    While the client sends, the call does not count as one that is worked on. A body that is not
    small waits for memory, and until its tenant keeps to its rate. ``cost``: in bytes of a text.
    """
    declared = request.headers.get("content-length", "")
    largest = int(declared) if declared.isdecimal() else max_bytes
    if largest > max_bytes:
        raise _too_large(max_bytes)
    body = _Body(request.receive, max_bytes)
    await body.receive()
    admission = current_admission()
    if admission is None or (body.complete and body.size <= SMALL_BYTES):  # as most are
        return await body.rest()
    async with admission.suspend():
        if not body.complete and largest > SMALL_BYTES:
            await admission.reserve_body(largest)
        raw = await body.rest()
        if len(raw) > SMALL_BYTES:
            await admission.pace_body(cost(raw))
    return raw


class _Body:
    """A body that is received."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self.size = 0
        self.complete = False

    async def receive(self) -> None:
        """Receive a chunk."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._chunks.append(chunk)
        self.complete = not message.get("more_body", False)

    async def rest(self) -> bytes:
        """Receive what is left, and return the body."""
        while not self.complete:
            await self.receive()
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


async def read_json(request: HttpRequest, max_bytes: int) -> Any:
    """Return the body as JSON.

    ``InvalidInput`` names the position where it is not valid JSON, or the field whose text cannot
    be stored. ``TooLarge``: it has more than ``MAX_VALUES``.
    """
    return await parse_body(await read_body(request, max_bytes, cost_of_json))


async def parse_body(raw: bytes) -> Any:
    """Parse a body as JSON; a large one in a thread. Errors as ``read_json``."""
    if len(raw) > PARSE_IN_THREAD_BYTES:
        return await in_cpu_thread(parse, raw)
    return parse(raw)


async def read_model(request: HttpRequest, model: type[ModelT], max_bytes: int) -> ModelT:
    """Return the body as an instance of ``model``. ``InvalidInput`` as in ``read_json``, and for
    every field that ``model`` refuses; without its value if the model hides inputs in errors."""
    body = await read_json(request, max_bytes)
    if isinstance(body, dict) and len(cast("dict[str, Any]", body)) > MAX_OWN_FIELDS:
        known = ", ".join(model.model_fields)
        raise InvalidInput(f"The body has more than {MAX_OWN_FIELDS} fields. It takes {known}.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        hide = bool(model.model_config.get("hide_input_in_errors"))
        raise invalid_input(error, hide_input=hide) from None


def parse(raw: bytes) -> Any:
    """Parse ``raw`` as JSON. Raise ``InvalidInput`` if it is not valid JSON."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        if raw.startswith(b"--"):
            raise InvalidInput(A_FORM) from None
        raise _not_json(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise _not_json("the body is not UTF-8", error.start) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # NaN, infinity, or a number with thousands of digits
        raise _not_json(str(error), 0) from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and is_deep(value, MAX_DEPTH):
        raise _too_deep()
    # NUL and halves of surrogate pairs come as escapes only. Raw ones are not JSON, or not UTF-8.
    if b"\\" in raw and b"\\u" in raw:  # the first look is forty times as fast as the second
        reject_unstorable(value, ("body",))
    return value


A_FORM = (
    "The body is a form, but its Content-Type does not say so. Where this call takes a form, send "
    "multipart/form-data with its boundary; else send JSON."
)


def cost_of_json(raw: bytes) -> int:
    """Cost of a body of JSON, in bytes of a text. ``TooLarge``: it has more than ``MAX_VALUES``.

    A value follows a comma or begins a container. Those within texts are counted too: prose of the
    largest size has fewer.
    """
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > MAX_VALUES:
        raise TooLarge(
            f"The body has more than {MAX_VALUES} values. Send them as a file, and its URL."
        )
    return len(raw) + values * VALUE_BYTES


def reject_unstorable(value: Any, where: tuple[str | int, ...]) -> None:
    """Raise ``InvalidInput`` with the location if ``value`` contains NUL, a lone surrogate, or a
    number that is not finite.

    JSON allows the first two as escapes, a form can contain NUL, and JSON parsers of libraries
    accept ``Infinity``. PostgreSQL, UTF-8 and JSON cannot store them.
    """
    if (unstorable := _unstorable(value)) is not None:
        inner, message, type_ = unstorable
        problem = FieldProblem((*where, *inner), message, type_)
        raise InvalidInput(f"{'.'.join(map(str, problem.loc[1:]))}: {message}", (problem,))


_Unstorable = tuple[tuple[str | int, ...], str, str]  # location, message, fal's type


def _unstorable(value: Any) -> _Unstorable | None:
    """First value that cannot be stored. Takes linear time: the location of a value is built only
    once it is found, and text is checked by its encoder (0.02 s for 16 MiB; by character, 4.4 s).
    """
    if isinstance(value, str):
        message = "Input should not contain NUL or half of a surrogate pair"
        return None if _storable(value) else ((), message, "string_unicode")
    if isinstance(value, float) and not math.isfinite(value):
        return (), "Input should be a finite number", "finite_number"
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            if (problem := _unstorable(key)) is not None:
                return problem
            if (problem := _unstorable(inner)) is not None:
                return (key, *problem[0]), *problem[1:]
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Any]", value)):
            if (problem := _unstorable(inner)) is not None:
                return (index, *problem[0]), *problem[1:]
    return None


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _not_json(what: str, position: int) -> InvalidInput:
    problem = FieldProblem(("body", position), "JSON decode error", JSON_INVALID, {"error": what})
    return InvalidInput(
        f"The body is not valid JSON: {what} (at character {position}).", (problem,)
    )


def _too_deep() -> InvalidInput:
    return _not_json("it is nested too deeply", 0)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body exceeds the limit of {max_bytes} bytes. Send a smaller one.")


# Least rate of a body.

GRACE_S = 10.0
"""Time that a client may pause in all, whatever it has sent: more than the longest interruptions of
mobile networks that TCP repairs by itself."""

LEAST_BYTES_PER_S = 1_000
"""Below a modem of 9,600 bits a second. A client that is slower holds a connection and the memory
of its body for no use."""


LINGER_S, LINGER_BYTES = 3.0, 64 * 2**20
"""Most seconds and bytes to read of a body that is not needed for the response. A client that is
still sending when the connection closes may never see the response."""


class PacedBody:
    """ASGI ``receive`` of a call whose client has to keep to a least rate.

    Only the time that this server waits counts: a slow disk is not the client's fault. Raises
    ``BodyTooSlow``. After the body it waits for the end of the connection without a limit.
    """

    __slots__ = ("_awaited", "_bytes", "_clock", "_ended", "_receive", "_waited_s")

    def __init__(
        self, receive: Receive, clock: Clock, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        self._receive = receive
        self._clock = clock
        self._waited_s = 0.0
        self._bytes = 0
        self._ended = False
        # The client sends the body when it is first asked for it.
        self._awaited = (b"expect", b"100-continue") in headers

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        began = self._clock.monotonic()
        try:
            self._awaited = False
            async with asyncio.timeout(self._left_s()):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"The body arrived too slowly: {self._bytes} bytes until now. Send at least "
                f"{LEAST_BYTES_PER_S} bytes a second, and pause for at most {GRACE_S:g} seconds."
            ) from None
        finally:
            self._waited_s += self._clock.monotonic() - began
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def end(self) -> bool:
        """Read what is left of the body, within limits. False: the client has not sent all of it,
        so that the connection cannot be used again, and would be held by a client that goes on."""
        if self._ended or self._awaited:
            return self._ended
        size = 0
        with contextlib.suppress(TimeoutError, BodyTooSlow):
            async with asyncio.timeout(LINGER_S):
                while not self._ended and size < LINGER_BYTES:
                    size += len((await self()).get("body", b""))
        return self._ended

    def _left_s(self) -> float:
        return GRACE_S + self._bytes / LEAST_BYTES_PER_S - self._waited_s


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
    """Texts by field (the last one of each), and files by field. ``image[]`` means ``image``.
    ``sent``: all names and texts, as they were sent."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[FormFile]] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)


def is_form(request: HttpRequest) -> bool:
    return request.headers.get("content-type", "").lower().startswith(MULTIPART)


class _FormParser(MultiPartParser):
    """Parser that also takes files whose parts have no ``filename``, and names by RFC 6266."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition = part.content_disposition or b""
        name = _EXTENDED_NAME.search(disposition)
        if (name or not _is_text(part.item_headers)) and not _PLAIN_NAME.search(disposition):
            part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()
        if name and part.file is not None:
            part.file.filename = unquote(name[1].decode("ascii", "replace"))


_EXTENDED_NAME = re.compile(rb";\s*filename\*=utf-8'[^';]*'([^;\s]+)", re.I)
_PLAIN_NAME = re.compile(rb";\s*filename=", re.I)


def _is_text(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a part without a file name is a text: by its type, if it has one."""
    kind = next((value for name, value in headers if name == b"content-type"), b"text/plain")
    return kind.lower().startswith((b"text/", b"application/json"))


async def read_form(request: HttpRequest, max_bytes: int, most_files: int) -> Form:
    """Parse a form. ``TooLarge``: it exceeds ``max_bytes``. ``InvalidInput``: it is not a form."""
    raw = await read_body(request, max_bytes)
    form = Form()
    parser = _FormParser(
        Headers(scope=request.scope),
        _at_once(raw),
        max_files=most_files,
        max_fields=MAX_FIELDS,
        max_part_size=max_bytes,
    )
    parser.spool_max_size = max_bytes + 1  # it is already in memory; a file would be another copy
    parsed = await _parse_form(parser)
    try:
        for name, value in parsed.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                media_type = value.content_type or "application/octet-stream"
                file = FormFile(value.filename or plain, media_type, await value.read())
                form.files.setdefault(plain, []).append(file)
            else:
                form.texts[plain] = value
                form.sent.append((name, value))
    finally:
        await parsed.close()
    for name, value in form.sent:
        _require_text(name, value)
    return form


def _require_text(name: str, value: str) -> None:
    reject_unstorable(name, ("body",))
    if not _storable(value):
        what = "Input should not contain NUL. A file needs a `filename`, or its Content-Type"
        raise InvalidInput.of_field(name, what, "string_unicode")


class _Limited:
    """Body of a call in pieces. ``TooLarge`` once it exceeds ``max_bytes``."""

    def __init__(self, request: HttpRequest, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        end_admission()  # it lasts as long as the client sends
        size = 0
        async for chunk in self._request.stream():
            size += len(chunk)
            if size > self._max_bytes:
                raise _too_large(self._max_bytes)
            yield chunk


@asynccontextmanager
async def spooled_form(
    request: HttpRequest, max_bytes: int
) -> AsyncGenerator[tuple[dict[str, str], dict[str, UploadFile]]]:
    """Texts and files of a form whose one file may be large: it goes to a temporary file, which is
    deleted when the block ends. Errors as ``read_form``."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parser = _FormParser(
        Headers(scope=request.scope),
        _Limited(request, max_bytes).chunks(),
        max_files=1,
        max_fields=MAX_FIELDS,
    )
    parsed = await _parse_form(parser)
    try:
        texts = {name: value for name, value in parsed.multi_items() if isinstance(value, str)}
        for name, value in texts.items():
            _require_text(name, value)
        files = {
            name: value for name, value in parsed.multi_items() if isinstance(value, UploadFile)
        }
        yield texts, files
    finally:
        await parsed.close()


async def _parse_form(parser: MultiPartParser) -> FormData:
    try:
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        why = getattr(error, "message", None) or "it is not well formed"
        raise InvalidInput(f"The body is not a valid form: {why}") from None


async def _at_once(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw


# Streaming of a file in the body of a call.

DISK_CHECK_BYTES = 16 * 2**20
"""Bytes received between two checks of the free disk space."""

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
        end_admission()  # it lasts as long as the client sends
        self._check(self._content_length())
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

    def _content_length(self) -> int:
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
