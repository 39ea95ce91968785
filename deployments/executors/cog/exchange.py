"""Ways on which files and log lines travel between a replica and a Cog server."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from aiohttp import web

from darkroom.media_types import DEFAULT_MEDIA_TYPE, suffix_of_type, type_of_name
from deployments.executors.base import PATH_KEY, ExecutorWork, MadeFile
from deployments.executors.cog.predictions import OnLogs
from deployments.executors.server_process import HOST
from serve_app.domain.errors import InvalidInput, PipelineFailed
from serve_app.domain.media.data_uri import (
    data_uri,
    is_data_uri,
    media_type_of_data_uri,
    read_data_uri,
)

CALL_HEADER = "x-prediction-id"
"""Header of an upload with the id of its call."""

CHUNK = 2**20

MAX_INLINE_BYTES = 256 * 2**20  # of one input, which is held in memory several times

LEFT_BY_COG = Path("/tmp/coglet/predictions")  # noqa: S108  # where Cog's server has it
"""Folder where Cog's server keeps large inputs and outputs of each prediction, also afterwards."""

ENDED = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that a server process has delivered."""

    path: Path
    media_type: str
    name: str  # as the server process calls it


@dataclass
class ExchangeCall:
    """Files and events of one call. ``folder`` has what was received."""

    folder: Path
    on_event: Callable[[Mapping[str, Any]], None]
    inputs: list[Path] = field(default_factory=list[Path])
    received: dict[str, ReceivedFile] = field(default_factory=dict[str, ReceivedFile])
    lost: str = ""  # why a file could not be received


class LoopbackExchange:
    """Server on a loopback port, whose paths begin with a secret. Use on one event loop."""

    def __init__(self) -> None:
        self._secret = secrets.token_urlsafe(24)
        self._calls: dict[str, ExchangeCall] = {}
        self._runner: web.AppRunner | None = None
        self._url = ""

    async def start(self) -> None:
        app = web.Application()
        at = f"/{self._secret}"
        app.router.add_get(at + "/inputs/{call}/{number}/{name}", self._give)
        app.router.add_put(at + "/uploads/{name}", self._receive)
        app.router.add_post(at + "/events/{call}", self._event)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        port = int(self._runner.addresses[0][1])
        self._url = f"http://{HOST}:{port}{at}"

    async def aclose(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def upload_url(self) -> str:
        """URL below which files are delivered, with the call's id in a header."""
        return f"{self._url}/uploads"

    def event_url(self, call: str) -> str:
        return f"{self._url}/events/{call}"

    def input_url(self, call: str, path: Path) -> str:
        """URL of an input file, whose name has the file's extension."""
        inputs = self._calls[call].inputs
        inputs.append(path)
        return f"{self._url}/inputs/{call}/{len(inputs) - 1}/{path.name}"

    def begin(self, call: str, folder: Path, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Take part in a call until ``end``. ``folder``: for the files that it delivers."""
        self._calls[call] = ExchangeCall(folder, on_event)

    def find_file(self, call: str, url: str) -> ReceivedFile | None:
        """File that was delivered, by the URL that its upload was answered with."""
        return self._calls[call].received.get(url)

    def lost(self, call: str) -> str:
        """Why a file of the call could not be received. Empty: all were."""
        return self._calls[call].lost

    def end(self, call: str) -> None:
        self._calls.pop(call, None)

    async def _give(self, request: web.Request) -> web.StreamResponse:
        call = self._calls.get(request.match_info["call"])
        number = request.match_info["number"]
        if call is None or not number.isdecimal() or int(number) >= len(call.inputs):
            raise web.HTTPNotFound
        return web.FileResponse(call.inputs[int(number)])

    async def _receive(self, request: web.Request) -> web.Response:
        id_, name = request.headers.get(CALL_HEADER, ""), request.match_info["name"]
        call = self._calls.get(id_)
        if call is None:
            raise web.HTTPNotFound
        number = len(call.received)
        url = f"{self._url}/received/{id_}/{number}"
        path = call.folder / f"received-{number}{Path(name).suffix[:16]}"
        media_type = request.content_type
        call.received[url] = ReceivedFile(path, media_type, name)  # taken before the first wait
        try:
            await asyncio.to_thread(call.folder.mkdir, parents=True, exist_ok=True)
            with await asyncio.to_thread(path.open, "wb") as file:
                await _write_body(request, file)
        except (OSError, web.RequestPayloadError) as error:
            # The server process would leave the file out, and call that a success.
            call.lost = f"{name}: {error}"
            raise web.HTTPInsufficientStorage from error
        return web.Response(headers={"Location": url})

    async def _event(self, request: web.Request) -> web.Response:
        call = self._calls.get(request.match_info["call"])
        if call is not None:
            # Read in pieces: aiohttp's own limit is for forms.
            body = b"".join([chunk async for chunk in request.content.iter_any()])
            call.on_event(cast("Mapping[str, Any]", await asyncio.to_thread(json.loads, body)))
        return web.Response()


async def _write_body(request: web.Request, file: IO[bytes]) -> None:
    async for chunk in request.content.iter_chunked(CHUNK):
        await asyncio.to_thread(file.write, chunk)


class InlineFiles:
    """Files as ``data:`` URLs, for a server that cannot reach this machine. Its log comes with the
    result."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}
        self._taken: dict[str, int] = {}

    @property
    def sends_logs(self) -> bool:
        return False

    def begin(self, id_: str, work: ExecutorWork, on_logs: OnLogs) -> None:
        del on_logs
        self._folders[id_], self._taken[id_] = work.folder, 0

    def end(self, id_: str) -> None:
        self._folders.pop(id_, None)
        self._taken.pop(id_, None)

    async def clear(self, id_: str) -> None:
        """The server is somewhere else, and so are its files."""

    async def give(self, id_: str, path: Path) -> str:
        del id_
        return await asyncio.to_thread(_data_uri, path)

    def webhook(self, id_: str) -> Mapping[str, Any]:
        del id_
        return {}

    async def take(self, id_: str, url: str) -> Mapping[str, Any]:
        self._taken[id_] += 1
        return await inline_file(url, self._folders[id_] / f"inline-{self._taken[id_]}")

    def check(self, id_: str) -> None:
        """Nothing is lost on this way."""


class LoopbackFiles(InlineFiles):
    """Files and log lines over a loopback server, for a server process of this replica.

    Files inside of lists and objects come as ``data:`` URLs nevertheless: Cog uploads those of a
    list at the same time, and lists them in the order in which the uploads end.
    """

    def __init__(self, exchange: LoopbackExchange) -> None:
        super().__init__()
        self._exchange = exchange

    @property
    def sends_logs(self) -> bool:
        return True

    def begin(self, id_: str, work: ExecutorWork, on_logs: OnLogs) -> None:
        super().begin(id_, work, on_logs)

        def on_event(event: Mapping[str, Any]) -> None:
            on_logs(str(event.get("logs") or ""), last=event.get("status") in ENDED)

        self._exchange.begin(id_, work.folder, on_event)

    def end(self, id_: str) -> None:
        super().end(id_)
        self._exchange.end(id_)

    async def clear(self, id_: str) -> None:
        await asyncio.to_thread(shutil.rmtree, LEFT_BY_COG / id_, ignore_errors=True)

    async def give(self, id_: str, path: Path) -> str:
        return self._exchange.input_url(id_, path)

    def webhook(self, id_: str) -> Mapping[str, Any]:
        return {
            "webhook": self._exchange.event_url(id_),
            "webhook_events_filter": ["logs", "completed"],
        }

    async def take(self, id_: str, url: str) -> Mapping[str, Any]:
        received = self._exchange.find_file(id_, url)
        if received is None:
            return await super().take(id_, url)
        facts = {"media_type": received.media_type, "file_name": received.name}
        return MadeFile({PATH_KEY: str(received.path), **facts})

    def check(self, id_: str) -> None:
        if lost := self._exchange.lost(id_):
            raise PipelineFailed(f"An output file could not be stored on the replica: {lost}")


def _data_uri(path: Path) -> str:
    if path.stat().st_size > MAX_INLINE_BYTES:
        raise InvalidInput(
            f"The input has a file of more than {MAX_INLINE_BYTES // 2**20} MiB, which cannot be "
            "sent to this Cog server."
        )
    media_type = type_of_name(path.name) or DEFAULT_MEDIA_TYPE
    return data_uri(path.read_bytes(), media_type)


async def inline_file(url: str, path: Path) -> Mapping[str, Any]:
    """Output file of a ``data:`` URL, written to ``path`` with the type's extension."""
    if not is_data_uri(url):
        raise PipelineFailed(
            f"Cog named the output file {url[:80]}, which the replica cannot read. Start the "
            "server without --upload-url."
        )
    media_type = media_type_of_data_uri(url) or DEFAULT_MEDIA_TYPE
    named = path.with_name(path.name + suffix_of_type(media_type))
    await asyncio.to_thread(_write, named, url)
    return MadeFile({PATH_KEY: str(named), "media_type": media_type})


def _write(path: Path, uri: str) -> None:
    try:
        content = read_data_uri(uri)
    except ValueError as error:
        raise PipelineFailed(f"Cog sent an output file that cannot be read: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
