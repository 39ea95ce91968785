"""Puts files where their tickets say."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping

import httpx

from deployments.backoff import Backoff
from deployments.media_file import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import StorageUnavailable, TooLarge
from serve_app.domain.ports import Clock

log = logging.getLogger(__name__)

_XML = re.compile(r"<(?:Code|Message)>([^<]*)<")

_TRY_AGAIN = frozenset({408, 409, 425, 429})  # 409: S3, when another PUT of the key is under way
_EXISTS = 412  # to a PUT on condition that nothing is there
_NEVER = 501  # storage does not know a part of the request, and will not learn it


class StorageAway(StorageUnavailable):
    """Storage has not answered for so long that it is given up. Does not leave the replica: the
    attempt is handed back."""


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
        refuses it, ``StorageAway`` when it has not taken it within ``give_up_s``, however slow.
        """
        ticket, size = file.ticket, file.size
        if size > ticket.max_bytes:
            raise TooLarge(f"A file of {size} bytes was made, and {ticket.max_bytes} are allowed.")
        headers = await _headers(file)
        give_up_at = self._clock.monotonic() + self._give_up_s
        for number, delay_s in enumerate(self._backoff.delays()):
            left_s = give_up_at - self._clock.monotonic()
            problem = await self._try(file, headers, left_s, again=number > 0)
            if problem is None:
                return
            if self._clock.monotonic() + delay_s >= give_up_at:
                raise StorageAway(f"The upload did not succeed in time: {problem}")
            log.info("An upload failed (%s) and is tried again in %.1f s.", problem, delay_s)
            await asyncio.sleep(delay_s)

    async def delete(self, ticket: UploadTicket) -> None:
        """Best effort: storage may refuse, and retention removes what is left."""
        try:
            if ticket.delete_url is not None:
                await self._client.delete(ticket.delete_url)
            else:
                await self._client.delete(ticket.url, headers=dict(ticket.headers))
        except httpx.HTTPError as error:
            log.info("An upload that nobody wants could not be deleted: %r", error)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _try(
        self, file: MediaFile, headers: Mapping[str, str], left_s: float, *, again: bool
    ) -> str | None:
        """What went wrong and may go right later; None when the file is stored."""
        try:
            async with asyncio.timeout(left_s):
                response = await self._client.put(
                    file.ticket.url, content=file.content(), headers=headers
                )
        except httpx.HTTPError as error:
            return repr(error)
        except TimeoutError:
            return "storage was too slow"
        status = response.status_code
        if response.is_success:
            return None
        if again and status == _EXISTS:
            # The try before arrived, and its answer was lost: nobody else has this ticket.
            return None
        if (status >= 500 and status != _NEVER) or status in _TRY_AGAIN:
            return f"storage answered {status}"
        if status == 413:
            raise TooLarge(f"Storage refused a file of {file.size} bytes as too large.")
        raise StorageUnavailable(f"Storage refused the upload: {status} {_reason(response.text)}")


async def _headers(file: MediaFile) -> dict[str, str]:
    headers = {
        **dict(file.ticket.headers),
        "content-type": file.ticket.media_type,
        # Storage takes no file whose size comes last, as it does of what is sent part by part.
        "content-length": str(file.size),
    }
    if file.ticket.takes_md5:
        # A large file takes longer than the event loop has.
        headers["content-md5"] = await asyncio.to_thread(file.md5)
    return headers


def _reason(answer: str) -> str:
    """Of S3's XML the code and the message alone: the rest names the access key."""
    return ": ".join(_XML.findall(answer)) or answer[:200]


def http_client() -> httpx.AsyncClient:
    """For uploads. No proxy from the environment: tickets point into the installation."""
    return httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(60.0, connect=5.0),
        limits=httpx.Limits(max_connections=32),
    )
