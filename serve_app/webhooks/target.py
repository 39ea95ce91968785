"""Whom a webhook may call."""

from __future__ import annotations

import asyncio

import httpx

from serve_app.domain.addresses import Resolve, is_public

MAX_LENGTH = 2048  # characters of a URL
RESOLVE_S = 2.0
PRIVATE = (
    "has a private address, and those are not called from here unless "
    "DARKROOM_ALLOW_PRIVATE_WEBHOOKS is set"
)


class BadTarget(Exception):
    """A URL that cannot be called; ``str()`` goes on from "fal_webhook …"."""


def checked(url: str) -> str:
    """``url`` as it will be called, without its fragment. ``BadTarget``."""
    if len(url) > MAX_LENGTH:
        raise BadTarget(f"should have at most {MAX_LENGTH} characters")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise BadTarget("should be an http: or https: URL") from None
    if parsed.scheme not in ("http", "https"):
        raise BadTarget("should be an http: or https: URL")
    if not parsed.host:
        raise BadTarget("should name a host")
    whole = str(parsed.copy_with(fragment=None))
    if len(whole) > 2 * MAX_LENGTH:  # what was not ASCII is longer now
        raise BadTarget("is too long when it is written in ASCII")
    return whole


class Targets:
    """Refuses private addresses as soon as a webhook is asked for.

    Only so that the mistake is told at once: what protects is the check at each connection
    (``PublicOnly``), since names may resolve to something else by then.
    """

    def __init__(self, resolve: Resolve, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private

    async def check(self, url: str) -> str:
        """``url`` as ``checked``. A name that does not resolve just now is none of a mistake."""
        whole = checked(url)
        if self._allow_private:
            return whole
        parsed = httpx.URL(whole)
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await self._resolve(parsed.host, port_of(parsed))
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return whole
        if not all(map(is_public, found)):
            raise BadTarget(f"names the host {parsed.host}, which {PRIVATE}")
        return whole


def port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
