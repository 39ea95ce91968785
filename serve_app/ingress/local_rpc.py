"""The ingress process's ends of lines: replicas on this machine call over a Unix socket, which
takes a quarter of what a call of a Serve handle does."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.domain.errors import DarkroomError
from serve_app.domain.frames import Frames
from serve_app.domain.lease import Finish, Held, Report
from serve_app.domain.ports import LeasePort
from serve_app.telemetry.logs import about

log = logging.getLogger(__name__)

LONGEST_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
UNBORN = ".new"
CLOSE_S = 2.0


class Lines:
    """A socket of this process in ``directory``, which only its owner may enter.

    Where there can be none (the path is too long, the file system takes no sockets) ``path`` is
    empty and replicas go on calling by their handle.
    """

    def __init__(self, port: LeasePort, directory: Path) -> None:
        self._methods: Mapping[str, Callable[..., Any]] = {
            "announce": port.announce,
            "ask": port.ask,
            "report": port.report,
            "finish": port.finish,
            "hand_back": port.hand_back,
        }
        self._path = directory / secrets.token_hex(4)
        self._unborn = self._path.with_suffix(UNBORN)
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()

    @property
    def path(self) -> str:
        """Where replicas find it; empty: nowhere."""
        return str(self._path) if self._server is not None else ""

    async def start(self) -> None:
        try:
            await asyncio.to_thread(_make_room, self._unborn)
            await self._listen()
        except OSError as error:
            log.info("Replicas call by Serve's handles only; %s: %s", self._path, error)

    async def _listen(self) -> None:
        # Under a final name there is only what listens, so others may delete what does not.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._met, str(self._unborn))
        self._unborn.rename(self._path)

    async def leave(self) -> None:
        """Let replicas call others from now on. What is under way goes on."""
        server, self._server = self._server, None
        if server is not None:
            self._path.unlink(missing_ok=True)
            server.close()
        for end in self._ends:
            end.leave()

    async def aclose(self) -> None:
        """Answer what is under way, within seconds, and hang up."""
        await self.leave()
        under_way = {task for end in self._ends for task in end.under_way}
        if under_way:
            await asyncio.wait(under_way, timeout=CLOSE_S)
        for end in list(self._ends):
            end.close()

    def _met(self) -> _End:
        return _End(self._methods, self._ends)


class _End(Frames):
    """One replica's line."""

    def __init__(self, methods: Mapping[str, Callable[..., Any]], ends: set[_End]) -> None:
        super().__init__()
        self._methods = methods
        self._ends = ends
        self._tasks: dict[int, asyncio.Task[None]] = {}
        ends.add(self)

    @property
    def under_way(self) -> frozenset[asyncio.Task[None]]:
        return frozenset(self._tasks.values())

    def leave(self) -> None:
        """Say that no more calls should come."""
        self.send((0, True, None))

    def received(self, message: Any) -> None:
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
            # Not every error survives pickle; the replica tries again, whatever it is.
            with about(_request_of(arguments)):
                log.exception("A replica's %s failed.", method)
            self.send((number, False, DarkroomError(f"Unexpected {type(error).__name__}: {error}")))
        finally:
            self._tasks.pop(number, None)


def _request_of(arguments: tuple[Any, ...]) -> str | None:
    """The request that a call is about; None: none, or several."""
    match arguments:
        case (Finish(held=held), *_) | (Held() as held, *_) | (Report(renewals=(held,)), *_):
            return held.request_id
        case _:
            return None


def _make_room(path: Path) -> None:
    """The directory, without sockets of processes that were killed. ``OSError`` says why not."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError("this path is too long for a socket")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    for other in path.parent.iterdir():
        if other.suffix == UNBORN:
            continue
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(other))
            except ConnectionRefusedError:
                other.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
