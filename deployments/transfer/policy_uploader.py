"""Uploads to buckets of clients, by POST with the presigned form of a ticket."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator

import httpx2

from deployments.transfer.fetcher import fetcher_client
from deployments.transfer.uploader import Backoff, MediaFile
from serve_app.domain.addresses import PrivateAddress, Resolve, UnknownHost, connectable
from serve_app.domain.errors import UploadPolicyFailed
from serve_app.domain.media.upload_policy import UPLOAD_POLICY_HEADER
from serve_app.domain.name_resolution import MAX_THREADS, NameResolver
from serve_app.domain.ports import Clock

log = logging.getLogger(__name__)

_TRY_AGAIN = frozenset({408, 425, 429})
_SEE_OTHER = 303  # the file is stored; ``success_action_redirect`` asks for this answer
_NEVER = 501
MAX_ANSWER = 4096  # bytes that are read of an answer
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")


class PolicyUploader:
    """Uploader to the buckets that clients name. Use it on one event loop.

    A bucket cannot be at a private address, not even by DNS rebinding: the connection goes to the
    very address that was checked.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        resolve: Resolve,
        clock: Clock,
        backoff: Backoff,
        give_up_s: float,
        *,
        allow_private: bool,
    ) -> None:
        """``client`` must not follow redirects and must not use a proxy from the environment."""
        self._client = client
        self._resolve = resolve
        self._clock = clock
        self._backoff = backoff
        self._give_up_s = give_up_s
        self._allow_private = allow_private

    async def put(self, file: MediaFile) -> None:
        """Store a file by its ticket's form, with retries while the bucket does not respond.

        Raises ``UploadPolicyFailed`` if the bucket refuses it, or stays away for ``give_up_s``:
        another attempt would generate the file again for nothing.
        """
        if file.size > file.ticket.max_bytes:
            raise UploadPolicyFailed(
                f"A file has {file.size} bytes, and the policy in {UPLOAD_POLICY_HEADER} or this "
                f"installation allows {file.ticket.max_bytes}."
            )
        give_up_at = self._clock.monotonic() + self._give_up_s
        for delay_s in self._backoff.delays():
            problem = await self._try(file, give_up_at - self._clock.monotonic())
            if problem is None:
                return
            if self._clock.monotonic() + delay_s >= give_up_at:
                raise UploadPolicyFailed(
                    f"The bucket of {UPLOAD_POLICY_HEADER} did not take a file within "
                    f"{self._give_up_s:g} s: {problem}. Send the request again when it responds."
                )
            log.info("An upload to a client's bucket failed (%s); trying again.", problem)
            await asyncio.sleep(delay_s)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _try(self, file: MediaFile, left_s: float) -> str | None:
        """Try one upload. None on success, or the reason why a retry may succeed."""
        try:
            async with asyncio.timeout(left_s):
                request = await self._request(file)
                response = await self._client.send(request, stream=True)
                try:
                    answer = await _beginning(response)
                finally:
                    await response.aclose()
        except UnknownHost as error:
            return str(error)
        except httpx2.HTTPError as error:
            return type(error).__name__
        except TimeoutError:
            return "it was too slow"
        status = response.status_code
        if response.is_success or status == _SEE_OTHER:
            return None
        if (status >= 500 and status != _NEVER) or status in _TRY_AGAIN:
            return f"it answered {status}"
        raise UploadPolicyFailed(
            f"The bucket of {UPLOAD_POLICY_HEADER} refused a file: {status}{_reason(answer)}"
        )

    async def _request(self, file: MediaFile) -> httpx2.Request:
        """Request to the checked address, with the bucket's name as its host."""
        url = httpx2.URL(file.ticket.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await connectable(
                url.host, port, self._resolve, allow_private=self._allow_private
            )
        except PrivateAddress:
            raise UploadPolicyFailed(
                f"The URL in {UPLOAD_POLICY_HEADER} names the host {url.host}, which has a private "
                "address. Files are not sent there unless DARKROOM_ALLOW_PRIVATE_URLS is set."
            ) from None
        if url.scheme != "https" and not self._allow_private:
            raise UploadPolicyFailed(f"{UPLOAD_POLICY_HEADER} should have an https: URL.")
        body = _Form(file)
        request = self._client.build_request(
            "POST",
            url.copy_with(host=addresses[0]),
            content=body.content(),
            headers={
                "host": url.netloc.decode("ascii"),
                "content-type": f"multipart/form-data; boundary={body.boundary}",
                # S3 rejects chunked transfer encoding, the default for streamed bodies.
                "content-length": str(body.size),
            },
        )
        request.extensions["sni_hostname"] = url.host  # the certificate is checked against it too
        return request


class _Form:
    """Multipart form whose last part is a file, which is read in chunks."""

    def __init__(self, file: MediaFile) -> None:
        self.boundary = secrets.token_hex(16)
        self._file = file
        key = dict(file.ticket.form)["key"]
        fields = "".join(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in file.ticket.form
        )
        self._head = (
            f"{fields}--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{_plain(key)}"\r\n'
            f"Content-Type: {file.ticket.media_type}\r\n\r\n"
        ).encode()
        self._end = f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self._head) + self._file.size + len(self._end)

    async def content(self) -> AsyncIterator[bytes]:
        yield self._head
        content = self._file.content()
        if isinstance(content, bytes):
            yield content
        else:
            async for part in content:
                yield part
        yield self._end


def policy_uploader(
    clock: Clock, backoff: Backoff, give_up_s: float, *, allow_private: bool
) -> PolicyUploader:
    """Uploader with an HTTP client of its own."""
    resolve = NameResolver(per_tenant=MAX_THREADS)
    client = fetcher_client()
    return PolicyUploader(client, resolve, clock, backoff, give_up_s, allow_private=allow_private)


def _plain(key: str) -> str:
    """Last part of a key, in characters that a header may have."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", key.rpartition("/")[2])


async def _beginning(response: httpx2.Response) -> str:
    """Beginning of an answer, which may be of any server and of any length."""
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_ANSWER:
            break
    return content[:MAX_ANSWER].decode("utf-8", "replace")


def _reason(answer: str) -> str:
    """Code and message of S3's error. Nothing else of the answer."""
    code, message = _CODE.search(answer), _MESSAGE.search(answer)
    if code is None:
        return "."
    return f" {code[1]}" + ("." if message is None else f": {message[1].rstrip('.')}.")
