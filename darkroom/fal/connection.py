"""A websocket of an ASGI application in this process, without a server; and what its messages say
of files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from importlib import import_module
from typing import Any, Protocol, TypeVar, cast

from darkroom.fal.exchange import GONE_WITHIN_S, Application
from darkroom.fal.local_files import LocalFiles, named_files

CLEAN, REFUSED = 1000, 1008
"""Close codes of RFC 6455."""

Content = bytes | str
Message = dict[str, Any]
T = TypeVar("T")


class ContextThreads(ThreadPoolExecutor):
    """Threads for an event loop's own executor. Unlike asyncio, by which fal runs the ``def``
    methods of its sessions, they keep the context: their files and printed lines have a request."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(copy_context().run, fn, *args, **kwargs)


class OnRead(Protocol):
    """Hears how many messages an application has taken, and whether it waits for another one."""

    def __call__(self, number: int, /, *, waits: bool) -> None: ...


class Connection:
    """A websocket to an application. Use on one event loop."""

    def __init__(
        self,
        app: Application,
        path: str,
        headers: Mapping[str, str],
        send: Callable[[Content], Awaitable[None]],
        on_read: OnRead,
    ) -> None:
        """``send`` gets the application's messages."""
        self._app = app
        self._send_out = send
        self._on_read = on_read
        self._taken = 0
        self._connected = False
        self._gone = asyncio.Event()
        self._waiting: asyncio.Queue[Content | None] = asyncio.Queue()
        self._closed: tuple[int, str] | None = None
        self._task: asyncio.Task[Any] | None = None
        fields = {"host": "localhost", "connection": "upgrade", "upgrade": "websocket", **headers}
        self._scope: Message = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {},
        }

    async def run(self) -> tuple[int, str]:
        """Call the application until it ends. Returns the close code and reason. Raises what the
        application raises."""
        self._task = asyncio.current_task()
        await self._app(self._scope, self._receive, self._send)
        return self._closed or (CLEAN, "")

    def put(self, content: Content) -> None:
        """Give a message of the client to the application."""
        self._waiting.put_nowait(content)

    async def leave(self) -> None:
        """End as a client that disconnects does, and then by cancelling the application's task."""
        self._gone.set()
        self._waiting.put_nowait(None)
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=GONE_WITHIN_S)
            self._task.cancel()

    async def _receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._closed is None and not self._gone.is_set():
            if self._waiting.empty():
                self._on_read(self._taken, waits=True)
            # Lets fal's own tasks run: else it sends an answer before older ones.
            await asyncio.sleep(0)
            content = await self._waiting.get()
            if content is not None:
                self._taken += 1
                self._on_read(self._taken, waits=False)
                kind = "bytes" if isinstance(content, bytes) else "text"
                return {"type": "websocket.receive", kind: content}
        return {"type": "websocket.disconnect", "code": CLEAN, "reason": ""}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            if self._gone.is_set() or self._closed is not None:
                raise ConnectionResetError("The client has left.")
            content = message.get("bytes")
            await self._send_out(message.get("text", "") if content is None else content)
        elif kind == "websocket.close":
            self._close(int(message.get("code") or CLEAN), str(message.get("reason") or ""))
        elif kind == "websocket.http.response.start":
            self._close(REFUSED, f"The app refused the session with status {message['status']}.")

    def _close(self, code: int, reason: str) -> None:
        if self._closed is None:
            self._closed = code, reason
            self._waiting.put_nowait(None)  # a task that waits for a message learns of it


def with_files(content: Content, files: LocalFiles) -> tuple[Content, dict[str, Any]]:
    """A message with paths in place of URLs of files of this machine, and the field that says where
    they are. One that names none stays as it is.

    Messages in JSON and in msgpack are read. ``UnknownFile``: it names a file that has gone.
    ``ValueError``: it names files in an encoding of the app's own.
    """
    named = files.base in content if isinstance(content, str) else files.base.encode() in content
    if not named:
        return content, {}
    try:
        if isinstance(content, str) or content[:1] in (b"{", b"["):
            document = files.with_paths(json.loads(content))
            written = json.dumps(document)
            return written if isinstance(content, str) else written.encode(), named_files(document)
        msgpack: Any = import_module("msgpack")  # fal needs it for such messages itself
        plain = files.with_paths(msgpack.unpackb(content, raw=False))
        return cast("bytes", msgpack.packb(plain, use_bin_type=True)), named_files(plain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "A message names a file by its URL on the app's machine, in an encoding that is "
            "neither msgpack nor JSON. Put the file's bytes into the message instead."
        ) from error
