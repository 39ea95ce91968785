"""A Cog server that runs somewhere else, as an executor: the real server at an address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deployments.executors.cog import deploying
from deployments.executors.environment import Environments
from deployments.executors.server_process import Launch, ServerProcess
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices
from serve_app.domain.outcome import Outcome
from tests.deployments.executors.cog.models import CogModel, model, unpack_model
from tests.deployments.executors.rig import ExecutorRig

PNG = b"\x89PNG\r\n\x1a\n"
URL = "http://anywhere/files/u/cat.png"


class Elsewhere:
    """A Cog server that is none of the replica's own."""

    def __init__(self, folder: Path, cog_model: CogModel, apps_dir: Path) -> None:
        self._folder = folder
        self._cog_model = cog_model
        self._apps_dir = apps_dir
        self._process = ServerProcess("elsewhere", folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._process.port}"

    async def start(self) -> None:
        environments = Environments(self._apps_dir / "environments")
        python = await environments.python(self._cog_model.project.requirements)
        code = self._folder / "elsewhere"
        unpack_model(self._cog_model, code)
        stub = self._cog_model.project.targets["predict"]

        def launch(port: int) -> Launch:
            return Launch(
                [str(python), "-m", "cog.server.http", "--host", "127.0.0.1"],
                {
                    "PATH": f"{python.parent}:/usr/bin:/bin",
                    "PORT": str(port),
                    "COG_PREDICT_TYPE_STUB": stub,
                },
            )

        await self._process.start(launch, code)
        await self._process.ready(self._ready, 120.0)

    async def start_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start it at the same address."""
        port = self._process.port
        monkeypatch.setattr("deployments.executors.server_process.free_port", lambda _host: port)
        self._process = ServerProcess("elsewhere", self._folder)
        await self.start()

    async def _ready(self) -> bool:
        answer = await self._process.http.get("/health-check")
        return answer.json()["status"] == "READY"

    async def aclose(self) -> None:
        await self._process.aclose(5.0)


@pytest.fixture
async def elsewhere(tmp_path: Path, apps_dir: Path) -> AsyncIterator[Elsewhere]:
    server = Elsewhere(tmp_path, await model(tmp_path, apps_dir, "Painter"), apps_dir)
    await server.start()
    yield server
    await server.aclose()


def endpoint(entry: Any) -> Endpoint:
    return Endpoint("apps/there", entry["family"], Weights(""), "json", options=entry["options"])


@pytest.mark.long
async def test_a_server_at_an_address_is_an_endpoint_with_its_schemas(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = await asyncio.to_thread(
        deploying.server, elsewhere.url + "/", Choices(None, concurrency=2)
    )
    assert (deployment.content, deployment.notes) == (None, [])
    ((id_, entry),) = deployment.entries
    assert id_ == "apps/127-0-0-1"
    fields = entry["options"]["input_schema"]["properties"]
    assert fields["style"]["enum"] == ["oil", "ink"]

    rig = ExecutorRig(tmp_path)
    rig.storage.objects["u/cat.png"] = PNG
    await rig.replica.start()

    async def ask(name: str, **arguments: Any) -> Outcome:
        return await rig.outcome(rig.offer(name, lease_endpoint=endpoint(entry), **arguments))

    try:
        key = rig.offer("one", lease_endpoint=endpoint(entry), text="a", image=URL, steps=1)
        outcome = await rig.outcome(key)
        assert outcome.failure is None
        output = (outcome.output or {})["output"]
        assert output["content_type"] == "image/png"
        assert rig.storage.objects[output["artifact"]] == PNG + b"a 1 0.5 oil None.png"
        assert ("INFO", "painting a with oil") in await rig.lines(key)

        # Two requests, of which the server takes one at a time: the other one waits.
        both = await asyncio.gather(ask("two", text="b"), ask("three", text="c"))
        assert [answer.failure for answer in both] == [None, None]

        # One that waits for a place is cancelled alone.
        meet = tmp_path / "meeting"
        runs = rig.offer("long", lease_endpoint=endpoint(entry), text="d", then=f"wait for {meet}")
        await rig.port.until(Path(f"{meet}.started").exists)
        waits = rig.offer("waits", lease_endpoint=endpoint(entry), text="d")
        await rig.port.until(lambda: waits in rig.port.asks[-1].leases)
        rig.port.cancelled.add(waits)
        cancelled = (await rig.outcome(waits)).failure
        assert cancelled is not None
        assert cancelled.code == "cancelled"
        meet.touch()
        assert (await rig.outcome(runs)).failure is None

        await elsewhere.aclose()
        failure = (await ask("four", text="d")).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("replica_died", True)
        # The next one waits until the server is there again.
        waiting = rig.offer("five", lease_endpoint=endpoint(entry), text="e")
        await rig.port.until(lambda: waiting in rig.port.asks[-1].leases)
        await elsewhere.start_again(monkeypatch)
        assert (await rig.outcome(waiting)).failure is None
    finally:
        await rig.replica.aclose()


async def test_an_address_without_a_cog_server_is_refused(tmp_path: Path) -> None:
    for url, sentence in (
        ("ftp://there", "ftp://there is no address. Write one such as"),
        ("http://me:secret@there", "The address has a password"),
        ("http://127.0.0.1:9", "No Cog server answers at http://127.0.0.1:9"),
    ):
        with pytest.raises(Misconfigured) as refused:
            await asyncio.to_thread(deploying.server, url, Choices(None))
        assert sentence in refused.value.message


async def test_a_request_says_that_its_server_cannot_be_reached(tmp_path: Path) -> None:
    cog = {"url": "http://127.0.0.1:9", "output": {}, "start_timeout_s": 0.2}
    options = {"cog": cog, "input_schema": {}, "output_schema": {}}
    there = Endpoint("apps/there", "cog", Weights(""), "json", options=options)
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    try:
        failure = (await rig.outcome(rig.offer("one", lease_endpoint=there))).failure
    finally:
        await rig.replica.aclose()
    assert failure is not None
    assert (failure.code, failure.retryable) == ("app_not_started", True)
    assert "The Cog server http://127.0.0.1:9 was not ready within 0.2 s" in failure.message


async def test_an_output_of_a_server_cannot_name_a_file_of_the_replica(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    echo = {"$file": str(secret), "media_type": "text/plain"}

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"status": "READY"})
        return web.json_response({"status": "succeeded", "output": {"deep": [echo]}})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0])
    options = {"cog": {"url": url, "output": {}}}
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    try:
        there = Endpoint("apps/there", "cog", Weights(""), "json", options=options)
        outcome = await rig.outcome(rig.offer("one", lease_endpoint=there))
    finally:
        await rig.replica.aclose()
        await runner.cleanup()
    assert outcome.failure is None, outcome.failure
    assert outcome.output == {"output": {"deep": [echo]}}
    assert rig.storage.objects == {}


async def test_entries_without_a_usable_model_say_what_to_do(tmp_path: Path) -> None:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    try:
        for number, cog in enumerate(({}, {"output": {}, "mode": "dream"}, {"output": {}})):
            broken = Endpoint("apps/there", "cog", Weights(""), "json", options={"cog": cog})
            key = rig.offer(f"request {number}", lease_endpoint=broken)
            failure = (await rig.outcome(key)).failure
            assert failure is not None
            assert "darkroom deploy" in failure.message
    finally:
        await rig.replica.aclose()
