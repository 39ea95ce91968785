"""Fetches the files that an input names: by URL, from our own storage, or inside the input."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import httpx

from serve_app.domain.addresses import Resolve, is_public
from serve_app.domain.errors import InvalidInput

Sink = Callable[[bytes], object]
"""Takes the parts of a file, in their order. What it raises ends the fetch."""

MOST_REDIRECTS = 3
NOT_MODIFIED = 304
_OWN_PATH = re.compile(r"/files(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says by which a file's content is known again; empty: it does not say it."""

    etag: str = ""
    last_modified: str = ""

    def asks(self) -> dict[str, str]:
        """Headers that ask for another version only."""
        both = {"if-none-match": self.etag, "if-modified-since": self.last_modified}
        return {name: value for name, value in both.items() if value}


class Fetcher:
    """Gives what is at a URL, or ``InvalidInput`` that names the field. Give it to one event loop.

    No URL reaches a private address, also not by a redirect or by a name that resolves anew: the
    address that was checked is the one that is connected to. Only files of our own storage come
    from wherever that is.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        resolve: Resolve,
        *,
        max_bytes: int,
        timeout_s: float,
        allow_private: bool,
        offline: bool = False,
    ) -> None:
        """The client must follow no redirects and take no proxy from the environment. ``offline``:
        only our own files are fetched."""
        self._client = client
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._offline = offline

    async def fetch(self, url: str, field: str, files_url: str = "") -> bytes:
        """``files_url``: the origin at which our own files are read; empty: there is none."""
        body = bytearray()
        await self.stream(url, field, body.extend, files_url)
        return bytes(body)

    async def stream(
        self, url: str, field: str, sink: Sink, files_url: str = "", known: Version | None = None
    ) -> Version | None:
        """The same, part by part to ``sink``. None, and nothing to ``sink``: the file is still of
        the version ``known``."""
        if url[:5].lower() == "data:":
            sink(self._inline(url, field))
            return Version()
        download = _Download(field, sink, known or Version())
        parsed = _parsed(url, field)
        try:
            async with asyncio.timeout(self._timeout_s):
                if not await self._own(parsed, download, files_url):
                    await self._foreign(parsed, download)
                return download.version
        except TimeoutError:
            raise _unread(field, f"the file did not come within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise _unread(field, f"the file could not be fetched: {what}") from None

    async def aclose(self) -> None:
        await self._client.aclose()

    def _inline(self, url: str, field: str) -> bytes:
        head, comma, body = url.partition(",")
        if not comma:
            raise _unread(field, "the data: URI has no comma")
        plain = unquote_to_bytes(body)
        try:
            made = _from_base64(plain) if head.lower().endswith(";base64") else plain
        except ValueError as error:
            raise _unread(field, f"the data: URI cannot be read: {error}") from None
        self._check_size(len(made), field)
        return made

    async def _own(self, url: httpx.URL, download: _Download, files_url: str) -> bool:
        """A file of ours, by the path that we gave it, whatever name the client knows us by.
        False: it is none.

        Whoever knows the path may read the file, so asking for it gives nothing away.
        """
        path = url.raw_path.decode("ascii").partition("?")[0]
        if not files_url or _OWN_PATH.fullmatch(path) is None:
            return False
        place = httpx.URL(files_url.rstrip("/") + path)
        for _ in range(MOST_REDIRECTS + 1):
            headers = download.known.asks()
            async with self._client.stream("GET", place, headers=headers) as response:
                if await self._received(response, download):
                    return True
                if not response.has_redirect_location:
                    download.missing_here = True
                    return False
                # To where storage keeps the file.
                place = place.join(response.headers["location"])
        return False

    async def _foreign(self, url: httpx.URL, download: _Download) -> None:
        field = download.field
        if self._offline:
            raise _unread(field, "nothing is fetched from elsewhere here (DARKROOM_OFFLINE)")
        for _ in range(MOST_REDIRECTS + 1):
            request = await self._request(url, download)
            request.headers.update(download.known.asks())
            response = await self._client.send(request, stream=True)
            try:
                if await self._received(response, download):
                    return
                if not response.has_redirect_location:
                    status = response.status_code
                    raise _unread(field, f"the server of the file answered {status}")
                url = _parsed(str(url.join(response.headers["location"])), field)
            finally:
                await response.aclose()
        raise _unread(field, f"the URL redirects more than {MOST_REDIRECTS} times")

    async def _request(self, url: httpx.URL, download: _Download) -> httpx.Request:
        """To the very address that was checked, under the name that was asked for."""
        address = await self._address(url, download)
        request = self._client.build_request(
            "GET",
            url.copy_with(host=address, username=None, password=None),
            headers={"host": url.netloc.decode("ascii"), "accept": "*/*"},
        )
        request.extensions["sni_hostname"] = url.host  # also what the certificate is checked for
        return request

    async def _address(self, url: httpx.URL, download: _Download) -> str:
        field = download.field
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await self._resolve(url.host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise _unread(field, f"the host {url.host} is not known")
        if not self._allow_private and not all(is_public(address) for address in found):
            here = "there is no such file of ours (any more), and " if download.missing_here else ""
            raise _unread(
                field,
                f"{here}the host {url.host} has a private address, and those are not fetched from "
                "here unless DARKROOM_ALLOW_PRIVATE_URLS is set",
            )
        return found[0]

    async def _received(self, response: httpx.Response, download: _Download) -> bool:
        """False: the answer has no file."""
        if response.status_code == NOT_MODIFIED and download.known.asks():
            return True
        if not response.is_success:
            return False
        field, headers = download.field, response.headers
        declared = headers.get("content-length", "")
        if declared.isdecimal():
            self._check_size(int(declared), field)
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            self._check_size(size, field)
            download.sink(part)
        download.version = Version(headers.get("etag", ""), headers.get("last-modified", ""))
        return True

    def _check_size(self, size: int, field: str) -> None:
        if size > self._max_bytes:
            message = f"the file is larger than {self._max_bytes} bytes"
            most = {"max_size": self._max_bytes}
            raise InvalidInput.of_field(field, message, "file_too_large", most)


@dataclass(slots=True)
class _Download:
    field: str
    sink: Sink
    known: Version
    version: Version | None = None  # of what has come; None: nothing has
    missing_here: bool = False  # it has the path of a file of ours, and is none


def http_client() -> httpx.AsyncClient:
    """For the URLs of inputs."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(30.0, connect=10.0),
        # Connections are to addresses, and no other name may find one open.
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=0),
    )


def _parsed(url: str, field: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _unread(field, "Input should be an http:, https: or data: URL of a file")
    return parsed


def _from_base64(text: bytes) -> bytes:
    """Of either alphabet; clients break lines, and leave the padding out."""
    compact = b"".join(text.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return b64decode(compact + b"=" * (-len(compact) % 4), validate=True)


def _unread(field: str, message: str) -> InvalidInput:
    return InvalidInput.of_field(field, message, "file_download_error")
