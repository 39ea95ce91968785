"""Ingress over fakes behind a real HTTP server, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import uvicorn

from serve_app.free_ports import free_port
from tests.ingress.house import House, build_house

START_S = 30.0


@dataclass(frozen=True)
class Address:
    """URL of a Darkroom, and a key to it."""

    url: str
    key: str
    other_key: str = ""  # of another tenant


Beside = Callable[[House], AbstractAsyncContextManager[Any]]


@contextmanager
def serve(beside: Beside | None = None, **house: Any) -> Iterator[Address]:
    """Run an ingress on a free port of loopback until the block ends. ``house``: arguments of
    ``built``. ``beside``: what runs beside it, on its event loop."""
    running = _Running(house, beside or nullcontext)
    thread = threading.Thread(target=running.main, name="darkroom-for-tests")
    thread.start()
    try:
        assert running.ready.wait(START_S), "the server did not start"
        if running.failure is not None:
            raise running.failure
        assert running.address is not None
        yield running.address
    finally:
        running.stop()
        thread.join(START_S)
        assert not thread.is_alive(), "the server did not end"


class _Running:
    def __init__(self, house: dict[str, Any], beside: Beside) -> None:
        self._house = house
        self._beside = beside
        self.ready = threading.Event()
        self.address: Address | None = None
        self.failure: BaseException | None = None
        self._server: uvicorn.Server | None = None

    def main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # it is raised again in the test's thread
            self.failure = error
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        port = free_port()  # chosen first, because URLs contain it
        async with build_house(port=port, **self._house) as house, self._beside(house):
            config = uvicorn.Config(
                house.app, host="127.0.0.1", port=port, log_config=None, lifespan="off"
            )
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve())
            while True:
                if self._server.started:
                    self._announce(house, self._server)
                if self._server.started or serving.done():
                    break
                await asyncio.sleep(0.01)
            await serving

    def _announce(self, house: House, server: uvicorn.Server) -> None:
        port = server.servers[0].sockets[0].getsockname()[1]
        self.address = Address(f"http://127.0.0.1:{port}", house.key, house.other_key)
        self.ready.set()

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
