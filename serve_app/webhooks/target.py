"""URL policy for webhooks."""

from __future__ import annotations

import asyncio

import httpx2

from serve_app.domain.addresses import PrivateAddress, Resolve, UnknownHost, connectable
from serve_app.domain.sharing.admission import admission_suspended
from serve_app.domain.sharing.fair_queue import work_of

MAX_LENGTH = 2048  # characters of a URL
PORTS = range(1, 2**16)
RESOLVE_S = 2.0
PRIVATE = (
    "has a private address, and webhooks to private addresses are refused unless "
    "DARKROOM_ALLOW_PRIVATE_WEBHOOKS is set"
)


class BadTarget(Exception):
    """Invalid webhook URL. ``str()`` continues a sentence that starts with "fal_webhook"."""


def validate_url(url: str) -> str:
    """``url`` as it will be called, without its fragment. Raises ``BadTarget``."""
    if len(url) > MAX_LENGTH:
        raise BadTarget(f"should have at most {MAX_LENGTH} characters")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise BadTarget("should be an http: or https: URL") from None
    if parsed.scheme not in ("http", "https"):
        raise BadTarget("should be an http: or https: URL")
    if not parsed.host:
        raise BadTarget("should name a host")
    if parsed.port is not None and parsed.port not in PORTS:
        raise BadTarget(f"should have a port from {PORTS[0]} to {PORTS[-1]}")
    whole = str(parsed.copy_with(fragment=None))
    if len(whole) > 2 * MAX_LENGTH:  # encoding of non-ASCII characters makes it longer
        raise BadTarget("is too long when it is written in ASCII")
    return whole


class Targets:
    """Early check that refuses private addresses when a webhook is requested.

    It reports mistakes early. Protection comes from the check at each connection (``PublicOnly``),
    because a name may resolve to another address by then.
    """

    def __init__(self, resolve: Resolve, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private

    async def check(self, url: str, tenant: str) -> str:
        """``url`` as from ``validate_url``. Raises ``BadTarget``.

        A name that does not resolve right now is not refused.
        """
        whole = validate_url(url)
        if self._allow_private:
            return whole
        parsed = httpx2.URL(whole)
        if await is_private(parsed, tenant, self._resolve):
            raise BadTarget(f"names the host {parsed.host}, which {PRIVATE}")
        return whole


async def is_private(url: httpx2.URL, tenant: str, resolve: Resolve) -> bool:
    """Return whether the host has a private address. One that does not resolve within ``RESOLVE_S``
    has none yet: whoever connects looks again."""
    async with admission_suspended():  # a name server may take seconds
        try:
            async with asyncio.timeout(RESOLVE_S):
                with work_of(tenant):
                    await connectable(url.host, port_of(url), resolve)
        except PrivateAddress:
            return True
        except (UnknownHost, TimeoutError):
            pass
    return False


def port_of(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
