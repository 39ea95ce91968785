"""Puts files where their tickets say."""

from __future__ import annotations

import asyncio
import logging

import httpx

from deployments.backoff import Backoff
from deployments.family import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import StorageUnavailable, TooLarge
from serve_app.domain.ports import Clock

log = logging.getLogger(__name__)

_TRY_AGAIN = frozenset({408, 425, 429})


class Uploader:
    """Uploads by ticket; holds no credential. Give it to one event loop."""

    def __init__(
        self, client: httpx.AsyncClient, clock: Clock, backoff: Backoff, give_up_s: float
    ) -> None:
        self._client = client
        self._clock = clock
        self._backoff = backoff
        self._give_up_s = give_up_s

    async def put(self, file: MediaFile) -> None:
        """Upload, again and again while storage does not answer.

        ``TooLarge`` when the file is over its ticket's limit, ``StorageUnavailable`` when storage
        refuses it or has not taken it within ``give_up_s``.
        """
        ticket = file.ticket
        if len(file.body) > ticket.max_bytes:
            raise TooLarge(
                f"A file of {len(file.body)} bytes was made, and {ticket.max_bytes} are allowed."
            )
        give_up_at = self._clock.monotonic() + self._give_up_s
        for delay_s in self._backoff.delays():
            problem = await self._try(file)
            if problem is None:
                return
            if self._clock.monotonic() + delay_s > give_up_at:
                raise StorageUnavailable(f"The upload did not succeed in time: {problem}")
            log.info("An upload failed (%s) and is tried again in %.1f s.", problem, delay_s)
            await asyncio.sleep(delay_s)

    async def delete(self, ticket: UploadTicket) -> None:
        """Best effort: storage may refuse, and retention removes what is left."""
        try:
            await self._client.delete(ticket.url, headers=dict(ticket.headers))
        except httpx.HTTPError as error:
            log.info("An upload that nobody wants could not be deleted: %r", error)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _try(self, file: MediaFile) -> str | None:
        """What went wrong and may go right later; None when the file is stored."""
        ticket = file.ticket
        headers = {**dict(ticket.headers), "content-type": ticket.media_type}
        try:
            response = await self._client.put(ticket.url, content=file.body, headers=headers)
        except httpx.HTTPError as error:
            return repr(error)
        if response.is_success:
            return None
        if response.status_code >= 500 or response.status_code in _TRY_AGAIN:
            return f"storage answered {response.status_code}"
        if response.status_code == 413:
            raise TooLarge(f"Storage refused a file of {len(file.body)} bytes as too large.")
        raise StorageUnavailable(
            f"Storage refused the upload: {response.status_code} {response.text[:200]}"
        )


def http_client() -> httpx.AsyncClient:
    """For uploads. No proxy from the environment: tickets point into the installation."""
    return httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(60.0, connect=5.0),
        limits=httpx.Limits(max_connections=32),
    )
