"""A call of an ASGI application in this process, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import urlencode

Message = dict[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

GONE_WITHIN_S = 1.0
"""Time in which an app can see by itself that its client has left. Then its task is cancelled."""


class Exchange:
    """A POST of JSON to an application, and its answer. Use on one event loop."""

    def __init__(
        self,
        app: Application,
        path: str,
        body: Mapping[str, Any],
        query: Mapping[str, Any],
        headers: Mapping[str, str],
        method: str = "POST",
    ) -> None:
        self.path = path
        self.status = 0
        self.headers: dict[str, str] = {}
        self.error: BaseException | None = None
        """What the application raised, also after it has answered."""
        self._app = app
        self._body = json.dumps(body).encode()
        self._read = False
        self._gone = asyncio.Event()
        self._is_abandoned = False
        self._parts: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)
        fields = {"host": "localhost", "content-type": "application/json", **headers}
        fields["content-length"] = str(len(self._body))
        self._scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(query, doseq=True).encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
            "state": {},
        }
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Call the application, and wait for status and headers of its answer. Without an answer,
        ``status`` stays 0."""
        self._task = asyncio.create_task(self._call())
        start = await self._parts.get()
        if start is not None:
            self.status = int(start["status"])
            fields = cast("list[tuple[bytes, bytes]]", start.get("headers", []))
            self.headers = {
                name.decode().lower(): value.decode("latin-1") for name, value in fields
            }

    async def body(self) -> AsyncGenerator[bytes]:
        """Parts of the answer's body."""
        if self.status == 0:
            return
        while (part := await self._parts.get()) is not None:
            if content := part.get("body"):
                yield content

    async def leave(self, *, cancel: bool) -> None:
        """End the call as a client that disconnects does, and then, with ``cancel``, by cancelling
        its task. That would leave a method on its thread, and only seem to end."""
        self._gone.set()
        if self._task is not None and cancel:
            await asyncio.wait((self._task,), timeout=GONE_WITHIN_S)
            self._task.cancel()

    def abandon(self) -> None:
        """Read no more of the answer. The application's next part fails, as on a connection that
        has been closed."""
        self._is_abandoned = True
        self._gone.set()
        if not self._parts.empty():
            self._parts.get_nowait()  # it may wait for room

    async def _call(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as error:  # reported with the answer
            self.error = error
        finally:
            if not self._is_abandoned:
                await self._parts.put(None)

    async def _receive(self) -> Message:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._is_abandoned:
            raise ConnectionResetError("The answer is not read any more.")
        await self._parts.put(message)


async def events(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Data of server-sent events."""
    data: list[str] = []
    async for line in _lines(body):
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


async def json_lines(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Values of JSON Lines."""
    async for line in _lines(body):
        if line.strip():
            yield line


async def _lines(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Lines of a body, and an empty one at its end."""
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    yield rest.decode(errors="replace")
    yield ""
