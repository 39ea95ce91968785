"""Weights from another node of the installation, over HTTP.

    GET /weights/<owner>/<name>/<commit>/listing
    GET /weights/<owner>/<name>/<commit>/files/<digest>          with ``Range: bytes=<n>-``

Each call has a token of its own: the caller's name and the path, signed with the installation's key
and valid for minutes. The key itself never leaves a process over this protocol.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jwt import JWTClaimsRegistry

from serve_app.domain.ports import Clock
from weights.folder import ListedFile, Listing
from weights.source import ByteRange, NotOffered

log = logging.getLogger(__name__)

ALGORITHM = "HS256"
AUDIENCE = "weights"
TOKEN_S = 300
"""Validity of a token, which is also how far the clocks of two nodes may be apart."""

FIND_AGAIN_S = 5.0
CONNECT_S, SILENCE_S = 3.0, 20.0
MAX_LISTING_BYTES = 32 * 2**20

NAME = re.compile(r"[\w.-]+/[\w.-]+")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

OK, PARTIAL, BUSY, ABSENT = 200, 206, 503, 404


def listing_path(repository: str, revision: str) -> str:
    return f"/weights/{repository}/{revision}/listing"


def file_path(repository: str, revision: str, digest: str) -> str:
    return f"/weights/{repository}/{revision}/files/{digest}"


def sign(key: bytes, caller: str, path: str, now: datetime) -> str:
    """Token for one path."""
    ends_at = now + timedelta(seconds=TOKEN_S)
    claims = {"aud": AUDIENCE, "iss": caller, "sub": path, "exp": ends_at}
    return jwt.encode({"alg": ALGORITHM}, claims, OctKey.import_key(key))


def caller_of(key: bytes, token: str, path: str) -> str | None:
    """Name of the caller. None if the token is not of this installation or for another path."""
    try:
        claims = jwt.decode(token, OctKey.import_key(key), algorithms=[ALGORITHM]).claims
        JWTClaimsRegistry(leeway=TOKEN_S, exp={"essential": True}).validate(claims)
    except (JoseError, ValueError):
        return None
    return claims.get("iss") if (claims.get("aud"), claims.get("sub")) == (AUDIENCE, path) else None


class _Refused(Exception):
    """Refusal of a peer that may still send other files."""


class _Broken(Exception):
    """Answer that this peer should not have sent: nothing more is asked of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """Origins of peers, in order of preference, and the key of the installation."""

    urls: tuple[str, ...] = ()
    key: bytes = field(default=b"", repr=False)


class Peers:
    """Other nodes as one source: the first that sends a file, and the next one for the rest of it
    if that node stops. Thread-safe. Lives for one download."""

    def __init__(self, find: Callable[[], Found], caller: str, clock: Clock) -> None:
        """``find``: called now and then during the download, because nodes that started together
        have files for each other later. ``caller``: name of this replica."""
        self._find = find
        self._found: Found | None = None
        self._found_at = 0.0
        self._mutex = threading.Lock()
        self._caller = caller
        self._clock = clock
        self._gone: set[str] = set()

    def listing(self, repository: str, revision: str) -> Listing | None:
        """Listing that the first answering peer has. None if no peer has it."""
        for url, key in self._remaining_peers():
            try:
                return self._listing(url, key, repository, revision)
            except _Refused:
                continue
            except (httpx2.HTTPError, _Broken) as error:
                self._give_up(url, error)
        return None

    def fetch(self, listing: Listing, file: ListedFile, part: ByteRange) -> None:
        """Implement ``Source.fetch``."""
        if part.size > file.size:
            part.clear()
        for url, key in self._remaining_peers():
            try:
                self._fetch(url, key, listing, file, part)
            except _Refused:
                continue
            except (httpx2.HTTPError, _Broken) as error:
                self._give_up(url, error)
            else:
                return
        raise NotOffered(f"No other node sends {file.path} of {listing.repository} now.")

    def _remaining_peers(self) -> list[tuple[str, bytes]]:
        """Peers that may be asked, each with the key for it."""
        with self._mutex:
            now = self._clock.monotonic()
            if self._found is None or now - self._found_at > FIND_AGAIN_S:
                self._found, self._found_at = self._find(), now
            peers = self._found
        return [(url, peers.key) for url in peers.urls if url not in self._gone]

    def _give_up(self, url: str, error: Exception) -> None:
        log.info("No more weights from %s: %s", url, str(error) or type(error).__name__)
        self._gone.add(url)

    def _listing(self, url: str, key: bytes, repository: str, revision: str) -> Listing:
        path = listing_path(repository, revision)
        with (
            self._client(url) as client,
            client.stream("GET", path, headers=self._sign(key, path)) as r,
        ):
            _check_status(r, (OK,))
            body = bytearray()
            for chunk in r.iter_bytes():
                body += chunk
                if len(body) > MAX_LISTING_BYTES:
                    raise _Broken("its listing is too long")
        try:
            listing = Listing.from_json(bytes(body))
        except ValueError as error:
            raise _Broken(str(error)) from error
        if (listing.repository, listing.revision) != (repository, revision):
            raise _Broken(f"it sent the listing of {listing.repository}@{listing.revision}")
        return listing

    def _fetch(
        self, url: str, key: bytes, listing: Listing, file: ListedFile, part: ByteRange
    ) -> None:
        path = file_path(listing.repository, listing.revision, file.digest)
        headers = self._sign(key, path)
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
        with self._client(url) as client, client.stream("GET", path, headers=headers) as r:
            _check_status(r, (OK, PARTIAL))
            if part.size and r.status_code == OK:
                part.clear()  # the whole file is sent
            for chunk in r.iter_raw():
                if part.size + len(chunk) > file.size:
                    raise _Broken(f"it sent more than the {file.size} bytes of {file.path}")
                part.write(chunk)
        if part.size != file.size:
            raise _Broken(f"it sent {part.size} of the {file.size} bytes of {file.path}")

    def _sign(self, key: bytes, path: str) -> dict[str, str]:
        token = sign(key, self._caller, path, self._clock.now())
        return {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}

    def _client(self, url: str) -> httpx2.Client:
        # A peer is on the nodes' own network: no proxy of the environment leads there. Nor does
        # anything but plain HTTP, so no certificates are read.
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        return httpx2.Client(base_url=url, timeout=timeout, trust_env=False, verify=False)


def _check_status(response: httpx2.Response, expected: Sequence[int]) -> None:
    if response.status_code in (BUSY, ABSENT):
        raise _Refused
    if response.status_code not in expected:
        raise _Broken(f"it answered {response.status_code}")
