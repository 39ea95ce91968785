"""The proxy port in a thread of its own: it ends with its process, whatever ends that."""

from __future__ import annotations

import asyncio
import hashlib
import threading

import httpx

from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import Clock
from serve_app.entrance.connect_proxy import Admits, ConnectProxy, resolve

GOOD_FOR_S = 30.0  # so long after its end a revoked key may still open tunnels
PATIENCE_S = 10.0


class KeyCheck:
    """Asks Darkroom itself whether an API key is good."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._good: dict[bytes, float] = {}  # digest of a key → until when it need not be asked

    async def __call__(self, key: str) -> bool:
        digest, now = hashlib.sha256(key.encode()).digest(), self._clock.monotonic()
        self._good = {known: until for known, until in self._good.items() if until > now}
        if digest in self._good:
            return True
        headers = {"authorization": f"Key {key}"}
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
                answer = await client.get(f"{self._url}/v1/models?limit=1", headers=headers)
        except (httpx.HTTPError, UnicodeError):
            return False
        if not answer.is_success:
            return False
        self._good[digest] = now + GOOD_FOR_S
        return True


class ProxyThread:
    """``ConnectProxy`` at ``address``, from ``start`` to ``aclose``."""

    def __init__(
        self, address: tuple[str, int], fal_at: tuple[str, int] | None, admits: Admits
    ) -> None:
        self._address = address
        self._fal_at = fal_at
        self._admits = admits
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, daemon=True, name="proxy-port")

    def start(self) -> None:
        """Returns when it listens; ``Misconfigured`` when it cannot."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            host, port = self._address
            raise Misconfigured(
                f"The proxy port {port} on {host} cannot be opened: {self._failure}. "
                "Choose another --proxy-port."
            )

    def aclose(self) -> None:
        if self._loop is not None and self._end is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        proxy = ConnectProxy(self._address, self._fal_at, self._admits, resolve)
        await proxy.start()
        self._ready.set()
        try:
            await self._end.wait()
        finally:
            await proxy.aclose()
