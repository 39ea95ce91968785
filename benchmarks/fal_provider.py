"""A hosted provider for benchmarks: fal's queue over HTTP, with next to no cost of its own.

    python -m benchmarks.fal_provider

Prints its origin. A request whose input has ``wait`` runs until ``POST /release``; all others have
ended when they are accepted. ``POST /run/…`` is answered by the result. ``GET /counts`` says what
arrived. Inputs have a ``number`` of their own, by which a request that was sent twice is found.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

KEY = "k-1:benchmark"
HISTORY = "/v1/models/requests/by-endpoint"

Answer = tuple[int, Mapping[str, Any]]


class Provider:
    """Requests by number, and calls by their kind. A request's id is its number."""

    def __init__(self) -> None:
        self.origin = ""
        self._waiting: set[str] = set()
        self._submits: Counter[str] = Counter()
        self._results: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> Answer:
        if path in ("/counts", "/release"):
            if path == "/release":
                self._waiting.clear()
            return 200, self.counts()
        if authorization != f"Key {KEY}":
            self._calls["refused"] += 1
            return 401, {"detail": "No user found for Key ID and Secret"}
        if path == HISTORY:
            self._calls["lists"] += 1
            return 200, {"items": [], "next_cursor": None, "has_more": False}
        endpoint, separator, request = path.partition("/requests/")
        if separator:
            return self._of_request(*request.partition("/")[::2])
        if method != "POST":
            return 404, {"detail": "Not found"}
        return self._posted(endpoint, json.loads(body))

    def counts(self) -> Mapping[str, Any]:
        return {
            "submits": self._submits.total(),
            "sent_twice": [number for number, n in self._submits.items() if n > 1],
            "waiting": len(self._waiting),
            "read": len(self._results),
            **{kind: self._calls[kind] for kind in ("runs", "polls", "lists", "refused")},
        }

    def _posted(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        number = str(body["number"])
        if endpoint.startswith("/run/"):
            self._calls["runs"] += 1
            return 200, _result(number)
        self._submits[number] += 1
        if body.get("wait"):
            self._waiting.add(number)
        base = f"{self.origin}{endpoint}/requests/{number}"
        urls = {"response_url": base, "status_url": f"{base}/status"}
        cancel = {"cancel_url": f"{base}/cancel"}
        return 200, {"status": "IN_QUEUE", "request_id": number, **urls, **cancel}

    def _of_request(self, number: str, what: str) -> Answer:
        if number not in self._submits:
            return 404, {"detail": "Request not found"}
        if what == "status":
            self._calls["polls"] += 1
            runs = number in self._waiting
            state = "IN_PROGRESS" if runs else "COMPLETED"
            return 202 if runs else 200, {"status": state, "request_id": number, "logs": None}
        if what or number in self._waiting:
            return 400, {"detail": "Request is still in progress"}
        self._results[number] += 1
        return 200, _result(number)


class Connection(asyncio.Protocol):
    """Answers one call after the other."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode().split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            whole = end + 4 + int(headers.get("content-length", 0))
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            method, target, _ = first.split(" ")
            self._answer(method, target.partition("?")[0], headers, body)

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        key = headers.get("authorization", "")
        status, answer = self._provider.answer(method, path, key, body)
        content = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
        self._transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)


def _result(number: str) -> Mapping[str, Any]:
    return {"number": int(number), "steps": 0}


async def start(provider: Provider) -> asyncio.Server:
    """Start on a free port of this machine, which ``provider.origin`` has afterwards."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", 0, backlog=4096)
    provider.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    return server


async def main() -> None:
    provider = Provider()
    server = await start(provider)
    print(provider.origin, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
