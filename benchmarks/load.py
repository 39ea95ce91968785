"""A closed-loop HTTP load with next to no cost of its own: raw asyncio protocols, keep-alive, one
prepared request. httpx would take more of the two cores than what is measured."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """Of one run: calls a second, and milliseconds at the median and the 99th percentile."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int


class _Caller(asyncio.Protocol):
    """One connection that sends its request again as soon as the answer is there."""

    def __init__(self, request: bytes, until: float) -> None:
        self._request = request
        self._until = until
        self._buffer = bytearray()
        self._sent = 0.0
        self.latencies: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[:head_end]).lower()
        at = head.find(b"content-length:")
        if at < 0:
            self.errors += 1
            self._transport.close()
            return
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < head_end + 4 + length:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        if not head.startswith((b"http/1.1 200", b"http/1.1 202")):
            self.errors += 1
        self._buffer.clear()
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def _run(host: str, port: int, request: bytes, clients: int, seconds: float) -> Figures:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers = [_Caller(request, began + seconds) for _ in range(clients)]
    for caller in callers:
        await loop.create_connection(lambda c=caller: c, host, port)
    await asyncio.gather(*(caller.done for caller in callers))
    took = time.perf_counter() - began
    latencies = sorted(one for caller in callers for one in caller.latencies)
    cuts = statistics.quantiles(latencies, n=100)
    return Figures(
        rate=len(latencies) / took,
        p50_ms=cuts[49] * 1000,
        p99_ms=cuts[98] * 1000,
        errors=sum(caller.errors for caller in callers),
    )


def post(path: str, host: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST with JSON."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def measure(host: str, port: int, request: bytes, clients: int, seconds: float) -> Figures:
    """Load from this process for ``seconds``."""
    return asyncio.run(_run(host, port, request, clients, seconds))
