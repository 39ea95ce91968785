"""HTTP server of a node's weights for other nodes of the installation. See ``peers`` for its calls.

It runs on a thread of its own. The kernel copies files to the network (``sendfile``), so that the
process, whose main task is to compute, spends no time of the interpreter on their content.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from weights.eviction import repository_of
from weights.folder import (
    COMMIT,
    ListedFile,
    Listing,
    RepositoryFolder,
    is_supported_digest,
    repositories,
)
from weights.peers import DIGEST, NAME, caller_of

log = logging.getLogger(__name__)

PIECE_BYTES = 4 * 2**20
PIECE_S = 30.0
"""A peer that takes longer for a piece is gone, or so slow that its place is better given away."""

LINGER_S = 5.0
"""A peer keeps its place so long after a file, because it asks for the next one."""

CLOSE_S = 0.1  # for transfers; aiohttp takes 0 for "no limit"
_TURNS = 5  # of the event loop, in which an accepted connection or a closed one is done


@dataclass(slots=True)
class Seats:
    """Peers that are served at once. Decides by ``now``, in seconds of a monotonic clock."""

    limit: int
    _files: dict[str, int] = field(default_factory=dict[str, int])  # being sent, by peer
    _left_at: dict[str, float] = field(default_factory=dict[str, float])

    def take(self, peer: str, now: float) -> bool:
        """Begin to send a file. False if ``limit`` other peers are served."""
        self._left_at = {
            client: at for client, at in self._left_at.items() if self._files[client] or at > now
        }
        self._files = {client: self._files[client] for client in self._left_at}
        if peer not in self._files and len(self._files) >= self.limit:
            return False
        self._files[peer] = self._files.get(peer, 0) + 1
        self._left_at[peer] = now + LINGER_S
        return True

    def release(self, peer: str, now: float) -> None:
        """End the sending of a file."""
        self._files[peer] -= 1
        self._left_at[peer] = now + LINGER_S


@dataclass(slots=True)
class Pace:
    """Bandwidth of all transfers together. 0: no limit."""

    bytes_per_s: int
    _free_at: float = 0.0

    def wait_s(self, size: int, now: float) -> float:
        """Time to wait before ``size`` more bytes are sent, which count as sent from then on."""
        if not self.bytes_per_s:
            return 0.0
        begins_at = max(now, self._free_at)
        self._free_at = begins_at + size / self.bytes_per_s
        return begins_at - now


class PeerServer:
    """Server of the verified weights in ``directory``. It sends nothing before ``key`` is set."""

    def __init__(self, directory: Path, peers: int, bytes_per_s: int = 0) -> None:
        """``peers``: served at once. ``bytes_per_s``: of all transfers together; 0: no limit."""
        self._directory = directory
        self._seats = Seats(peers)
        self._pace = Pace(bytes_per_s)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self.key = b""
        self.port = 0

    def start(self, host: str, port: int = 0) -> None:
        """Listen on ``host``; ``port`` is known after that. ``OSError`` if it cannot."""
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(host, port, listening)),
            name="weight-peers",
            daemon=True,
        )
        self._thread.start()
        self.port = listening.result()

    def close(self) -> None:
        """Stop at once; transfers break off."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def weights(self) -> tuple[str, ...]:
        """Repositories and commits of which this node has at least a listing."""
        return tuple(
            f"{listing.repository}@{listing.revision}"
            for path in repositories(self._directory)
            for listing in RepositoryFolder(self._directory, repository_of(path)).listings()
        )

    async def _serve(self, host: str, port: int, listening: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_get("/weights/{owner}/{name}/{commit}/listing", self._send_listing)
        app.router.add_get("/weights/{owner}/{name}/{commit}/files/{digest}", self._send_file)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=CLOSE_S,
            keepalive_timeout=LINGER_S,
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
            listening.set_result(int(runner.addresses[0][1]))
        except OSError as error:
            listening.set_exception(error)
        else:
            await self._stop.wait()
        finally:
            server = runner.server
            transports = _transports(server)
            await runner.cleanup()
            await _settle()  # a connection that was just accepted is known only now
            for transport in transports | _transports(server):
                transport.abort()  # else what a peer does not read would keep the connection
            await _settle()

    def _caller(self, request: web.Request) -> str:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        caller = caller_of(self.key, token, request.path) if self.key and token else None
        if caller is None:
            raise web.HTTPUnauthorized
        return caller

    async def _send_listing(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        folder, commit = self._parse_request(request)
        listing = await asyncio.to_thread(folder.listing, commit)
        if listing is None:
            raise web.HTTPNotFound
        return web.Response(text=listing.to_json(), content_type="application/json")

    async def _send_file(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        folder, commit = self._parse_request(request)
        digest = request.match_info["digest"]
        if not DIGEST.fullmatch(digest):
            raise web.HTTPNotFound
        if not self._seats.take(caller, time.monotonic()):
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(int(LINGER_S))})
        try:
            # Not on another thread: a call that ends meanwhile would leave the file open.
            opened = open_verified(folder, commit, digest)
            if opened is None:
                raise web.HTTPNotFound
            with opened:
                return await self._send(request, opened)
        finally:
            self._seats.release(caller, time.monotonic())

    def _parse_request(self, request: web.Request) -> tuple[RepositoryFolder, str]:
        match_info = request.match_info
        repository, commit = f"{match_info['owner']}/{match_info['name']}", match_info["commit"]
        if not NAME.fullmatch(repository) or not COMMIT.fullmatch(commit):
            raise web.HTTPNotFound
        return RepositoryFolder(self._directory, repository), commit

    async def _send(self, request: web.Request, file: BinaryIO) -> web.StreamResponse:
        size = os.fstat(file.fileno()).st_size
        try:
            start = request.http_range.start or 0
        except ValueError:
            start = -1
        if not 0 <= start <= size:
            raise web.HTTPRequestRangeNotSatisfiable
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = size - start
        response.content_type = "application/octet-stream"
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        await response.prepare(request)
        transport = request.transport
        try:
            await self._send_pieces(transport, file, start, size)
        except OSError as error:
            log.info("A peer took no more of its file: %r", error)
            response.force_close()
            if transport is not None:
                transport.abort()
        else:
            await response.write_eof()
        return response

    async def _send_pieces(
        self, transport: asyncio.Transport | None, file: BinaryIO, start: int, end: int
    ) -> None:
        loop = asyncio.get_running_loop()
        # At a low rate, small pieces: the peer ends a connection that is silent for long.
        most = min(PIECE_BYTES, self._pace.bytes_per_s or PIECE_BYTES)
        while start < end:
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the connection is closed")
            piece = min(most, end - start)
            await asyncio.sleep(self._pace.wait_s(piece, time.monotonic()))
            async with asyncio.timeout(PIECE_S):
                await loop.sendfile(transport, file, start, piece)
            start += piece


def _transports(server: web.Server | None) -> set[asyncio.Transport]:
    """Transports of the open connections."""
    connections = () if server is None else server.connections
    return {connection.transport for connection in connections if connection.transport is not None}


async def _settle() -> None:
    """Let the loop do what is due: accept connections, or close them."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def open_verified(folder: RepositoryFolder, commit: str, digest: str) -> BinaryIO | None:
    """Open the file of a commit with this digest. None unless its digest was verified here.

    Links are followed to files of the same repository only: the store links a commit's files to
    its blobs, and whatever else lies in the directory is not sent.
    """
    listing = folder.listing(commit)
    file = None if listing is None else _find_file(listing, digest)
    if file is None or not is_supported_digest(digest) or not folder.is_checked(commit, file):
        return None
    try:
        path = (folder.snapshot(commit) / file.path).resolve(strict=True)
        if not path.is_relative_to(folder.path.resolve(strict=True)):
            return None
        opened = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError:
        return None
    facts = os.fstat(opened.fileno())
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != file.size:
        opened.close()
        return None
    return opened


def _find_file(listing: Listing, digest: str) -> ListedFile | None:
    return next((file for file in listing.files if file.digest == digest), None)
