"""What runs a request of a pool without an engine: executors, and what they report.

An executor runs the endpoints of one app in processes of its own. It knows neither the queue nor
storage: files come and go by path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from darkroom.files import FILE_MARK, PATH_KEY
from deployments.replica.attempt_state import StopReason
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import Progress

__all__ = [
    "FILE_MARK",
    "PATH_KEY",
    "AppExecutor",
    "Event",
    "ExecutorWork",
    "LoggedLine",
    "MadeFile",
    "MadeOutput",
    "PartialOutput",
    "SessionMessage",
    "SessionOpened",
    "SessionRead",
]


@dataclass(frozen=True, slots=True)
class ExecutorWork:
    """A request, as an executor runs it. ``input`` has ``{"$file": path}`` in place of URLs."""

    request_id: str
    endpoint: Endpoint
    input: Mapping[str, Any]
    folder: Path  # for its files; removed after the request
    secrets: tuple[Secret, ...] = ()  # that the endpoint names, as far as they are set
    lease_key: LeaseKey | None = None
    tenant: str = ""
    may_link: bool = True
    """A file that cannot be fetched may stay a URL of its server: no policy has to see it."""
    stopped: Callable[[], StopReason | None] = lambda: None
    """Reason why the attempt was stopped; None: it goes on."""
    is_session: bool = False
    """It is a client's connection to a websocket of the app. ``input`` is not used."""


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """A line that a request printed."""

    level: str  # INFO, WARNING or ERROR
    text: str


@dataclass(frozen=True, slots=True)
class PartialOutput:
    """A value that a generator has yielded; otherwise as ``MadeOutput``, which is the last one. The
    next event is asked for when this one has been handled, so a generator can be held back."""

    output: Mapping[str, Any]


class MadeFile(dict[str, Any]):
    """A file in an output: ``{"$file": path, "media_type": …}``, made by an executor itself.

    Only this type stands for a file. JSON of a client or of a provider that merely looks like one
    is plain data, which clients see as it is: else it could name any file of the replica. A copy,
    such as by ``|``, is no file any more.
    """


@dataclass(frozen=True, slots=True)
class MadeOutput:
    """Result of a request, with a ``MadeFile`` in place of each file."""

    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreviewPicture:
    """Picture of what a request has made after ``step`` steps, in any format that Pillow reads."""

    step: int
    picture: bytes


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """First event of a session. ``tell`` gives a message of its client to the app."""

    tell: Callable[[bytes | str], None]


@dataclass(frozen=True, slots=True)
class SessionRead:
    """The app has taken ``number`` messages of its client. ``waits``: for another one."""

    number: int
    waits: bool


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """Message of an app to its client, otherwise as ``PartialOutput``. ``files``: places of objects
    that stand for files, in JSON or msgpack. Of a session, the ``output`` of ``MadeOutput`` is the
    close code and reason."""

    content: bytes | str
    files: tuple[tuple[str | int, ...], ...] = ()


SessionEvent = SessionOpened | SessionRead | SessionMessage

Event = Progress | PreviewPicture | LoggedLine | PartialOutput | MadeOutput | SessionEvent


class AppExecutor(Protocol):
    """Runs the endpoints of one app. Use on one event loop.

    Errors are those of ``domain.errors``: ``AppNotStarted`` if it cannot be started,
    ``InvalidInput`` and ``PipelineFailed`` of a request, ``ReplicaDied`` if the process ended.
    """

    @property
    def alive(self) -> bool:
        """True while it can run requests."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests that it runs at once."""
        ...

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        """Start it. Returns when it is ready, which may take minutes."""
        ...

    def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        """Run a request. The last event is its ``MadeOutput``. If nobody reads the events, the
        request goes on: ``cancel`` it."""
        ...

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        """Ask a request to end, and wait for that. False: it goes on after ``grace_s`` seconds, so
        that the executor must be closed."""
        ...

    async def aclose(self, grace_s: float) -> None:
        """End the process within ``grace_s`` seconds, or kill it then."""
        ...
