"""A replica that runs graphs, and a client as ComfyUI's own examples are written."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from serve_app.catalog.catalog import load
from serve_app.domain.lease import Finish, Lease, Report
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.ports import Queue, Storage
from serve_app.domain.progress import Preview, Progress, Stage
from serve_app.domain.request import State
from serve_app.storage.keys import artifact_key
from tests.ingress.house import DEMO, HOST, House
from tests.ingress.replica import JPEG, REPLICA, ScriptedReplica

CATALOG = load(Path(__file__).with_name("models.yaml"), demo=True, demo_dir=DEMO)

GRAPH: Mapping[str, Any] = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 5}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
}


DESCRIBED: Mapping[str, Any] = {
    "version": "0.3.75",
    "models": {"checkpoints": ["sd15.safetensors"], "embeddings": ["style/soft.pt"]},
    "classes": {
        "KSampler": {"input": {"required": {"seed": ["INT"], "extra": ["COMFY_AUTOGROW_V3"]}}},
        "Hold": {"input": {}},
        "SaveImage": {"input": {"required": {"filename_prefix": ["STRING"]}}, "output_node": True},
    },
}


async def describe(house: House, described: Mapping[str, Any] = DESCRIBED) -> None:
    """Store what a replica says of its ComfyUI."""
    await house.services.comfyui.book.describe(gzip.compress(json.dumps(described).encode()))


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


class GraphReplica(ScriptedReplica):
    """Replica that runs graphs. ``Hold`` waits for ``release``; ``Fail`` fails."""

    def __init__(self, queue: Queue, storage: Storage) -> None:
        super().__init__(queue, storage)
        self._log = queue
        self.release = asyncio.Event()
        self.given: list[Mapping[str, Any]] = []  # inputs, in the order of their starts

    async def _run(self, lease: Lease) -> None:
        self.ran.append(lease.request_id)
        self.given.append(lease.input)
        outcome = await self._graph(lease)
        await self._queue.finish(Finish(lease.key, REPLICA, outcome))
        self._running.pop(lease.key, None)

    async def _graph(self, lease: Lease) -> Outcome:
        images: list[dict[str, Any]] = []
        texts: list[tuple[str, str]] = []
        for number, (name, graph_node) in enumerate(lease.input["prompt"].items()):
            if not isinstance(graph_node, dict):
                return Outcome(failure=Failure("pipeline_failed", "It is no workflow.", False))
            kind = graph_node["class_type"]
            await self._log.log(lease.request_id, ("INFO", f"Node {name} ({kind})"))
            progress = ((lease.key, Progress(Stage.RUNNING, number + 1, 4)),)
            previews = ((lease.key, Preview(number + 1, JPEG)),)
            await self._queue.report(Report(REPLICA, (lease.key,), progress, previews))
            if kind == "Hold":
                await self.release.wait()
            if kind == "Fail":
                failure = Failure("pipeline_failed", f"Node {name} (Fail) failed: no", False)
                return Outcome(failure=failure)
            if kind == "ShowText":
                texts.append((name, graph_node["inputs"]["text"]))
            if kind == "HalfText":
                texts.append((name, "half \ud83e"))
            if kind in ("SaveImage", "SaveImageWebsocket"):
                images.append(await self._image(lease, name))
        output: dict[str, Any] = {"images": images}
        output |= {
            "texts": [text for _, text in texts],
            "text_nodes": [node_id for node_id, _ in texts],
        }
        return Outcome(output=output, usage=Usage(run_s=0.25))

    def content_of(self, name: str) -> bytes:
        """Content of the image of a node."""
        return f"image of {name}".encode()

    async def _image(self, lease: Lease, name: str) -> dict[str, Any]:
        async def chunks() -> AsyncGenerator[bytes]:
            yield self.content_of(name)

        key = artifact_key(lease.request_id, lease.attempt, "image/png")
        await self._storage.put(key, "image/png", chunks())
        return {
            "artifact": key,
            "content_type": "image/png",
            "file_name": f"{name}_00001_.png",
            "node": name,
            "listed_as": "images",
        }


@dataclass
class Place:
    house: House
    replica: GraphReplica
    client: httpx.AsyncClient
    other: httpx.AsyncClient  # of another tenant

    async def running(self, prompt_id: str) -> None:
        request = await self.house.queue.get("default", prompt_id)
        while request.state is State.QUEUED:
            request = await self.house.queue.wait_for_change(
                "default", prompt_id, 30, since=request
            )

    async def over(self, prompt_id: str) -> None:
        """Wait for the end of a prompt of either id."""
        async with asyncio.timeout(120):
            path = f"/comfyui/history/{prompt_id}"
            while not (await self.client.get(path)).json():  # noqa: ASYNC110  # as clients do
                await asyncio.sleep(0.01)


class Socket:
    """Connection to ``ws``. ``hear``: messages as maps; previews as bytes. ``closed``: code and
    reason of the server."""

    def __init__(self) -> None:
        self.refused = False
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._to_server.put_nowait({"type": "websocket.connect"})

    def hang_up(self) -> None:
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def hear(self) -> Any:
        async with asyncio.timeout(120):
            return await self._heard.get()

    async def until(self, kind: str, **fields: Any) -> list[Any]:
        """Messages to the next one of this kind with these fields."""
        heard: list[Any] = []
        while True:
            message = await self.hear()
            heard.append(message)
            if isinstance(message, dict) and message["type"] == kind:
                data = message["data"]
                if all(name in data and data[name] == value for name, value in fields.items()):
                    return heard

    async def receive(self) -> dict[str, Any]:
        return await self._to_server.get()

    async def deliver(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            self.refused = True
            self.closed.set_result((message["code"], message.get("reason") or ""))
        elif message["type"] == "websocket.send":
            binary = message.get("bytes")
            self._heard.put_nowait(json.loads(message["text"]) if binary is None else binary)


@asynccontextmanager
async def connect(
    house: House, client_id: str, *, key: str | None = "", **query: str
) -> AsyncIterator[Socket]:
    """``key``: None sends no header, and an empty one means the house's strongest."""
    socket = Socket()
    headers = [(b"host", HOST.encode())]
    if key is not None:
        headers.append((b"authorization", f"Key {key or house.key}".encode()))
    scope = {
        "type": "websocket",
        "path": "/comfyui/ws",
        "raw_path": b"/comfyui/ws",
        "query_string": urlencode({"clientId": client_id, **query}).encode(),
        "headers": headers,
        "scheme": "ws",
        "subprotocols": [],
    }
    serving = asyncio.create_task(house.app(scope, socket.receive, socket.deliver))
    try:
        yield socket
    finally:
        socket.hang_up()
        await serving


async def queue_prompt(client: httpx.AsyncClient, graph: Mapping[str, Any], **more: Any) -> str:
    """Queue a graph. Returns the prompt's id."""
    answer = await client.post("/comfyui/prompt", json={"prompt": graph, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["node_errors"] == {}
    return str(answer.json()["prompt_id"])


async def wait_for_end(house: House, prompt_id: str, tenant: str = "default") -> None:
    request = await house.queue.wait(tenant, prompt_id, 30)
    assert request.state.final


async def history(client: httpx.AsyncClient, prompt_id: str) -> dict[str, Any]:
    answer = await client.get(f"/comfyui/history/{prompt_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
