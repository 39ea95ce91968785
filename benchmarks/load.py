"""An HTTP load with next to no cost of its own: raw asyncio protocols, keep-alive, prepared
requests. httpx2 would take more of the two cores than what is measured. Closed-loop, or paced."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """One run's calls a second, and milliseconds at the median and the 99th percentile."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int  # answers that were none, or neither 200 nor 202
    answers: int = 0
    refused_s: Sequence[float] = ()  # of those, each 429: the seconds of its Retry-After, or 0


@dataclass(frozen=True)
class Pace:
    """``every_s``: a caller sends so often, or as soon as it can; at once when that time is past.
    ``obeys``: after a 429 it waits as the answer says."""

    every_s: float = 0.0
    obeys: bool = False


AT_ONCE = Pace()

MakeRequest = Callable[[], bytes]
"""Makes the bytes of the next request."""


class _Caller(asyncio.Protocol):
    """One connection that sends its next request when the answer is there."""

    def __init__(self, request: MakeRequest, until: float, pace: Pace) -> None:
        self._request = request
        self._until = until
        self._pace = pace
        self._due = 0.0
        self._buffer = bytearray()
        self._sent = 0.0
        self.latencies: list[float] = []
        self.errors = 0
        self.refused_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Not all at once: each begins somewhere in its own interval.
        self._due = time.perf_counter() + random.random() * self._pace.every_s
        self._send_when_due()

    def _send_when_due(self) -> None:
        now = time.perf_counter()
        self._due = max(now, self._due)
        if self._due >= self._until:
            self._transport.close()
        elif self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._due += self._pace.every_s
        if not self._transport.is_closing():
            self._transport.write(self._request())

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
            if head.startswith(b"http/1.1 429"):
                self._refused(head)
        self._buffer.clear()
        self._send_when_due()

    def _refused(self, head: bytes) -> None:
        at = head.find(b"retry-after:")
        seconds = 0.0 if at < 0 else float(head[at + 12 :].split(b"\r\n", 1)[0])
        self.refused_s.append(seconds)
        if self._pace.obeys:
            self._due = max(self._due, time.perf_counter() + seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def _run(
    host: str, port: int, request: MakeRequest, clients: int, seconds: float, pace: Pace
) -> Figures:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers = [_Caller(request, began + seconds, pace) for _ in range(clients)]
    for caller in callers:
        await loop.create_connection(lambda c=caller: c, host, port)
    await asyncio.gather(*(caller.done for caller in callers))
    took = time.perf_counter() - began
    latencies = sorted(latency for caller in callers for latency in caller.latencies)
    cuts = statistics.quantiles(latencies, n=100)
    return Figures(
        rate=len(latencies) / took,
        p50_ms=cuts[49] * 1000,
        p99_ms=cuts[98] * 1000,
        errors=sum(caller.errors for caller in callers),
        answers=len(latencies),
        refused_s=[duration for caller in callers for duration in caller.refused_s],
    )


def post(path: str, host: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST with JSON."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def measure(
    host: str,
    port: int,
    request: bytes | MakeRequest,
    clients: int,
    seconds: float,
    pace: Pace = AT_ONCE,
) -> Figures:
    """Load from this process for ``seconds``. ``request``: the same each time, or what makes it."""
    make = (lambda: request) if isinstance(request, bytes) else request
    return asyncio.run(_run(host, port, make, clients, seconds, pace))
