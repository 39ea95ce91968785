"""HTTP proxy that supports only ``CONNECT``. Tunnels to fal's host names end at Darkroom's TLS
port; tunnels to other hosts are forwarded.

Programs that support ``HTTPS_PROXY`` need no other setting to reach Darkroom under fal's names. The
proxy does not read the bytes in a tunnel: TLS ends at the target.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any

from serve_app.domain.addresses import PrivateAddress, Resolve, UnknownHost, connectable
from serve_app.domain.errors import Unavailable
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.gateway.network_proxy import Streams, TunnelRefused, proxy_for
from serve_app.ingress.http.hosts import is_fal

MAX_TUNNELS = 1000
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
CONNECT_S = 10.0
CHECK_S = 1.0  # interval at which the key of an open tunnel is checked
IDLE_S = 3600.0  # in both directions; a synchronous run may send nothing for a long time
READ_BYTES = 64 * 1024
HTTPS = 443
LOOPBACK = "127.0.0.1"
FIRST_FREE_PORT = 1024  # lower ports belong to services that the proxy must not be used to reach

Admits = Callable[[str], Awaitable[bool]]
_LINE = re.compile(r"(\S+) (\S+) HTTP/1\.[01]")
_TARGET = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """Parsed ``CONNECT`` request."""

    host: str  # lower case, without brackets
    port: int
    credentials: str | None  # ``id:secret``


def parse(head: bytes) -> TunnelRequest:
    """Parse the head of a request, including the empty line at its end.

    Raises ``TunnelRefused`` for anything except a valid ``CONNECT``.
    """
    first, *rest = head.decode("latin-1").split("\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise TunnelRefused(HTTPStatus.BAD_REQUEST, "This is not an HTTP request.")
    method, target = line.groups()
    if method != "CONNECT":
        message = "This proxy supports only HTTPS. Set HTTPS_PROXY to it, not HTTP_PROXY."
        raise TunnelRefused(HTTPStatus.METHOD_NOT_ALLOWED, message)
    match = _TARGET.fullmatch(target)
    port = int(match[2]) if match else 0
    if match is None or not 0 < port < 65536:
        raise TunnelRefused(HTTPStatus.BAD_REQUEST, "The target of CONNECT must be host:port.")
    fields = (field.partition(":") for field in rest)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    host = match[1].strip("[]").lower().rstrip(".")
    return TunnelRequest(host, port, _credentials(headers))


class ConnectProxy:
    """Proxy that listens from ``start`` to ``aclose``.

    ``fal_at`` is the address of the TLS port that answers for fal's names. With None, fal's names
    are refused, so that no key of Darkroom is sent to fal. ``admits`` checks credentials; clients
    on this machine need none. Their tunnels to other hosts go through the user's own proxy, if
    ``proxies`` names one (``network_proxy.proxy_for``).
    """

    def __init__(
        self,
        address: tuple[str, int],
        fal_at: tuple[str, int] | None,
        admits: Admits,
        resolve: Resolve,
        max_tunnels: int = MAX_TUNNELS,
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        self._address = address
        self._fal_at = fal_at
        self._admits = admits
        self._resolve = resolve
        self._max_tunnels = max_tunnels
        self._proxies = proxies or {}
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._ended = False

    async def start(self) -> None:
        """Open the port. Raises ``OSError`` if it is in use."""
        host, port = self._address
        self._server = await asyncio.start_server(
            self._on_connection, host, port, limit=MAX_HEAD_BYTES
        )

    @property
    def port(self) -> int:
        assert self._server is not None  # noqa: S101 read only between start and aclose
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Close the port and every tunnel."""
        self._ended = True
        if self._server is not None:
            # When a server closes, Python 3.11 leaves connections open that it has accepted but not
            # yet handed over.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            await asyncio.sleep(0)
            self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._ended:  # accepted before the port was closed
            writer.close()
            return
        call = asyncio.create_task(self._serve_call(reader, writer))
        self._calls.add(call)
        # As a callback, because a task that is cancelled before its first turn never runs.
        call.add_done_callback(lambda _: writer.close())
        call.add_done_callback(self._calls.discard)

    async def _serve_call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client has disconnected, or the proxy stops: there is no one to report errors to.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = parse(await _head(reader))
            peer = str(writer.get_extra_info("peername")[0])
            await self._check_caller(peer, call)
            with work_of(peer):
                upstream = await self._open(call, local=_on_this_machine(peer))
        except TunnelRefused as refused:
            writer.write(_refusal(refused))
            await writer.drain()
            return
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay((reader, writer), upstream, self._wait_for_refusal(peer, call))
        finally:
            upstream[1].close()

    async def _check_caller(self, peer: str, call: TunnelRequest) -> None:
        if len(self._calls) > self._max_tunnels:
            raise TunnelRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The proxy has reached its limit of tunnels. Try again later.",
            )
        if _on_this_machine(peer):
            return
        try:
            admitted = call.credentials is not None and await self._admits(call.credentials)
        except Unavailable as error:
            raise TunnelRefused(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from None
        if not admitted:
            message = "Clients on other machines need an API key: http://id:secret@host:port."
            raise TunnelRefused(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, message)

    async def _wait_for_refusal(self, peer: str, call: TunnelRequest) -> None:
        """Wait until the key of an open tunnel has ended, and raise ``TunnelRefused``."""
        while call.credentials is not None and not _on_this_machine(peer):
            await asyncio.sleep(CHECK_S)
            with contextlib.suppress(Unavailable):
                if not await self._admits(call.credentials):
                    raise TunnelRefused(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, "The key ended.")

    async def _open(self, call: TunnelRequest, *, local: bool) -> Streams:
        if is_fal(call.host):
            return await self._open_fal(call)
        proxy = proxy_for(call.host, self._proxies) if local else None
        if proxy is not None and (proxy.host, proxy.port) != (LOOPBACK, self.port):  # this very one
            return await proxy.open(call.host, call.port)
        if call.port != HTTPS and call.port < FIRST_FREE_PORT:
            message = (
                f"The proxy does not connect to port {call.port}, only to {HTTPS} and to ports "
                "from 1024."
            )
            raise TunnelRefused(HTTPStatus.FORBIDDEN, message)
        try:
            async with asyncio.timeout(CONNECT_S):
                addresses = await connectable(call.host, call.port, self._resolve)
        except (UnknownHost, TimeoutError):
            raise TunnelRefused(
                HTTPStatus.BAD_GATEWAY, f"The host {call.host} is not known."
            ) from None
        except PrivateAddress:
            message = (
                f"{call.host} has a private address, and the proxy does not connect to private "
                "addresses."
            )
            raise TunnelRefused(HTTPStatus.FORBIDDEN, message) from None
        for address in addresses:
            with contextlib.suppress(OSError):
                return await _connect(address, call.port)
        raise TunnelRefused(HTTPStatus.BAD_GATEWAY, f"{call.host} does not answer.")

    async def _open_fal(self, call: TunnelRequest) -> Streams:
        if call.port != HTTPS or self._fal_at is None:
            why = "has no TLS port" if self._fal_at is None else f"answers only for port {HTTPS}"
            message = (
                f"{call.host} belongs to fal, and the proxy never connects to fal. This Darkroom "
                f"{why}."
            )
            raise TunnelRefused(HTTPStatus.FORBIDDEN, message)
        try:
            return await _connect(*self._fal_at)
        except OSError:
            message = "Darkroom's TLS port does not answer. See the output of `darkroom serve`."
            raise TunnelRefused(HTTPStatus.BAD_GATEWAY, message) from None


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(HEAD_S):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise TunnelRefused(
            HTTPStatus.REQUEST_TIMEOUT, "No complete request arrived in time."
        ) from None
    except asyncio.LimitOverrunError:
        too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise TunnelRefused(too_large, f"More than {MAX_HEAD_BYTES} bytes of headers.") from None
    except asyncio.IncompleteReadError:
        raise TunnelRefused(HTTPStatus.BAD_REQUEST, "The request is not complete.") from None


async def _connect(host: str, port: int) -> Streams:
    async with asyncio.timeout(CONNECT_S):
        return await asyncio.open_connection(host, port)


async def _relay(client: Streams, upstream: Streams, refused: Coroutine[Any, Any, None]) -> None:
    """Copy both directions until both have ended, one has failed, ``IDLE_S`` pass silently, or
    ``refused`` raises ``TunnelRefused``."""
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
                watching = group.create_task(refused)
                await asyncio.gather(*map(group.create_task, both))
                watching.cancel()
        except* (OSError, TunnelRefused):
            pass  # one side has disconnected or may not go on, which ends the other


def _on_this_machine(peer: str) -> bool:
    address = ip_address(peer.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _credentials(headers: Mapping[str, str]) -> str | None:
    scheme, _, encoded = headers.get("proxy-authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:  # it is not Base64, not ASCII, or not UTF-8
        return None


def _refusal(refused: TunnelRefused) -> bytes:
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
