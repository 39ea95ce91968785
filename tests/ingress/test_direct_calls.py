"""Calls that leave out Serve's wrapper, over a real HTTP server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.ingress import direct_calls

PREFIX = "/images"


class Serve:
    """Stand-in for Serve's wrapper: it mounts the application and answers its own paths."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = scope.get("root_path", "") + self._prefix
        self.seen.append(scope["path"])
        await PlainTextResponse("from Serve")(scope, receive, send)


class Application:
    """Answers with the root path, waits, or reads the whole body first, as the path says."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/wait"):
            while (await receive()).get("more_body"):
                pass
            self.waits.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if scope["path"].endswith("/stream"):
            await StreamingResponse(self._events())(scope, receive, send)
            return
        if scope["path"].endswith("/slow"):
            await asyncio.sleep(2 * direct_calls.WATCH_AFTER_S)
        size, more = 0, scope["method"] == "POST"
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await PlainTextResponse(f"root {scope['root_path']!r} size {size}")(scope, receive, send)

    async def _events(self) -> AsyncGenerator[bytes]:
        self.waits.set()
        try:
            yield b"first"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def answering(app: ASGIApp) -> AsyncGenerator[httpx.AsyncClient]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[ASGIApp], None]:
    def registered(app: ASGIApp, loop: asyncio.AbstractEventLoop | None = None) -> None:
        monkeypatch.setattr(direct_calls, "_target", None)
        direct_calls.register(app, loop or asyncio.get_running_loop())

    return registered


def around(serve: ASGIApp) -> ASGIApp:
    """As Ray Serve builds what its HTTP server calls."""
    (layer,) = direct_calls.middleware()
    return layer.cls(serve, *layer.args, **layer.kwargs)


async def test_calls_leave_out_serve_once_a_health_check_has_shown_the_prefix(register) -> None:
    serve = Serve()
    register(Application())
    async with answering(around(serve)) as client:
        assert (await client.get("/-/healthz")).text == "from Serve"
        assert (await client.get("/v1/models")).text == "root '' size 0"
        assert (await client.post("/run/a", content=b"x" * 300_000)).text == "root '' size 300000"
        assert (await client.get("/-/routes")).text == "from Serve"
    assert serve.seen == ["/-/healthz", "/-/routes"]


async def test_below_a_route_prefix_the_application_is_told_of_it(register) -> None:
    serve = Serve(PREFIX)
    register(Application())
    async with answering(around(serve)) as client:
        await client.get("/-/healthz")
        assert (await client.get(f"{PREFIX}/v1/models")).text == f"root '{PREFIX}' size 0"
        assert (await client.get("/elsewhere")).text == "from Serve"


async def test_an_application_on_another_event_loop_is_called_by_serve(register) -> None:
    other = asyncio.new_event_loop()
    try:
        register(Application(), other)
        async with answering(around(Serve())) as client:
            await client.get("/-/healthz")
            assert (await client.get("/v1/models")).text == "from Serve"
    finally:
        other.close()


@pytest.mark.parametrize("body", [b"", b"x" * 300_000], ids=["no body", "a body"])
async def test_a_call_whose_client_disconnects_is_cancelled(register, body: bytes) -> None:
    application = Application()
    register(application)
    async with answering(around(Serve())) as client:
        await client.get("/-/healthz")
        call = asyncio.create_task(client.post("/run/wait", content=body))
        await application.waits.wait()
        call.cancel()  # httpx closes the connection
        await application.cancelled.wait()


async def test_a_stream_whose_client_disconnects_is_cancelled(register) -> None:
    application = Application()
    register(application)
    async with answering(around(Serve())) as client:
        await client.get("/-/healthz")
        async with client.stream("GET", "/stream") as response:
            assert await anext(response.aiter_bytes()) == b"first"
            await application.waits.wait()
        await application.cancelled.wait()


async def test_a_body_that_comes_slowly_is_read_whole_by_the_application(register) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(4):
            yield b"x" * 1000
            await asyncio.sleep(direct_calls.WATCH_AFTER_S / 2)

    register(Application())
    async with answering(around(Serve())) as client:
        await client.get("/-/healthz")
        assert (await client.post("/run/a", content=pieces())).text == "root '' size 4000"


async def test_calls_that_are_watched_leave_no_garbage(register) -> None:
    register(Application())
    async with answering(around(Serve())) as client:
        await client.get("/-/healthz")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await client.get("/slow")
            await client.get("/v1/models")  # the server keeps the last call
            left = [type(instance) for instance in gc.get_objects()]
            assert left.count(direct_calls._DisconnectWatch) <= 1
        finally:
            gc.enable()
