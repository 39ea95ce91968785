"""Base of servers that speak the protocols of hosted providers, written from their documentation.

They share no code with Darkroom's own routes, so that the executor is not tested against itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from itertools import count
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

KEY = "k-1:secret"
PNG = b"\x89PNG\r\n\x1a\n of a provider"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # lower-case names
    body: Any  # of JSON, or the texts of a form; else None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: JSON, or bytes with a media type."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Job:
    """What a submit made."""

    id: str
    endpoint: str
    input: Mapping[str, Any]
    sent_at: datetime
    ended_at: datetime | None = None
    cancelled: bool = False
    polls: int = 0


class ProviderServer:
    """Server on a free port. Use on one event loop.

    ``faults`` are those of the next submits, in their order: ``lost`` (it is accepted, and the
    connection is cut), ``reset`` (cut before it is read), or a ``Reply`` in place of an acceptance.
    """

    scheme = "Bearer"

    def __init__(self) -> None:
        self.faults: list[str | Reply] = []
        self.jobs: list[Job] = []
        self.calls: list[Call] = []
        self.holds = False  # True: jobs run until ``end`` is called
        self.origin = ""
        self.outputs: Callable[[Job], Any] = lambda _: None  # None: the provider's usual one
        self.before_answer: Callable[[Call], Awaitable[None]] | None = None
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Returns its origin."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self.origin

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def end(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            job.ended_at = job.ended_at or datetime.now(UTC)

    def job(self, job_id: str) -> Job | None:
        return next((job for job in self.jobs if job.id == job_id), None)

    async def accept(self, endpoint: str, arguments: Mapping[str, Any]) -> Job:
        now = datetime.now(UTC)
        job = Job(f"job-{next(self._numbers)}", endpoint, arguments, now)
        job.ended_at = None if self.holds else now
        self.jobs.append(job)
        return job

    def is_submit(self, call: Call) -> bool:
        raise NotImplementedError

    async def answer(self, call: Call) -> Reply:
        """Answer of a call with the right key, without faults."""
        raise NotImplementedError

    def refusal(self) -> Reply:
        """Answer to a wrong key."""
        raise NotImplementedError

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(client, to_client))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                reply = await self._reply(await _read(client))
                if reply is not None:
                    to_client.write(_written(reply))
                    await to_client.drain()
                    to_client.close()
        finally:
            if not to_client.is_closing():
                to_client.transport.abort()

    async def _reply(self, call: Call) -> Reply | None:
        """None: the connection is cut."""
        if call.path.startswith("/files/"):  # as a provider's CDN, which needs no key
            known = call.path.endswith(".png")
            headers = {"content-type": "image/png"}
            return Reply(200, PNG, headers) if known else Reply(404, {"detail": "Not found"})
        self.calls.append(call)
        if call.headers.get("authorization") != f"{self.scheme} {KEY}":
            return self.refusal()
        fault = self.faults.pop(0) if self.is_submit(call) and self.faults else ""
        if fault == "reset":
            return None
        reply = fault if isinstance(fault, Reply) else await self.answer(call)
        if self.before_answer is not None:
            await self.before_answer(call)
        return None if fault == "lost" else reply


async def _read(client: asyncio.StreamReader) -> Call:
    head = (await client.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    content = await client.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Call(
        *(method, parts.path, parse_qs(parts.query), headers),
        _body(headers.get("content-type", ""), content),
    )


def _body(kind: str, content: bytes) -> Any:
    if kind.startswith("multipart/form-data"):
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        parts = cast("list[Message]", message_from_bytes(head + content).get_payload())
        fields = {str(part.get_param("name", header="content-disposition")): part for part in parts}
        return {
            name: cast("bytes", part.get_payload(decode=True)).decode(errors="replace")
            for name, part in fields.items()
        }
    return json.loads(content) if kind.startswith("application/json") and content else None


def _written(reply: Reply) -> bytes:
    content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    headers = {
        "content-type": "application/json",
        **reply.headers,
        "content-length": str(len(content)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content
