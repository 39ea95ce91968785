"""Single try of a webhook: a signed POST and the receiver's response."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote

import httpcore2
import httpx2

from serve_app.domain.addresses import PrivateAddress, Resolve, UnknownHost, connectable
from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import Clock
from serve_app.domain.retry_after import parse_retry_after
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.domain.webhook import ReceiverResponse
from serve_app.telemetry.trace_context import to_headers
from serve_app.webhooks.signing import SignedMessage, Signer
from serve_app.webhooks.target import PRIVATE


class PublicOnly(httpcore2.AsyncNetworkBackend):
    """Network backend that resolves a name once and connects to the checked addresses.

    A name that resolves to another address a moment later therefore has no effect. The connection
    pool still identifies the connection by its name and checks the certificate for it.
    """

    def __init__(
        self, inner: httpcore2.AsyncNetworkBackend, resolve: Resolve, *, allow_private: bool
    ) -> None:
        self._inner = inner
        self._resolve = resolve
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers.

        Raises ``PrivateAddress``, ``httpcore2.ConnectError`` or ``httpcore2.ConnectTimeout``.
        """
        try:
            addresses = await connectable(
                host, port, self._resolve, allow_private=self._allow_private
            )
        except UnknownHost as unknown:
            raise httpcore2.ConnectError(str(unknown)) from None
        problem: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem or httpcore2.ConnectError(f"the host {host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise NotImplementedError("Webhooks cannot use Unix sockets.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


USER_AGENT = "Darkroom-Webhook/1"

CONNECT_S = 10.0
DRAIN_S = 1.0
MAX_READ_BYTES = 64 * 1024  # bytes of a response to read, so that the connection can be reused
MAX_CONNECTIONS = 128
IDLE_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
"""Longest delay that a receiver can request with ``Retry-After``."""

GONE = 410


class Sender:
    """HTTP sender that keeps connections to receivers open.

    It ignores the proxies of the environment and follows no redirects.
    """

    def __init__(
        self, resolve: Resolve, signer: Signer, clock: Clock, *, allow_private: bool
    ) -> None:
        self._signer = signer
        self._resolve = resolve
        self._clock = clock
        self._allow_private = allow_private
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def start(self) -> None:
        if self._pool is not None:
            return
        # Without anyio, httpcore2 has a placeholder class here, whose type is not a backend's.
        plain = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())
        backend = PublicOnly(plain, self._resolve, allow_private=self._allow_private)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=await asyncio.to_thread(make_tls_context),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=IDLE_S,
            network_backend=backend,
        )

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def post(self, url: str, message: SignedMessage, timeout_s: float) -> ReceiverResponse:
        """Send one signed POST. Errors and timeouts are a ``ReceiverResponse`` too."""
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **to_headers(message.trace),
            **await self._signer.headers(message),
        }
        began = self._clock.monotonic()
        status, error, again_after_s, final = None, "", None, False
        try:
            async with asyncio.timeout(timeout_s):
                with work_of(message.tenant):
                    status, again_after_s = await self._post(url, headers, message.body)
            error, final = _error_of(status)
        except PrivateAddress as refused:
            error, final = f"The host {refused.host} {PRIVATE}.", True
        except TimeoutError:
            error = f"It did not answer within {timeout_s:g} s."
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout, ssl.SSLError, OSError) as problem:
            error = f"No connection: {_reason(problem)}."
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            httpcore2.UnsupportedProtocol,
        ) as problem:
            error = f"No answer: {_reason(problem)}."
        took_s = self._clock.monotonic() - began
        return ReceiverResponse(took_s, status, error, again_after_s, final)

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, float | None]:
        if self._pool is None:
            raise RuntimeError("The sender has not been started.")
        parsed = httpx2.URL(url)
        request = httpcore2.Request(
            "POST",
            httpcore2.URL(
                scheme=parsed.raw_scheme,
                host=parsed.raw_host,
                port=parsed.port,
                target=parsed.raw_path,
            ),
            headers=[
                (b"host", parsed.netloc),
                (b"content-length", str(len(body)).encode()),
                *_credentials(parsed),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            content=body,
            extensions={"timeout": {"connect": CONNECT_S}},
        )
        response = await self._pool.handle_async_request(request)
        try:
            again_after_s = self._retry_after_s(response.headers)
            await _drain(response)
            return response.status, again_after_s
        finally:
            await response.aclose()

    def _retry_after_s(self, headers: list[tuple[bytes, bytes]]) -> float | None:
        for name, value in headers:
            if name.lower() == b"retry-after":
                wait_s = parse_retry_after(value.decode("latin-1"), self._clock.now())
                return None if wait_s is None else min(wait_s, MAX_RETRY_AFTER_S)
        return None


async def _drain(response: httpcore2.Response) -> None:
    """Read the rest of the response if that is quick.

    The content is ignored, but the connection can be reused only after it has been read.
    """
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            async for part in response.aiter_stream():
                size += len(part)
                if size > MAX_READ_BYTES:
                    return
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        return  # the status has been received, which is enough


def _error_of(status: int) -> tuple[str, bool]:
    """Error message for a status, empty for success; and True if a retry is pointless."""
    if 200 <= status < 300:
        return "", False
    if 300 <= status < 400:
        return f"It answered {status}; redirects are not followed.", True
    return f"It answered {status}.", status == GONE


def _reason(problem: Exception) -> str:
    """What an error says, without a full stop: some have one."""
    return str(problem).rstrip(". ") or type(problem).__name__


def _credentials(url: httpx2.URL) -> list[tuple[bytes, bytes]]:
    if not url.userinfo:
        return []
    name, _, password = url.userinfo.decode("ascii").partition(":")
    pair = f"{unquote(name)}:{unquote(password)}".encode()
    return [(b"authorization", b"Basic " + base64.b64encode(pair))]


def make_tls_context() -> ssl.SSLContext:
    """TLS context with the roots of certifi or of ``SSL_CERT_FILE``."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # also of a file without certificates
        file = os.environ.get("SSL_CERT_FILE")  # noqa: TID251 of OpenSSL, not a setting
        raise Misconfigured(
            f"The roots of TLS certificates cannot be read ({error.strerror or error}). "
            f"SSL_CERT_FILE is {file!r}: correct it, or unset it."
        ) from error
