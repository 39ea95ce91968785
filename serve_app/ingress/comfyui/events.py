"""Events for one client of ComfyUI, from what the queue knows of its prompts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.errors import (
    ArtifactNotFound,
    RequestNotFound,
    StorageUnavailable,
)
from serve_app.domain.executors.comfyui import PromptArrivals
from serve_app.domain.ports import Queue, Storage
from serve_app.domain.progress import BYTE_STAGES
from serve_app.domain.request import Request, State
from serve_app.ingress.comfyui import prompt

log = logging.getLogger(__name__)

DISCOVER_S = 0.5
"""Time between two looks for prompts of the client, which may come through another process."""

IDLE_DISCOVER_S = 2.0
"""The same while none of the client's prompts is unfinished. One that comes through this process is
seen at once."""

PAGE = 8
"""Newest prompts of the tenant in one look. It goes on while all of them are new."""

AT_START = 200
"""Prompts of before the connection that are looked at: those that have not ended are followed."""

CHANGE_WAIT_S = 15.0
PREVIEW_JPEG = struct.pack(">II", 1, 1)
"""Beginning of a binary message with a preview: its kind, and its format."""

RESULT_PNG = struct.pack(">II", 1, 2)
SHOWING = frozenset({"SaveImageWebsocket"})
"""Classes of nodes whose results are sent as pictures."""


class EventSink(Protocol):
    """Connection to the client."""

    async def send_text(self, data: str) -> None: ...
    async def send_bytes(self, data: bytes) -> None: ...


class ClientEvents:
    """Events for ``client_id`` about prompts of ``tenant`` at ``endpoint``. Call ``run`` once."""

    def __init__(
        self,
        queue: Queue,
        storage: Storage,
        arrivals: PromptArrivals,
        socket: EventSink,
        tenant: str,
        endpoint: str,
        client_id: str,
    ) -> None:
        self._queue = queue
        self._arrivals = arrivals
        self._storage = storage
        self._socket = socket
        self._tenant = tenant
        self._endpoint = endpoint
        self._client_id = client_id
        self._seen: set[str] = set()  # ids of requests
        self._open = 0  # prompts of the client that are followed

    async def run(self) -> None:
        """Send events until the task is cancelled. ``DatabaseUnavailable``."""
        # Before the first message: what the client sends when it has that is new for sure.
        earlier = await self._page(AT_START)
        self._seen.update(request.id for request in earlier)
        open_ = [request for request in reversed(earlier) if not request.state.final]
        try:
            await self._follow_all(open_)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _follow_all(self, requests: Sequence[Request]) -> None:
        async with asyncio.TaskGroup() as following:
            coming = self._arrivals.next(self._tenant)
            await self._status(sid=self._client_id)
            while True:
                for request in requests:
                    if self._is_own(request):
                        self._open += 1
                        following.create_task(self._follow(request))
                pause_s = DISCOVER_S if self._open else IDLE_DISCOVER_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(coming.wait(), pause_s)
                coming = self._arrivals.next(self._tenant)
                requests = await self._new()

    async def _new(self) -> Sequence[Request]:
        """Prompts that were not seen before, the oldest first."""
        requests: list[Request] = []
        before: str | None = None
        while page := await self._page(PAGE, before):
            fresh = [request for request in page if request.id not in self._seen]
            requests += fresh
            self._seen.update(request.id for request in fresh)
            if len(fresh) < PAGE:
                break
            before = page[-1].id
        return requests[::-1]

    async def _page(self, limit: int, before: str | None = None) -> Sequence[Request]:
        return await self._queue.page(
            self._tenant, endpoints=(self._endpoint,), before=before, limit=limit
        )

    def _is_own(self, request: Request) -> bool:
        return request.input.get("client_id") == self._client_id

    async def _follow(self, request: Request) -> None:
        """Send the events of one prompt, to its end."""
        try:
            await PromptEvents(self, self._queue, self._storage, request).run()
            await self._status()
        except RequestNotFound:
            return  # it was deleted
        finally:
            self._open -= 1

    async def _status(self, **more: str) -> None:
        waiting = await self._queue.page(
            self._tenant,
            states=(State.QUEUED, State.RUNNING),
            endpoints=(self._endpoint,),
            limit=AT_START,
        )
        info = {"exec_info": {"queue_remaining": len(waiting)}}
        await self.say("status", {"status": info, **more})

    async def say(self, kind: str, data: Mapping[str, Any]) -> None:
        await self._socket.send_text(json.dumps({"type": kind, "data": data}))

    async def show(self, picture: bytes, start: bytes = PREVIEW_JPEG) -> None:
        await self._socket.send_bytes(start + picture)


class PromptEvents:
    """Events of one prompt. Call ``run`` once."""

    def __init__(
        self, client: ClientEvents, queue: Queue, storage: Storage, request: Request
    ) -> None:
        self._client = client
        self._queue = queue
        self._storage = storage
        self._request = request
        self._id = prompt.prompt_id(request)
        self._graph = cast("Mapping[str, Any]", request.input.get("prompt") or {})
        self._node = ""
        self._begun: dict[str, tuple[int, int]] = {}  # nodes that have begun, with their steps
        self._lines = 0
        self._started = False
        self._progress: tuple[int, int] = (0, 0)
        self._preview = 0

    async def run(self) -> None:
        queue, request = self._queue, self._request
        while True:
            await self._say_news(request)
            if request.state.final:
                break
            request = await queue.wait_for_change(
                request.tenant, request.id, CHANGE_WAIT_S, since=request
            )
        if request.state is State.SUCCEEDED:
            self._node = ""
            await self._say_states()
        for node, output in prompt.outputs(request).items():
            if prompt.class_of(self._graph, node) in SHOWING:
                await self._show_results(request, node)
            else:
                await self._say("executed", node=node, display_node=node, output=output)
        kind, data = prompt.ending(request, self._node)
        await self._client.say(kind, data)
        await self._say("executing", node=None)

    async def _say_news(self, request: Request) -> None:
        if not self._started and (request.started_at is not None):
            self._started = True
            at = int(request.started_at.timestamp() * 1000)
            await self._say("execution_start", timestamp=at)
            await self._say("execution_cached", nodes=[], timestamp=at)
        if request.events > self._lines:
            await self._say_nodes(request)
        progress = request.progress
        counted = progress is not None and progress.steps and progress.stage not in BYTE_STAGES
        if progress and counted and (progress.step, progress.steps) != self._progress:
            self._progress = (progress.step, progress.steps)
            value = {"value": progress.step, "max": progress.steps}
            await self._say("progress", **value, node=self._node or None)
            if self._node:
                self._begun[self._node] = self._progress
                await self._say_states()
        if request.state is State.RUNNING:
            await self._show_preview(request)

    async def _say_nodes(self, request: Request) -> None:
        for line in await self._queue.lines(request.tenant, request.id, self._lines):
            self._lines = line.sequence
            if (node := prompt.begun_node(line, self._graph)) is not None:
                self._node = node
                self._begun[node] = (0, 1)
                await self._say_states()
                await self._say("executing", node=node, display_node=node)

    async def _say_states(self) -> None:
        """Send the states of the nodes that have begun. One has finished when the next begins."""
        nodes: dict[str, Any] = {}
        for node, (value, most) in self._begun.items():
            runs = node == self._node
            nodes[node] = {
                "value": value if runs else most,
                "max": most,
                "state": "running" if runs else "finished",
                "node_id": node,
                "prompt_id": self._id,
                "display_node_id": node,
                "parent_node_id": None,
                "real_node_id": node,
            }
        await self._say("progress_state", nodes=nodes)

    async def _show_results(self, request: Request, node: str) -> None:
        """Send the images of a node whose results are pictures of the socket."""
        await self._say("executing", node=node, display_node=node)
        for file in prompt.files(request):
            if file.node == node and not is_elsewhere(file.key):
                try:
                    size = await self._storage.size(file.key)
                    chunks = [chunk async for chunk in self._storage.read(file.key, 0, size)]
                except (ArtifactNotFound, StorageUnavailable) as error:
                    # The socket is for all prompts of the client, and `/view` may have it later.
                    log.warning("the image %s is not shown: %s", file.key, error.message)
                    continue
                await self._client.show(b"".join(chunks), RESULT_PNG)

    async def _show_preview(self, request: Request) -> None:
        """Send the newest preview."""
        preview = await prompt.newest_preview(self._queue, request)
        if preview is not None and preview.step != self._preview:
            self._preview = preview.step
            await self._client.show(preview.image)

    async def _say(self, kind: str, **data: Any) -> None:
        await self._client.say(kind, {**data, "prompt_id": self._id})
