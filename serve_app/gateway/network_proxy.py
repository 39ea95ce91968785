"""Proxy of the user's network, through which tunnels to other hosts go."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

ANSWER_S = 30.0  # it connects to the host meanwhile
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


class TunnelRefused(Exception):
    """Refusal of a tunnel: the HTTP status and the reason for the client."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NetworkProxy:
    """An HTTP proxy, reached by TLS or not."""

    host: str
    port: int
    tls: bool = False
    credentials: str = ""  # ``user:password``

    async def open(self, host: str, port: int) -> Streams:
        """Tunnel to a host, by its name. Raises ``TunnelRefused``."""
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            async with asyncio.timeout(ANSWER_S):
                context = ssl.create_default_context() if self.tls else None
                streams = await asyncio.open_connection(self.host, self.port, ssl=context)
                try:
                    await self._connect(streams, target)
                except BaseException:
                    streams[1].close()
                    raise
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise self._refused("does not answer") from None
        return streams

    async def _connect(self, streams: Streams, target: str) -> None:
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.credentials:
            encoded = base64.b64encode(self.credentials.encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {encoded}")
        streams[1].write("\r\n".join((*lines, "", "")).encode())
        head = await streams[0].readuntil(b"\r\n\r\n")
        status = _STATUS.match(head)
        if status is None or not status[1].startswith(b"2"):
            answer = status[1].decode() if status else "no HTTP"
            raise self._refused(f"answers {answer} for {target}")

    def _refused(self, what: str) -> TunnelRefused:
        reason = f"The proxy of your network, {self.host}:{self.port}, {what}."
        return TunnelRefused(HTTPStatus.BAD_GATEWAY, reason)


def proxy_for(host: str, proxies: Mapping[str, str]) -> NetworkProxy | None:
    """Proxy for HTTPS to ``host``; None for a direct connection.

    ``proxies``: as of ``urllib.request.getproxies_environment``, by ``https`` and ``no``. Raises
    ``TunnelRefused`` if the address is none.
    """
    url = proxies.get("https", "")
    if not url or proxy_bypass(host, dict(proxies)):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        reason = "HTTPS_PROXY of `darkroom serve` is not the address of a proxy."
        raise TunnelRefused(HTTPStatus.BAD_GATEWAY, reason) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:  # SOCKS
        return None
    return NetworkProxy(parts.hostname, port, parts.scheme == "https", _credentials(parts))


def _credentials(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}"
