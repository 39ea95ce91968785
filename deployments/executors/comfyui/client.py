"""ComfyUI's HTTP API and its events, as one process or an address offers them."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp

from serve_app.domain.errors import Misconfigured, ReplicaDied
from serve_app.domain.executors.comfyui import MAX_DESCRIPTION_BYTES

CALL_TIMEOUT_S = 30.0
"""For calls that ComfyUI answers at once, between the steps of whatever it computes."""

MAX_MESSAGE = 64 * 2**20  # bytes of an event
UPLOADED = ("image_upload", "video_upload", "audio_upload", "file_upload")
"""Options by which a node says that a value is a file which was uploaded to ComfyUI."""

CHUNK = 2**20
PREVIEW = 1
"""Kind of a binary event that is a picture, after four bytes with its format."""

FORMATS = {1: "image/jpeg", 2: "image/png"}


class ComfyUiRefused(Exception):
    """ComfyUI does not take a prompt. ``answer``: its reason."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer))
        self.answer = answer


@dataclass(frozen=True, slots=True)
class ComfyUiEvent:
    """An event of one prompt: ``kind`` and ``data`` as ComfyUI sends them, or a picture."""

    kind: str
    data: Mapping[str, Any]
    preview: bytes = b""
    media_type: str = ""  # of the picture


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that a node has saved, by the names that ComfyUI uses."""

    name: str
    folder: str
    kind: str  # output, temp or input
    node: str = ""
    listed_as: str = ""  # field of the node's output, such as ``images``


class ComfyUiClient:
    """Client of the ComfyUI at ``address``, an origin. Use on one event loop."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Long work sends nothing for minutes, so no limit but that of each call.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ready(self) -> bool:
        """Check that it answers."""
        try:
            await self._get("/system_stats")
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return True

    async def classes(self) -> Mapping[str, Mapping[str, Any]]:
        """Classes of its nodes by name."""
        return cast("Mapping[str, Mapping[str, Any]]", await self._get("/object_info"))

    async def describe(self) -> bytes:
        """Its nodes and models, and its version: JSON by gzip; the same if nothing has changed.

        Raises ``Misconfigured`` if that is too large to be stored."""
        system = (await self._get("/system_stats")).get("system") or {}
        folders = cast("list[str]", await self._get("/models"))
        models = {
            folder: await self._get(f"/models/{quote(folder, safe='')}") for folder in folders
        }
        raw = await self._read("/object_info")
        version = str(cast("Mapping[str, Any]", system).get("comfyui_version", ""))
        return await asyncio.to_thread(
            _pack_description, raw, {"version": version, "models": models}
        )

    async def submit(
        self, id_: str, graph: Mapping[str, Any], extra: Mapping[str, Any] | None = None
    ) -> None:
        """Queue a prompt. If the answer is lost, ComfyUI is asked whether it has the prompt: one
        that is sent twice runs twice. ``extra``: what it keeps beside the graph.

        Raises ``ComfyUiRefused`` with its reason.
        """
        body = {"prompt": graph, "prompt_id": id_, "client_id": id_}
        if extra:
            body["extra_data"] = extra
        try:
            async with (
                asyncio.timeout(CALL_TIMEOUT_S),
                self.session.post(f"{self.address}/prompt", json=body) as answer,
            ):
                if answer.status == 400:
                    raise ComfyUiRefused(cast("Mapping[str, Any]", await answer.json()))
                answer.raise_for_status()
        except aiohttp.ClientResponseError as error:
            raise ReplicaDied(f"ComfyUI answers {error.status} to a prompt.") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if not await self.has(id_):
                raise ReplicaDied(f"ComfyUI does not take a prompt: {error!r}") from error

    async def has(self, id_: str) -> bool:
        """Check if a prompt waits, runs or has ended there."""
        return await self.waits(id_) or await self.history(id_) is not None

    async def waits(self, id_: str) -> bool:
        """Check if a prompt waits or runs."""
        queue = await self._get("/queue")
        entries = [*queue.get("queue_running", ()), *queue.get("queue_pending", ())]
        return any(entry[1] == id_ for entry in entries)

    async def history(self, id_: str) -> Mapping[str, Any] | None:
        """What a prompt that has ended has made. None: it has not ended, or is not known."""
        return cast("Mapping[str, Any] | None", (await self._get(f"/history/{id_}")).get(id_))

    async def interrupt(self, id_: str) -> None:
        """Ask a prompt to end, whether it waits or runs."""
        await self._post("/queue", {"delete": [id_]})
        await self._post("/interrupt", {"prompt_id": id_})

    async def forget(self, id_: str) -> None:
        """Remove a prompt that has ended from the history, which is in memory."""
        await self._post("/history", {"delete": [id_]})

    async def upload(self, path: Path, name: str, folder: str) -> str:
        """Give it a file. Returns the name by which nodes find it."""
        with await asyncio.to_thread(path.open, "rb") as file:
            form = aiohttp.FormData()
            form.add_field("image", file, filename=name)
            form.add_field("subfolder", folder)
            form.add_field("overwrite", "true")
            async with self.session.post(f"{self.address}/upload/image", data=form) as answer:
                answer.raise_for_status()
                stored = cast("Mapping[str, str]", await answer.json())
        inner = stored.get("subfolder")
        return f"{inner}/{stored['name']}" if inner else stored["name"]

    async def download(self, file: SavedFile, path: Path) -> str:
        """Write a file to ``path``. Returns its media type."""
        query = {"filename": file.name, "subfolder": file.folder, "type": file.kind}
        async with self.session.get(f"{self.address}/view", params=query) as answer:
            answer.raise_for_status()
            with await asyncio.to_thread(path.open, "wb") as written:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    await asyncio.to_thread(written.write, chunk)
            return answer.content_type

    @asynccontextmanager
    async def events(self, id_: str) -> AsyncGenerator[AsyncIterator[ComfyUiEvent]]:
        """Events of a prompt that is submitted with its id as ``client_id``, until the connection
        closes. Entered when ComfyUI knows that somebody listens."""
        url = f"{self.address}/ws"
        async with self.session.ws_connect(
            url, params={"clientId": id_}, heartbeat=30.0, max_msg_size=MAX_MESSAGE
        ) as socket:
            await asyncio.wait_for(socket.receive(), CALL_TIMEOUT_S)  # its status
            yield _events(socket)

    async def _get(self, path: str) -> dict[str, Any]:
        async with (
            asyncio.timeout(CALL_TIMEOUT_S),
            self.session.get(self.address + path) as answer,
        ):
            answer.raise_for_status()
            return cast("dict[str, Any]", await answer.json())

    async def _read(self, path: str) -> bytes:
        async with (
            asyncio.timeout(CALL_TIMEOUT_S),
            self.session.get(self.address + path) as answer,
        ):
            answer.raise_for_status()
            read = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK):
                read += chunk
                if len(read) > MAX_DESCRIPTION_BYTES:
                    raise Misconfigured(
                        f"The nodes of ComfyUI take more than {MAX_DESCRIPTION_BYTES // 2**20} MiB "
                        "of JSON, so its clients do not get them."
                    )
            return bytes(read)

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        async with (
            asyncio.timeout(CALL_TIMEOUT_S),
            self.session.post(self.address + path, json=body) as answer,
        ):
            answer.raise_for_status()


async def _events(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[ComfyUiEvent]:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            event = json.loads(message.data)
            yield ComfyUiEvent(str(event.get("type")), event.get("data") or {})
        elif message.type is aiohttp.WSMsgType.BINARY and len(message.data) > 8:
            kind, format_ = struct.unpack(">II", message.data[:8])
            if kind == PREVIEW:
                yield ComfyUiEvent("preview", {}, message.data[8:], FORMATS.get(format_, ""))


def _pack_description(raw: bytes, more: Mapping[str, Any]) -> bytes:
    """Description as it is stored. Names of files that others have uploaded are left out."""
    classes = cast("Mapping[str, Mapping[str, Any]]", json.loads(raw))
    for node_class in classes.values():
        for group in cast("Mapping[str, Any]", node_class.get("input") or {}).values():
            for spec in cast("Mapping[str, Any]", group or {}).values():
                _forget_uploads(spec)
    text = json.dumps({**more, "classes": classes}, sort_keys=False, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _forget_uploads(spec: Any) -> None:
    """Empty the menu of a value that is an uploaded file."""
    parts = cast("list[Any]", spec) if isinstance(spec, list) else []
    options = cast("dict[str, Any]", parts[1]) if parts[1:] and isinstance(parts[1], dict) else {}
    if any(options.get(flag) for flag in UPLOADED):
        if isinstance(parts[0], list):
            parts[0] = []
        if isinstance(options.get("options"), list):
            options["options"] = []
