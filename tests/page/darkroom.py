"""Ingress over fakes behind a real HTTP server that can be stopped and restarted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import uvicorn

from serve_app.catalog.catalog import Catalog
from serve_app.ingress.submission.shadows import ShadowWorker
from serve_app.ingress.workflows.worker import WorkflowWorker
from tests.ingress.house import CATALOG, House, build_house
from tests.page.album import Entry, hang
from tests.page.painter import Painter

WITHIN_S = 60.0
TENANT = "default"  # of the key


class PageDarkroom:
    """Darkroom in a thread with its own event loop; the test's thread calls its methods. Queued
    requests survive a restart of the HTTP server, as with PostgreSQL."""

    def __init__(self, catalog: Catalog = CATALOG, **options: Any) -> None:
        """``options``: of the ingress, see ``built``."""
        self._options: dict[str, Any] = {"catalog": catalog, **options}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="page-darkroom", daemon=True
        )
        self._closing = AsyncExitStack()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._port = 0
        self._painter: Painter | None = None
        self.house: House

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def key(self) -> str:
        return self.house.key

    def open(self) -> None:
        self._thread.start()
        self._do(self._open())
        self.start_http()

    def close(self) -> None:
        self.stop_http()
        self._do(self._closing.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()

    def start_http(self) -> None:
        self._do(self._start_http())

    def stop_http(self) -> None:
        """Close every connection and stop listening."""
        self._do(self._stop_http())

    def start_painting(self) -> None:
        """Start the replica. Requests stay queued until then."""
        self._do(self._start_painting())

    def release(self) -> None:
        """Let the replica go on with prompts that are held."""
        assert self._painter is not None
        self._loop.call_soon_threadsafe(self._painter.release)

    def hang(self, kept: Sequence[Entry], *, private: bool = False) -> list[str]:
        """Store results of earlier times. Returns the ids of their requests."""
        ids: list[str] = []

        async def store() -> None:
            now = self.house.services.clock.now()
            ids.extend(hang(self.house, TENANT, kept, now, private=private))

        self._do(store())
        return ids

    def copy_requests(self) -> None:
        """Store the copies of requests whose models have shadows."""
        self._do(ShadowWorker(self.house.services).advance())

    def sample_pools(self) -> None:
        """Note what the pools have now, as the leader does every few seconds."""
        self._do(self.house.queue.pool_history.sample())

    def advance_workflows(self) -> None:
        """Start requests to workflows and submit their next steps, as the leader does."""
        self._do(WorkflowWorker(self.house.services).advance())

    def ran(self) -> list[str]:
        assert self._painter is not None
        return list(self._painter.ran)

    def previewed_ids(self) -> list[str]:
        """Ids of requests, once per preview that was computed."""
        assert self._painter is not None
        return list(self._painter.shown)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)

    async def _open(self) -> None:
        self.house = await self._closing.enter_async_context(
            build_house(replica=False, **self._options)
        )
        self._painter = Painter(self.house.queue, self.house.storage)
        self._closing.push_async_callback(self._painter.aclose)

    async def _start_painting(self) -> None:
        assert self._painter is not None
        await self._painter.start()

    async def _start_http(self) -> None:
        config = uvicorn.Config(
            self.house.app,
            host="127.0.0.1",
            port=self._port,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server._serve())
        while not self._server.started:
            assert not self._serving.done(), "the server did not start"
            await asyncio.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    async def _stop_http(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._server = None


@contextmanager
def page_darkroom(
    *, painting: bool = True, catalog: Catalog = CATALOG, **options: Any
) -> Iterator[PageDarkroom]:
    darkroom = PageDarkroom(catalog, **options)
    darkroom.open()
    try:
        if painting:
            darkroom.start_painting()
        yield darkroom
    finally:
        darkroom.close()
