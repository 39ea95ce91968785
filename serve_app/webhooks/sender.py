"""One try: a POST, and what the receiver made of it."""

from __future__ import annotations

import asyncio
import base64
import math
import ssl
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.parse import unquote

import httpcore
import httpx

from serve_app.domain.addresses import Resolve
from serve_app.domain.ports import Clock
from serve_app.domain.webhook import Answer
from serve_app.webhooks.connecting import PrivateAddress, PublicOnly
from serve_app.webhooks.signing import Parcel, Signer

USER_AGENT = "Darkroom-Webhook/1"

CONNECT_S = 10.0
READ_ON_S = 1.0
MOST_READ = 64 * 1024  # bytes of an answer: read so that the connection can be used again
MOST_CONNECTIONS = 128
IDLE_S = 30.0
MOST_PATIENCE_S = 3600.0
"""A receiver that asks for more time gets this much."""

GONE = 410


class Sender:
    """Keeps connections to receivers open. No proxy of the environment has a part in it, and no
    redirect is followed."""

    def __init__(
        self, resolve: Resolve, signer: Signer, clock: Clock, *, allow_private: bool
    ) -> None:
        self._signer = signer
        self._resolve = resolve
        self._clock = clock
        self._allow_private = allow_private
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def start(self) -> None:
        if self._pool is not None:
            return
        # Where anyio is missing, it is a class that says so: its type is not that of a backend.
        plain = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
        backend = PublicOnly(plain, self._resolve, allow_private=self._allow_private)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=await asyncio.to_thread(trusted),
            max_connections=MOST_CONNECTIONS,
            max_keepalive_connections=MOST_CONNECTIONS,
            keepalive_expiry=IDLE_S,
            network_backend=backend,
        )

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def post(self, url: str, parcel: Parcel, timeout_s: float) -> Answer:
        """What the receiver did within ``timeout_s``. Whatever it does is an answer."""
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **await self._signer.headers(parcel),
        }
        began = self._clock.monotonic()
        status, error, again_after_s, final = None, "", None, False
        try:
            async with asyncio.timeout(timeout_s):
                status, again_after_s = await self._post(url, headers, parcel.body)
            error, final = _judged(status)
        except PrivateAddress as refused:
            error, final = str(refused), True
        except TimeoutError:
            error = f"It did not answer within {timeout_s:g} s."
        except (httpcore.ConnectError, httpcore.ConnectTimeout, ssl.SSLError, OSError) as problem:
            error = f"No connection: {str(problem) or type(problem).__name__}."
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
        ) as problem:
            error = f"No answer: {str(problem) or type(problem).__name__}."
        took_s = self._clock.monotonic() - began
        return Answer(took_s, status, error, again_after_s, final)

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, float | None]:
        if self._pool is None:
            raise RuntimeError("The sender is not started.")
        parsed = httpx.URL(url)
        request = httpcore.Request(
            "POST",
            httpcore.URL(
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
            again_after_s = self._patience(response.headers)
            await _read_on(response)
            return response.status, again_after_s
        finally:
            await response.aclose()

    def _patience(self, headers: list[tuple[bytes, bytes]]) -> float | None:
        """``Retry-After``, in seconds or as a date."""
        for name, value in headers:
            if name.lower() != b"retry-after":
                continue
            given = value.decode("latin-1").strip()
            if given.isascii() and given.isdecimal():
                return min(float(given[:9]), MOST_PATIENCE_S)
            try:
                at = parsedate_to_datetime(given)
            except ValueError:
                return None
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            left_s = (at - self._clock.now()).total_seconds()
            return min(max(0.0, math.ceil(left_s)), MOST_PATIENCE_S)
        return None


async def _read_on(response: httpcore.Response) -> None:
    """The answer's rest, as long as that is quick: it says nothing, but only after it is the
    connection whole."""
    size = 0
    try:
        async with asyncio.timeout(READ_ON_S):
            async for part in response.aiter_stream():
                size += len(part)
                if size > MOST_READ:
                    return
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        return  # the status has come, and counts


def _judged(status: int) -> tuple[str, bool]:
    """What is wrong with it, and whether for good."""
    if 200 <= status < 300:
        return "", False
    if 300 <= status < 400:
        return f"It answered {status}; redirects are not followed.", True
    return f"It answered {status}.", status == GONE


def _credentials(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    if not url.userinfo:
        return []
    name, _, password = url.userinfo.decode("ascii").partition(":")
    pair = f"{unquote(name)}:{unquote(password)}".encode()
    return [(b"authorization", b"Basic " + base64.b64encode(pair))]


def trusted() -> ssl.SSLContext:
    """Checks certificates against those of certifi, or of ``SSL_CERT_FILE``."""
    return httpx.create_ssl_context()
