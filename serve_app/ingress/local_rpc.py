"""Server side of the lines: replicas call the ingress over a Unix socket on this machine, and over
TCP from others.

Such a call takes a quarter of the time of a call by a Serve handle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import Finish, LeaseKey, Report
from serve_app.domain.ports import LeasePort
from serve_app.domain.serialization import FrameStream, Handshake
from serve_app.telemetry.logs import log_context

log = logging.getLogger(__name__)

MAX_PATH_BYTES = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
NOT_LISTENING = ".new"
CLOSE_S = 2.0


class LocalRpcServer:
    """Server on a socket in ``directory``, which only its owner may enter, and on a TCP port for
    those who prove a key.

    If the socket cannot be created (the path is too long, or the file system has no sockets),
    ``path`` is empty and replicas keep calling by their handle.
    """

    def __init__(self, port: LeasePort, directory: Path, host: str = "") -> None:
        """``host``: address of this machine at which others reach it; empty: none does."""
        self._methods: Mapping[str, Callable[..., Any]] = {
            "announce": port.announce,
            "ask": port.ask,
            "report": port.report,
            "finish": port.finish,
            "hand_back": port.hand_back,
        }
        self._path = directory / secrets.token_hex(4)
        self._staging_path = self._path.with_suffix(NOT_LISTENING)
        self._server: asyncio.Server | None = None
        self._host = host
        self._remote: asyncio.Server | None = None
        self._key = secrets.token_bytes(32)
        self._ends: set[_Connection] = set()

    @property
    def remote(self) -> tuple[str, int, bytes] | None:
        """Address and port for other machines, and the key that they have to prove. None: there is
        no such port."""
        if self._remote is None:
            return None
        return self._host, int(self._remote.sockets[0].getsockname()[1]), self._key

    @property
    def path(self) -> str:
        """Path of the socket; empty if there is none."""
        return str(self._path) if self._server is not None else ""

    async def start(self) -> None:
        try:
            await asyncio.to_thread(_make_room, self._staging_path)
            await self._listen()
        except OSError as error:
            log.info(
                "No socket at %s: %s. Replicas use Serve's handles, which are slower.",
                self._path,
                error,
            )
        if not self._host:
            return
        loop = asyncio.get_running_loop()
        try:
            self._remote = await loop.create_server(self._accept_remote, self._host, 0)
        except OSError as error:
            log.info(
                "No port on %s: %s. Replicas on other machines use Serve's handles, which are "
                "slower.",
                self._host,
                error,
            )

    async def _listen(self) -> None:
        # A socket gets its final name only when it listens. Therefore a final name without a
        # listener is left over, and other processes may delete it.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, str(self._staging_path))
        self._staging_path.rename(self._path)

    async def stop_accepting(self) -> None:
        """Stop taking calls and ask the replicas to call others. Running calls continue."""
        server, self._server = self._server, None
        if server is not None:
            self._path.unlink(missing_ok=True)
            server.close()
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()
        for end in self._ends:
            end.stop_accepting()

    async def aclose(self) -> None:
        """Answer the running calls within ``CLOSE_S``, then close the connections."""
        await self.stop_accepting()
        under_way = {task for end in self._ends for task in end.under_way}
        if under_way:
            await asyncio.wait(under_way, timeout=CLOSE_S)
        for end in list(self._ends):
            end.close()

    def _accept(self) -> _Connection:
        return _Connection(self._methods, self._ends)

    def _accept_remote(self) -> Handshake:
        return Handshake(self._key, self._accept, serves=True)


class _Connection(FrameStream):
    """Connection of one replica."""

    def __init__(self, methods: Mapping[str, Callable[..., Any]], ends: set[_Connection]) -> None:
        super().__init__()
        self._methods = methods
        self._ends = ends
        self._tasks: dict[int, asyncio.Task[None]] = {}
        ends.add(self)

    @property
    def under_way(self) -> frozenset[asyncio.Task[None]]:
        return frozenset(self._tasks.values())

    def stop_accepting(self) -> None:
        """Ask the replica to send no more calls."""
        self.send((0, True, None))

    def message_received(self, message: Any) -> None:
        number, method, arguments = message
        if method is not None:
            self._tasks[number] = asyncio.create_task(self._answer(number, method, arguments))
        elif (task := self._tasks.pop(number, None)) is not None:
            task.cancel()

    def lost(self) -> None:
        self._ends.discard(self)
        for task in self._tasks.values():
            task.cancel()

    async def _answer(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            self.send((number, True, await self._methods[method](*arguments)))
        except DarkroomError as error:
            self.send((number, False, error))
        except Exception as error:
            with log_context(_request_of(arguments)):
                log.exception("A replica's %s failed.", method)
            self.send((number, False, portable(error)))
        finally:
            self._tasks.pop(number, None)


T = TypeVar("T")


def portable(answer: T | BaseException) -> T | DarkroomError:
    """Replace an error that may not be picklable: it would lose other answers too. The replica
    retries after any error."""
    if isinstance(answer, BaseException) and not isinstance(answer, DarkroomError):
        return DarkroomError(f"Unexpected {type(answer).__name__}: {answer}")
    return answer


def _request_of(arguments: tuple[Any, ...]) -> str | None:
    """Id of the request that a call is about; None if it is about none or several."""
    match arguments:
        case (
            (Finish(lease_key=lease), *_)
            | (LeaseKey() as lease, *_)
            | (Report(renewals=(lease,)), *_)
        ):
            return lease.request_id
        case _:
            return None


def _make_room(path: Path) -> None:
    """Create the directory, and delete sockets of processes that were killed. ``OSError``."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError("this path is too long for a socket")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    for other in path.parent.iterdir():
        if other.suffix == NOT_LISTENING:
            continue
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(other))
            except ConnectionRefusedError:
                other.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
