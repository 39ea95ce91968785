"""What a worker process says about its requests: the lines that they print, and where an error of
the app's code is."""

from __future__ import annotations

import io
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO, cast

from darkroom.calls import current

MAX_LOG_LINE = 10_000
"""Longest line of a request's log in characters."""

HOME = Path.cwd()
"""Folder with the app's code, where the process starts."""


def files_of(output: Any, is_file: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Field ``files`` of a message with an output: places of its objects that stand for files, but
    not of those inside of such ones. Empty without files.

    The replica takes no other object for a file: JSON of a client may look like one.
    """
    files = list(_file_places(output, is_file))
    return {"files": files} if files else {}


def _file_places(
    value: Any, is_file: Callable[[dict[str, Any]], bool], *place: str | int
) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if is_file(fields):
            yield place
            return
        for name, inner in fields.items():
            yield from _file_places(inner, is_file, *place, name)
    elif isinstance(value, list):
        for number, inner in enumerate(cast("list[Any]", value)):
            yield from _file_places(inner, is_file, *place, number)


def place_of(error: BaseException) -> str:
    """Type and text of an error, with the last line of the app that it came through. Of a group of
    errors, the first one that came through the app. Without the folder of the app: clients read
    it."""
    errors = list(_ungrouped(error))
    error = next(filter(_own_frames, errors), errors[0])
    own = _own_frames(error)
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or '?').name}, line {error.lineno})"
    text = str(error).replace(f"{HOME}{os.sep}", "")
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _ungrouped(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("Sequence[BaseException]", error.exceptions):
            yield from _ungrouped(inner)
    else:
        yield error


def _own_frames(error: BaseException) -> Sequence[traceback.FrameSummary]:
    """Lines of the app's own code that an error came through."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(HOME) and "site-packages" not in frame.filename
    ]


class Sender(Protocol):
    """Sends messages to the replica, on any thread."""

    def send(self, **message: Any) -> None: ...


class RequestLog(io.TextIOBase):
    """Standard output or error, whose lines also go to the log of the request that printed them."""

    def __init__(
        self, sender: Sender, level: str, under: TextIO, private: Sequence[str] = ()
    ) -> None:
        """``private``: beginnings of lines that only the process's own output gets, with the
        indented lines that follow them."""
        self._sender = sender
        self._level = level
        self._under = under
        self._private = tuple(private)
        self._begun: dict[str, str] = {}  # request → line without its end
        self._hidden: set[str] = set()  # requests whose last line was private

    def write(self, text: str) -> int:
        call = current()
        if call is None:
            return self._under.write(text)
        if self._private and text.startswith(self._private):
            self.end(call.request_id)  # else it would be the rest of the line that has begun
        *lines, rest = (self._begun.pop(call.request_id, "") + text).split("\n")
        for line in lines:
            self._send(call.request_id, line)
        if rest:
            # A bar of progress begins its line again and again: what it has overwritten is gone.
            begun = rest.rstrip("\r").rpartition("\r")[2]
            self._begun[call.request_id] = begun[:MAX_LOG_LINE] + rest[len(rest.rstrip("\r")) :][:1]
        return len(text)

    def end(self, request_id: str) -> None:
        """Send the line that a request has begun."""
        self._send(request_id, self._begun.pop(request_id, ""))
        self._hidden.discard(request_id)

    def _send(self, request_id: str, line: str) -> None:
        line = line.rstrip("\r").rpartition("\r")[2]
        follows = line.startswith(" ") and request_id in self._hidden
        if self._private and (follows or line.startswith(self._private)):
            self._hidden.add(request_id)
            self._under.write(line + "\n")
            return
        self._hidden.discard(request_id)
        if line.strip():
            self._sender.send(id=request_id, log=[self._level, line[:MAX_LOG_LINE]])

    def flush(self) -> None:
        self._under.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._under.fileno()

    # Libraries read these two of the real ones.

    @property
    def encoding(self) -> str:  # pyrefly: ignore[bad-override]
        return self._under.encoding

    @property
    def buffer(self) -> BinaryIO:
        return self._under.buffer
