"""Port of the proxy in a thread of its own, which ends with its process, and its check of keys."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import suppress
from urllib.request import getproxies_environment

import httpx2

from serve_app.domain.errors import Misconfigured, Unavailable
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.ports import Clock
from serve_app.gateway.connect_proxy import Admits, ConnectProxy

KEY_CACHE_S = 1.0
"""How long a valid key is not checked again. With the time for which an ingress remembers a key,
and ``CHECK_S`` of a tunnel, it makes the five seconds after which a revoked key has no tunnel."""
PATIENCE_S = 10.0


class KeyCheck:
    """Check of API keys through Darkroom's HTTP API. Valid keys are cached for ``KEY_CACHE_S``.
    ``Unavailable``: Darkroom does not answer."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._good: dict[bytes, float] = {}  # digest of a valid key → end of its cache time

    async def __call__(self, key: str) -> bool:
        digest, now = hashlib.sha256(key.encode()).digest(), self._clock.monotonic()
        self._good = {known: until for known, until in self._good.items() if until > now}
        if digest in self._good:
            return True
        headers = {"authorization": f"Key {key}"}
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
                answer = await client.get(f"{self._url}/v1/models?limit=1", headers=headers)
        except UnicodeError:
            return False
        except httpx2.HTTPError as error:
            raise Unavailable("Darkroom does not answer, so no key can be checked.") from error
        if answer.is_server_error:
            raise Unavailable(f"Darkroom answers {answer.status_code}, so no key can be checked.")
        if not answer.is_success:
            return False
        self._good[digest] = now + KEY_CACHE_S
        return True


class ProxyThread:
    """Thread that runs a ``ConnectProxy`` at ``address`` from ``start`` to ``aclose``."""

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
        """Start the thread and wait until the port listens. Raises ``Misconfigured``."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            host, port = self._address
            raise Misconfigured(
                f"The proxy port {port} on {host} cannot be opened: {self._failure}. "
                "Choose another --proxy-port."
            )

    def aclose(self) -> None:
        if self._loop is not None and self._end is not None:
            with suppress(RuntimeError):  # the loop has ended, such as where the port was taken
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
        proxy = ConnectProxy(
            *(self._address, self._fal_at, self._admits, NameResolver()),
            proxies=getproxies_environment(),
        )
        await proxy.start()
        self._ready.set()
        try:
            await self._end.wait()
        finally:
            await proxy.aclose()
