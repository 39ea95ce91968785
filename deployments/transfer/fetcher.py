"""Fetcher for the files that an input names: by URL, from our own storage, or as a data: URI."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import SystemRandom

import httpx2

from deployments.transfer.uploader import (
    DONE,
    Backoff,
    HttpTransport,
    StorageCalls,
    StorageRetry,
    may_pass,
)
from serve_app.domain.addresses import PrivateAddress, Resolve, UnknownHost, connectable
from serve_app.domain.errors import ArtifactNotFound, InvalidInput
from serve_app.domain.lease import Lease
from serve_app.domain.media.data_uri import is_data_uri, read_data_uri

log = logging.getLogger(__name__)

Sink = Callable[[bytes], object]
"""Receives the chunks of a file in order. If it raises, the fetch ends."""

MAX_REDIRECTS = 3
RATE_WINDOW_S = 15.0
RATE_GRACE_S = 10.0  # for name resolution, connecting, redirects and slow starts
OWN_TRIES = 5  # for a file of our own storage, before the attempt is handed back
OWN_BACKOFF = Backoff(SystemRandom(), first_s=0.5)
READ = "read"  # the call of storage that is counted
NOT_MODIFIED = 304
FORBIDDEN = 403
PRIVATE = "/files/p/"
"""Beginning of the paths of our private files."""
_OWN_PATH = re.compile(r"/files(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")


@dataclass(frozen=True, slots=True)
class Version:
    """Validators from a server that identify a file's version. Empty if the server sends none."""

    etag: str = ""
    last_modified: str = ""

    def conditional_headers(self) -> dict[str, str]:
        """Headers of a conditional request."""
        both = {"if-none-match": self.etag, "if-modified-since": self.last_modified}
        return {name: value for name, value in both.items() if value}


@dataclass(frozen=True, slots=True)
class OwnStorage:
    """Our own storage, as a fetcher reads it: the count of its calls, and the delays between
    tries."""

    calls: StorageCalls = field(default_factory=StorageCalls)
    backoff: Backoff = OWN_BACKOFF


@dataclass(frozen=True, slots=True)
class MinRate:
    """Rate below which a download fails: ``bytes_per_s``, averaged over ``window_s``."""

    bytes_per_s: int  # 0: no limit
    window_s: float = RATE_WINDOW_S
    grace_s: float = RATE_GRACE_S  # added to the first window


NO_MIN_RATE = MinRate(0)


class RateCheck:
    """Check of one download against its minimum rate. Pure: times are arguments.

    The amount of one window must arrive before ``due``; then the next window begins. The rest of a
    file that is smaller than this amount must end before ``due``.
    """

    def __init__(self, rate: MinRate, now: float) -> None:
        self._window_s = rate.window_s
        self._window_bytes = rate.bytes_per_s * rate.window_s
        self._received = 0
        self.due = now + rate.grace_s + rate.window_s

    def receive(self, size: int, now: float) -> bool:
        """Count ``size`` received bytes. True if they have completed a window."""
        self._received += size
        if self._received < self._window_bytes:
            return False
        self._received = 0
        self.due = max(self.due, now + self._window_s)
        return True


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Access to the files of our own storage."""

    url: str = ""  # origin; empty: there are none
    token: str = ""  # with which private ones are read; empty: they are not
    trusted: bool = True  # False: where it redirects to is checked as any other URL

    @classmethod
    def of(cls, lease: Lease) -> OwnFiles:
        """Access that an attempt has: to what its tenant may read."""
        return cls(lease.files_url, lease.files_token)

    def headers(self, place: httpx2.URL) -> dict[str, str]:
        """Credential for ``place``, if it is private. No other server gets it."""
        if not self.token or httpx2.URL(self.url).netloc != place.netloc:
            return {}
        return {"authorization": f"Bearer {self.token}"} if _is_private(place) else {}


NO_FILES = OwnFiles()


class Fetcher:
    """Downloads the file at a URL. Errors are ``InvalidInput`` and name the field, except
    ``StorageRetry``: our own storage does not answer, which is no fault of the input. Use it on one
    event loop.

    A URL cannot reach a private address, not even by a redirect or by DNS rebinding: the connection
    goes to the very address that was checked. Only files of our own storage may be at a private
    address.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        resolve: Resolve,
        *,
        max_bytes: int,
        timeout_s: float,
        allow_private: bool,
        offline: bool = False,
        min_rate: MinRate = NO_MIN_RATE,
        own: OwnStorage | None = None,
    ) -> None:
        """``client`` must not follow redirects and must not use a proxy from the environment.
        ``offline``: only our own files are fetched. ``min_rate`` applies to other servers, not to
        our own storage."""
        self._own_storage = own or OwnStorage()
        self._client = client
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._offline = offline
        self._min_rate = min_rate

    async def fetch(self, url: str, field: str, files: OwnFiles = NO_FILES) -> bytes:
        """Fetch a whole file."""
        body = bytearray()
        await self.stream(url, field, body.extend, files)
        return bytes(body)

    async def stream(
        self,
        url: str,
        field: str,
        sink: Sink,
        files: OwnFiles = NO_FILES,
        known: Version | None = None,
    ) -> Version | None:
        """Fetch a file and pass its chunks to ``sink``. Returns None, without calling ``sink``, if
        the file still has the version ``known``."""
        if is_data_uri(url):
            sink(self._inline(url, field))
            return Version()
        download = _Download(field, sink, known or Version())
        parsed = _parse_url(url, field)
        try:
            async with asyncio.timeout(self._timeout_s):
                if not await self._fetch_own_file(parsed, download, files):
                    await self._foreign_in_time(parsed, download)
                return download.version
        except TimeoutError:
            if download.awaits_own:
                self._own_storage.calls.add(READ, "timeout", self._timeout_s)
                raise _storage_unreachable(f"no answer for {self._timeout_s:g} s") from None
            raise _unread(field, f"the download took longer than {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise _unread(field, f"the file could not be fetched: {what}") from None

    async def aclose(self) -> None:
        await self._client.aclose()

    def _inline(self, url: str, field: str) -> bytes:
        try:
            content = read_data_uri(url)
        except ValueError as error:
            raise _unread(field, str(error)) from None
        self.check_size(len(content), field)
        return content

    async def _fetch_own_file(self, url: httpx2.URL, download: _Download, files: OwnFiles) -> bool:
        """Fetch a file of our own storage by its path, whatever host name the URL has. False if it
        is not our file. ``StorageRetry`` if our storage does not answer.

        This reveals nothing: anyone who knows the path may read a public file, and of the private
        ones the ingress sends those that the request's tenant may read.
        """
        path, _, query = url.raw_path.decode("ascii").partition("?")
        if not files.url or _OWN_PATH.fullmatch(path) is None:
            return False
        place = httpx2.URL(files.url.rstrip("/") + path)
        if _is_private(place) and query:
            place = place.copy_with(query=query.encode())  # it may be signed
        download.awaits_own = True
        for number, delay_s in enumerate(self._own_storage.backoff.delays(), 1):
            try:
                with self._own_storage.calls.count_call(READ) as call:
                    is_fetched = await self._own_once(place, download, files)
                    call.result = DONE if is_fetched else ArtifactNotFound.code
            except (_OwnAway, httpx2.TransportError) as error:
                # What the sink has received cannot be taken back.
                if number == OWN_TRIES or not download.awaits_own:
                    raise _storage_unreachable(repr(error)) from error
                log.info("Our storage sent no file (%r); retrying in %.1f s.", error, delay_s)
                await asyncio.sleep(delay_s)
            else:
                download.awaits_own = False
                return is_fetched
        raise AssertionError

    async def _own_once(self, place: httpx2.URL, download: _Download, files: OwnFiles) -> bool:
        for _ in range(MAX_REDIRECTS + 1):
            headers = download.known.conditional_headers() | files.headers(place)
            async with self._client.stream("GET", place, headers=headers) as response:
                if await self._received(response, download):
                    return True
                if may_pass(response.status_code):
                    raise _OwnAway(f"storage answered {response.status_code}")
                if response.status_code == FORBIDDEN and _is_private(place):
                    raise _unread(download.field, "the file is private, and may not be read")
                if not response.has_redirect_location:
                    download.missing_here = True
                    return False
                # Redirect to where the storage keeps the file.
                place = place.join(response.headers["location"])
            if not files.trusted:
                await self._foreign_in_time(place, download)
                return True
        return False

    async def _foreign_in_time(self, url: httpx2.URL, download: _Download) -> None:
        rate = self._min_rate
        if not rate.bytes_per_s:
            return await self._foreign(url, download)
        check = RateCheck(rate, asyncio.get_running_loop().time())
        limit = asyncio.timeout_at(check.due)
        download.limit, download.check = limit, check
        try:
            async with limit:
                await self._foreign(url, download)
        except TimeoutError:
            if not limit.expired():
                raise
            raise _unread(
                download.field,
                f"the server of the file sent less than {rate.bytes_per_s:,} bytes a second",
            ) from None

    async def _foreign(self, url: httpx2.URL, download: _Download) -> None:
        field = download.field
        if self._offline:
            raise _unread(field, "URLs of other servers are not fetched (DARKROOM_OFFLINE is set)")
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(url, download)
            request.headers.update(download.known.conditional_headers())
            response = await self._client.send(request, stream=True)
            try:
                if await self._received(response, download):
                    return
                if not response.has_redirect_location:
                    status = response.status_code
                    raise _unread(field, f"the server of the file answered {status}")
                url = _parse_url(str(url.join(response.headers["location"])), field)
            finally:
                await response.aclose()
        raise _unread(field, f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _request(self, url: httpx2.URL, download: _Download) -> httpx2.Request:
        """Request to the checked address, with the requested name as its host."""
        address = await self._address(url, download)
        request = self._client.build_request(
            "GET",
            url.copy_with(host=address, username=None, password=None),
            headers={"host": url.netloc.decode("ascii"), "accept": "*/*"},
        )
        request.extensions["sni_hostname"] = url.host  # the certificate is checked against it too
        return request

    async def _address(self, url: httpx2.URL, download: _Download) -> str:
        field = download.field
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await connectable(
                url.host, port, self._resolve, allow_private=self._allow_private
            )
        except UnknownHost as unknown:
            raise _unread(field, str(unknown)) from None
        except PrivateAddress:
            here = "our storage has no such file (any more), and " if download.missing_here else ""
            raise _unread(
                field,
                f"{here}the host {url.host} has a private address; private addresses are not "
                "fetched unless DARKROOM_ALLOW_PRIVATE_URLS is set",
            ) from None
        return addresses[0]

    async def _received(self, response: httpx2.Response, download: _Download) -> bool:
        """Read the response into the sink. False if the response contains no file."""
        if response.status_code == NOT_MODIFIED and download.known.conditional_headers():
            return True
        if not response.is_success:
            return False
        field, headers = download.field, response.headers
        declared = headers.get("content-length", "")
        if declared.isdecimal():
            self.check_size(int(declared), field)
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            self.check_size(size, field)
            download.awaits_own = False
            download.sink(part)
            download.count(len(part))
        download.version = Version(headers.get("etag", ""), headers.get("last-modified", ""))
        return True

    def check_size(self, size: int, field: str) -> None:
        """Raise ``InvalidInput`` for more bytes than a file may have."""
        if size > self._max_bytes:
            message = f"the file is larger than {self._max_bytes} bytes"
            limits = {"max_size": self._max_bytes}
            raise InvalidInput.of_field(field, message, "file_too_large", limits)


@dataclass(slots=True)
class _Download:
    field: str
    sink: Sink
    known: Version
    version: Version | None = None  # of the received file; None: nothing received
    missing_here: bool = False  # the path looks like one of our files, but there is none
    awaits_own: bool = False  # our own storage was asked, and has sent nothing yet
    check: RateCheck | None = None  # None: no minimum rate
    limit: asyncio.Timeout | None = None  # ends the download when ``check`` is due

    def count(self, size: int) -> None:
        """Count received bytes towards the minimum rate."""
        if self.check is None or self.limit is None:
            return
        if self.check.receive(size, asyncio.get_running_loop().time()):
            self.limit.reschedule(self.check.due)


class _OwnAway(Exception):
    """Raised when our own storage answers that it cannot answer now."""


def _storage_unreachable(problem: str) -> StorageRetry:
    return StorageRetry(f"A file could not be read from our own storage in time: {problem}")


def fetcher_client() -> httpx2.AsyncClient:
    """HTTP client for the URLs of inputs."""
    # Connections go to addresses, so another host name must never reuse one.
    limits = httpx2.Limits(max_connections=32, max_keepalive_connections=0)
    return httpx2.AsyncClient(
        transport=HttpTransport(httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(30.0, connect=10.0),
    )


def may_be_private(url: str) -> bool:
    """Return whether a URL looks like that of a private file of our own storage, on any host."""
    try:
        return _is_private(httpx2.URL(url))
    except (httpx2.InvalidURL, ValueError):
        return False


def _is_private(place: httpx2.URL) -> bool:
    return place.path.startswith(PRIVATE)


def _parse_url(url: str, field: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _unread(field, "Input should be an http:, https: or data: URL of a file")
    return parsed


def _unread(field: str, message: str) -> InvalidInput:
    return InvalidInput.of_field(field, message, "file_download_error")
