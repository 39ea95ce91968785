"""Connections to receivers, to public addresses only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpcore

from serve_app.domain.addresses import Resolve, is_public
from serve_app.webhooks.target import PRIVATE


class PrivateAddress(Exception):
    """The host's name leads to an address that is not to be called."""


class PublicOnly(httpcore.AsyncNetworkBackend):
    """Resolves a name once and connects to what it has checked, so that a name which resolves to
    something else a moment later gains nothing. The pool above it goes on to know the connection by
    its name, and to check the certificate for that."""

    def __init__(
        self, inner: httpcore.AsyncNetworkBackend, resolve: Resolve, *, allow_private: bool
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
    ) -> httpcore.AsyncNetworkStream:
        """``PrivateAddress``; ``httpcore.ConnectError``, ``ConnectTimeout``."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise httpcore.ConnectError(f"the host {host} is not known")
        if not self._allow_private and not all(map(is_public, found)):
            raise PrivateAddress(f"The host {host} {PRIVATE}.")
        problem: Exception | None = None
        for address in found:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem or httpcore.ConnectError(f"the host {host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError("A webhook has no socket.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
