"""Client of realtime sessions that talks to the application in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgpack

from tests.ingress.house import HOST, House


class Client:
    """Received messages: results and control messages as maps, and at the end the close code."""

    def __init__(self) -> None:
        self.closed: dict[str, Any] | None = None
        self.answered: dict[str, str] = {}  # headers of the handshake
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._to_server.put_nowait({"type": "websocket.connect"})

    def send(self, **input: Any) -> None:
        self.send_bytes(msgpack.packb(input))

    def send_bytes(self, message: bytes) -> None:
        self._to_server.put_nowait({"type": "websocket.receive", "bytes": message})

    def send_text(self, message: str) -> None:
        self._to_server.put_nowait({"type": "websocket.receive", "text": message})

    def hang_up(self) -> None:
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def hear(self, within_s: float = 60.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            return await self._heard.get()

    async def end(self, within_s: float = 60.0) -> int:
        """Close code of the session."""
        async with asyncio.timeout(within_s):
            while self.closed is None:
                await self._heard.get()
        return int(self.closed["code"])

    # ASGI

    async def receive(self) -> dict[str, Any]:
        return await self._to_server.get()

    async def deliver(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            self.closed = message
            self._heard.put_nowait(message)
        elif message["type"] == "websocket.accept":
            self.answered = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "websocket.send":
            packed = message.get("bytes")
            content = json.loads(message["text"]) if packed is None else msgpack.unpackb(packed)
            self._heard.put_nowait(content)


@asynccontextmanager
async def connect(
    house: House,
    path: str = "/test/probe/realtime",
    key: str | None = "",
    headers: Mapping[str, str] | None = None,
    **query: Any,
) -> AsyncIterator[Client]:
    """``key``: None sends none, and an empty one means the house's strongest."""
    client = Client()
    sent = [(b"host", HOST.encode())]
    sent += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    if key is not None:
        sent.append((b"authorization", f"Key {key or house.key}".encode()))
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": urlencode(query).encode(),
        "headers": sent,
        "scheme": "ws",
        "subprotocols": [],
    }
    serving = asyncio.create_task(house.app(scope, client.receive, client.deliver))
    try:
        yield client
    finally:
        client.hang_up()
        await serving
        await house.services.background.join()
