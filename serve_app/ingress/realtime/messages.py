"""Messages of a session apart from its frames (JSON as text), close codes, and the frame buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from serve_app.domain.errors import (
    DarkroomError,
    InvalidInput,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from serve_app.domain.outcome import Failure
from serve_app.ingress.http.errors import http_answer, problem_item
from serve_app.ingress.submission.failures import answer_for as answer_for_failure

CLEAN, GOING_AWAY, REFUSED, BROKEN, RESTART, LATER = 1000, 1001, 1008, 1011, 1012, 1013
"""Close codes of RFC 6455 and its registry."""

LONGEST_REASON = 123  # bytes; the protocol's own limit

Control = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """Close of a socket, and an optional message before it."""

    code: int
    reason: str
    message: Control | None = None

    @property
    def short_reason(self) -> str:
        return self.reason.encode()[:LONGEST_REASON].decode(errors="ignore")


def error_message(error: str, reason: str, **more: Any) -> Control:
    """Error message. Both of fal's clients raise it, the JavaScript one as ``error: reason``."""
    return {"type": "x-fal-error", "error": error, "reason": reason, **more}


def of_error(error: DarkroomError, **more: Any) -> Control:
    """Error message for an error of ours. For an invalid token or key it has the form that makes
    the JavaScript client ask for a new token."""
    if isinstance(error, Unauthenticated):
        return error_message("Unauthorized", error.message, status="error", **more)
    if isinstance(error, InvalidInput) and error.problems:
        more["detail"] = [problem_item(problem) for problem in error.problems]
    return error_message(http_answer(error).type.upper(), error.message, **more)


def of_failure(failure: Failure, **more: Any) -> Control:
    """Error message for a failed attempt or frame."""
    return error_message(answer_for_failure(failure).type.upper(), failure.message, **more)


def drop_notice(echo: Control) -> Control:
    """Message that a frame was dropped for newer ones. fal's clients ignore this type."""
    return {"type": "x-fal-message", "action": "dropped", **echo}


def closing(error: DarkroomError) -> Close:
    """Close of a socket that is refused or that fails."""
    code = BROKEN
    if isinstance(error, (Overloaded, Unavailable)):
        code = LATER
    elif http_answer(error).status < 500:
        code = REFUSED
    return Close(code, error.message, of_error(error))


# Buffer of frames that have arrived and are not processed yet.


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """Frame from the client, validated."""

    request_id: str  # ours
    input: Mapping[str, Any]
    echo: dict[str, Any]  # has the client's own ``request_id``, if it sent one
    size: int  # bytes


class ReceivedMessage(Protocol):
    """Message of a client, as an inbox keeps it."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


M = TypeVar("M", bound=ReceivedMessage)


class MessageInbox(Generic[M]):
    """Buffer of at most ``most`` frames and ``most_bytes``, for one event loop.

    Newer frames replace the oldest ones, because an interactive client wants the result of its
    last input. The newest frame is always kept.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._frames: deque[M] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: M) -> list[M]:
        """Add a frame. Return the frames that are dropped for it."""
        self._frames.append(frame)
        self._bytes += frame.size
        dropped: list[M] = []
        while len(self._frames) > 1 and (
            len(self._frames) > self._most or self._bytes > self._most_bytes
        ):
            dropped.append(self._pop())
        self._arrived.set()
        return dropped

    async def room(self, size: int) -> None:
        """Wait until a frame of ``size`` bytes can be put without dropping another."""
        while self._frames and (
            len(self._frames) >= self._most or self._bytes + size > self._most_bytes
        ):
            self._taken.clear()
            await self._taken.wait()

    async def take(self, within_s: float | None = None) -> M | None:
        """Take the oldest frame, as soon as there is one; None if none arrives ``within_s``."""
        if not self._frames:
            self._arrived.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._pop()

    def _pop(self) -> M:
        frame = self._frames.popleft()
        self._bytes -= frame.size
        self._taken.set()
        return frame
