"""An HTTP proxy that knows ``CONNECT`` only: fal's names end at our TLS port, others are passed on.

Programs that take ``HTTPS_PROXY`` need nothing else to find Darkroom under fal's names. The bytes
in a tunnel are not looked at: TLS ends where the tunnel leads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from serve_app.domain.addresses import is_public
from serve_app.ingress.fal.hosts import is_fal

MAX_TUNNELS = 1000
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
CONNECT_S = 10.0
IDLE_S = 3600.0  # both ways; a synchronous run may be silent for long
READ_BYTES = 64 * 1024
HTTPS = 443
FIRST_FREE_PORT = 1024  # below it are services that somebody else could be made to speak to

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Admits = Callable[[str], Awaitable[bool]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_LINE = re.compile(r"(\S+) (\S+) HTTP/1\.[01]")
_TARGET = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


class Refused(Exception):
    """Why there is no tunnel, for the program that asked."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked for."""

    host: str  # lower case, without brackets
    port: int
    credentials: str | None  # ``id:secret``


def parse(head: bytes) -> Call:
    """The head of a request, with the empty line at its end. ``Refused`` unless it is CONNECT."""
    first, *rest = head.decode("latin-1").split("\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "This is no HTTP request.")
    method, target = line.groups()
    if method != "CONNECT":
        said = "This proxy is for HTTPS only: set HTTPS_PROXY to it, and not HTTP_PROXY."
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, said)
    found = _TARGET.fullmatch(target)
    port = int(found[2]) if found else 0
    if found is None or not 0 < port < 65536:
        raise Refused(HTTPStatus.BAD_REQUEST, "CONNECT wants host:port.")
    fields = (field.partition(":") for field in rest)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    host = found[1].strip("[]").lower().rstrip(".")
    return Call(host, port, _credentials(headers))


class ConnectProxy:
    """Listens from ``start`` to ``aclose``.

    ``fal_at`` is where TLS for fal's names ends; None: nowhere, and they are refused, so that no
    key of Darkroom's gets to fal. ``admits`` tells whether credentials are good; callers on this
    machine need none.
    """

    def __init__(
        self,
        address: tuple[str, int],
        fal_at: tuple[str, int] | None,
        admits: Admits,
        resolve: Resolve,
        max_tunnels: int = MAX_TUNNELS,
    ) -> None:
        self._address = address
        self._fal_at = fal_at
        self._admits = admits
        self._resolve = resolve
        self._max_tunnels = max_tunnels
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._ended = False

    async def start(self) -> None:
        """``OSError`` when the port is taken."""
        host, port = self._address
        self._server = await asyncio.start_server(self._accepted, host, port, limit=MAX_HEAD_BYTES)

    @property
    def port(self) -> int:
        assert self._server is not None  # noqa: S101 asked for between start and aclose only
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Ends every tunnel."""
        self._ended = True
        if self._server is not None:
            # Python 3.11 leaves open what it has accepted and not handed over when a server closes.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            await asyncio.sleep(0)
            self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._ended:  # it was accepted before the port was closed
            writer.close()
            return
        call = asyncio.create_task(self._served(reader, writer))
        self._calls.add(call)
        # Not by the call itself: one that is cancelled before its first turn never runs.
        call.add_done_callback(lambda _: writer.close())
        call.add_done_callback(self._calls.discard)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client is gone, or the proxy ends: nobody is left to tell.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = parse(await _head(reader))
            await self._check_caller(str(writer.get_extra_info("peername")[0]), call)
            upstream = await self._open(call)
        except Refused as refused:
            writer.write(_refusal(refused))
            await writer.drain()
            return
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay((reader, writer), upstream)
        finally:
            upstream[1].close()

    async def _check_caller(self, peer: str, call: Call) -> None:
        if len(self._calls) > self._max_tunnels:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "All tunnels are taken.")
        if _on_this_machine(peer):
            return
        if call.credentials is None or not await self._admits(call.credentials):
            said = "Callers from other machines need an API key: http://id:secret@host:port."
            raise Refused(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, said)

    async def _open(self, call: Call) -> Streams:
        if is_fal(call.host):
            return await self._open_fal(call)
        if call.port != HTTPS and call.port < FIRST_FREE_PORT:
            said = f"Port {call.port} is not passed on to, only {HTTPS} and those from 1024 on."
            raise Refused(HTTPStatus.FORBIDDEN, said)
        try:
            async with asyncio.timeout(CONNECT_S):
                addresses = await self._resolve(call.host, call.port)
        except (OSError, UnicodeError, TimeoutError):
            raise Refused(HTTPStatus.BAD_GATEWAY, f"{call.host} is not known.") from None
        if not addresses or not all(map(is_public, addresses)):
            said = f"{call.host} has a private address, and those are not passed on to."
            raise Refused(HTTPStatus.FORBIDDEN, said)
        for address in addresses:
            with contextlib.suppress(OSError, TimeoutError):
                return await _connected(address, call.port)
        raise Refused(HTTPStatus.BAD_GATEWAY, f"{call.host} does not answer.")

    async def _open_fal(self, call: Call) -> Streams:
        if call.port != HTTPS or self._fal_at is None:
            why = "has no TLS port" if self._fal_at is None else f"answers for port {HTTPS} only"
            said = f"{call.host} is fal's, and is never passed on to; this Darkroom {why}."
            raise Refused(HTTPStatus.FORBIDDEN, said)
        try:
            return await _connected(*self._fal_at)
        except (OSError, TimeoutError):
            said = "Darkroom's TLS port does not answer."
            raise Refused(HTTPStatus.BAD_GATEWAY, said) from None


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]).partition("%")[0] for *_, place in found]


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(HEAD_S):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "The request did not come.") from None
    except asyncio.LimitOverrunError:
        too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(too_large, f"More than {MAX_HEAD_BYTES} bytes of headers.") from None
    except asyncio.IncompleteReadError:
        raise Refused(HTTPStatus.BAD_REQUEST, "The request is not complete.") from None


async def _connected(host: str, port: int) -> Streams:
    async with asyncio.timeout(CONNECT_S):
        return await asyncio.open_connection(host, port)


async def _relay(client: Streams, upstream: Streams) -> None:
    """Both ways, until both have ended, one has failed, or nothing has come for ``IDLE_S``."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(IDLE_S) as idle:

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while block := await reader.read(READ_BYTES):
                idle.reschedule(loop.time() + IDLE_S)
                writer.write(block)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

        both = (copy(client[0], upstream[1]), copy(upstream[0], client[1]))
        try:
            async with asyncio.TaskGroup() as group:
                for one in both:
                    group.create_task(one)
        except* OSError:
            pass  # either side broke off, which ends the other


def _on_this_machine(peer: str) -> bool:
    address = ip_address(peer.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _credentials(headers: Mapping[str, str]) -> str | None:
    scheme, _, given = headers.get("proxy-authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _refusal(refused: Refused) -> bytes:
    body = f"{refused.reason}\n".encode()
    lines = [
        f"HTTP/1.1 {refused.status.value} {refused.status.phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    if refused.status is HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        lines.append('proxy-authenticate: Basic realm="darkroom"')
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
