"""HTTP call to the application in this process whose response is read while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.ingress.house import HOST, House


class Exchange:
    """What the client of one call has received.

    ``slow``: it reads only the first part of the body. ``cut``: the connection broke before the
    response had ended.
    """

    def __init__(self, body: bytes, *, more: bool, slow: bool) -> None:
        self.status = 0
        self.content = b""
        self.ended = asyncio.Event()
        self.cut = False
        self._whole = False
        self._slow = slow
        self._messages = [{"type": "http.request", "body": body, "more_body": more}]

    async def end(self) -> None:
        async with asyncio.timeout(60):
            await self.ended.wait()

    @property
    def last_event(self) -> tuple[str, Any]:
        """Name and data, which are JSON, of the last event of the response."""
        block = re.split(r"\r?\n\r?\n", self.content.decode().rstrip())[-1]
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        return fields.get("event", ""), json.loads(fields["data"])

    # ASGI

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            if self._slow and self.content:
                await asyncio.Event().wait()
            self.content += message.get("body", b"")
            self._whole = not message.get("more_body", False)

    def finish(self) -> None:
        self.cut = not self._whole
        self.ended.set()


@asynccontextmanager
async def open_call(
    house: House,
    method: str,
    url: str,
    key: str | None,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    more: bool = False,
    slow: bool = False,
) -> AsyncIterator[Exchange]:
    """An open call. ``more``: its body never ends."""
    path, _, query = url.partition("?")
    fields = {"host": HOST, "content-type": "application/json"} | dict(headers or {})
    if key is not None:
        fields["authorization"] = f"Key {key}"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
        "server": (HOST, 80),
        "client": ("127.0.0.1", 1),
    }
    content = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )
    call = Exchange(content, more=more, slow=slow)

    async def serve() -> None:
        try:
            await house.app(scope, call.receive, call.send)
        finally:
            call.finish()

    task = asyncio.create_task(serve())
    try:
        yield call
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
