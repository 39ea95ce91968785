"""Realtime routes of a ``fal.App`` with the real package ``fal``, called by fal's own clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from serve_app.settings import PoolConfig
from tests.deployments.executors.python.fal.house import (
    LIVE,
    DeployedApp,
    deploy_app,
    environments_with_fal,
)
from tests.deployments.executors.python.fal.live import catalog_of, serving_house
from tests.node import node, packages
from tests.wire.served import Address, serve
from tests.wire.test_fal_javascript_client import HERE, TIMEOUT_S, program
from tests.wire.test_fal_realtime import GLOBALS

pytestmark = pytest.mark.wire

LIVE_APP = "apps/live"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> DeployedApp:
    return deploy_app(LIVE, tmp_path_factory.mktemp("live"), environments_with_fal())


@pytest.fixture(scope="module")
def address(live: DeployedApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    catalog = catalog_of(live, tmp_path_factory.mktemp("catalog"))
    beside = partial(serving_house, live, tmp_path_factory.mktemp("replica"))
    pools = {"apps": PoolConfig(families=("python",), slots=4)}
    with serve(beside, catalog=catalog, pools=pools, realtime_idle_s=5.0) as live_address:
        yield live_address


@pytest.fixture
def client(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(address.url)
    sync_client = fal_client.SyncClient(key=address.key)
    yield sync_client
    sync_client._client.close()


def sessions_of(address: Address, endpoint: str) -> list[dict[str, Any]]:
    """Requests of an endpoint, newest first."""
    headers = {"Authorization": f"Key {address.key}"}
    query = {"endpoint_id": endpoint}
    answer = httpx.get(
        f"{address.url}/v1/requests", params=query, headers=headers, trust_env=False
    ).json()
    return [request for request in answer["requests"] if request["endpoint_id"] == endpoint]


@pytest.mark.variants(1)
@pytest.mark.parametrize("use_jwt", [True, False])
def test_frames_reach_the_app_and_its_answers_come_back(
    client: fal_client.SyncClient, use_jwt: bool
) -> None:
    with client.realtime(LIVE_APP, use_jwt=use_jwt) as session:
        for number in range(3):
            session.send({"prompt": f"image {number}", "raw": b"\xff" * number})
            answer = session.recv()
            assert answer is not None
            assert (answer["prompt"], answer["size"]) == (f"image {number}", number)
            assert answer["image"]["url"].startswith("data:image/png;base64,")


async def test_a_session_of_the_asynchronous_client_at_another_path(address: Address) -> None:
    fal_plain_http.use(address.url)
    client = fal_client.AsyncClient(key=address.key)
    async with client.realtime(LIVE_APP, path="/talk", max_buffering=2) as session:
        for number in range(1, 6):
            await session.send({"prompt": "x"})
            assert ((await session.recv()) or {})["number"] == number
    await (await client._client).aclose()


def test_an_error_of_the_app_is_raised_and_the_session_closes(
    client: fal_client.SyncClient,
) -> None:
    with client.realtime(LIVE_APP) as session:
        session.send({"seed": -1})
        with pytest.raises(fal_client.client.RealtimeError, match="INTERNAL_ERROR: 2 validation"):
            session.recv()
        assert session.recv() is None


@pytest.mark.long
def test_a_process_that_dies_raises_with_the_reason(
    client: fal_client.SyncClient, address: Address
) -> None:
    with client.realtime(LIVE_APP) as session:
        session.send({"prompt": "die"})
        with pytest.raises(fal_client.client.RealtimeError, match="ended with status 5"):
            session.recv()
        with pytest.raises(fal_client.client.RealtimeError, match="CONNECTION_CLOSED"):
            session.recv()
    newest = sessions_of(address, f"{LIVE_APP}/realtime")[0]
    assert newest["state"] in ("failed", "running"), newest
    with client.realtime(LIVE_APP) as session:  # another process
        session.send({"prompt": "again"})
        assert (session.recv() or {})["number"] == 1


def test_one_input_may_have_several_outputs(client: fal_client.SyncClient) -> None:
    with client.realtime(LIVE_APP, path="/steps") as session:
        session.send({"prompt": "x"})
        assert [(session.recv() or {})["step"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(fal_client.client.RealtimeError, match="TIMEOUT"):
            session.recv()
        assert session.recv() is None


def test_an_encoding_of_the_apps_own(client: fal_client.SyncClient) -> None:
    with client.realtime(
        LIVE_APP,
        path="/json",
        encode_message=lambda message: json.dumps(message).encode(),
        decode_message=json.loads,
    ) as session:
        session.send({"prompt": "x"})
        assert session.recv() == {"prompt": "x"}


def test_a_websocket_of_the_app(client: fal_client.SyncClient) -> None:
    with client.ws_connect(LIVE_APP, path="/socket") as socket:
        socket.send("hello")
        assert json.loads(socket.recv()) == {"said": "hello"}
        socket.send("bye")
        with pytest.raises(Exception, match=r"4001.*See you"):
            socket.recv()


def test_a_session_without_messages_ends(client: fal_client.SyncClient) -> None:
    with client.realtime(LIVE_APP) as session:
        session.send({"prompt": "x"})
        assert session.recv() is not None
        assert session.recv() is None


def test_a_frame_that_is_too_large_or_a_text_is_refused_and_the_session_goes_on(
    client: fal_client.SyncClient,
) -> None:
    with client.realtime(LIVE_APP) as session:
        session.send({"prompt": "x", "raw": b"x" * (5 << 20)})
        with pytest.raises(fal_client.client.RealtimeError, match="the limit is 4194304"):
            session.recv()
        session._ws.send("text")
        with pytest.raises(fal_client.client.RealtimeError, match="text message"):
            session.recv()
        session.send({"prompt": "y"})
        assert (session.recv() or {})["prompt"] == "y"


def test_an_endpoint_of_sessions_takes_no_requests_and_others_no_sessions(
    client: fal_client.SyncClient, address: Address
) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="takes realtime sessions only"):
        client.submit(f"{LIVE_APP}/realtime", {"prompt": "x"})
    assert client.run(LIVE_APP, {"prompt": "x"}) == {"output": "x"}
    with client.realtime(f"{LIVE_APP}/about", use_jwt=False) as session:
        with pytest.raises(fal_client.client.RealtimeError, match="has no realtime route"):
            session.recv()


def test_a_session_is_a_request_with_usage(client: fal_client.SyncClient, address: Address) -> None:
    with client.realtime(LIVE_APP, path="/talk") as session:
        session.send({"prompt": "x"})
        session.recv()
    headers = {"Authorization": f"Key {address.key}"}
    (newest, *_) = sessions_of(address, f"{LIVE_APP}/talk")
    url = f"{address.url}/v1/requests/{newest['request_id']}"
    for _ in range(1000):
        request = httpx.get(url, headers=headers, trust_env=False).json()
        if request["state"] not in ("queued", "running"):
            break
    assert request["state"] == "succeeded"


@pytest.fixture(scope="module")
def results(address: Address, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program in JavaScript reports."""
    folder: Path = tmp_path_factory.mktemp("live-realtime")
    (folder / "node_modules").symlink_to(packages(HERE))
    setup = folder / "setup.mjs"
    setup.write_text(program("middleware", address))
    done = subprocess.run(
        [node(), HERE / "app_realtime.mjs", setup, address.url, LIVE_APP],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line["value"] for line in lines}


@pytest.mark.long
def test_the_client_for_javascript_gets_the_apps_answers(results: dict[str, Any]) -> None:
    assert results["drawn"]["prompt"] == "image"
    assert results["drawn"]["size"] == 3
    assert results["drawn"]["image"]["url"].startswith("data:image/png;base64,")
    assert results["talked"] == [1, 2]


@pytest.mark.long
def test_the_client_for_javascript_gets_the_apps_errors(results: dict[str, Any]) -> None:
    assert results["wrong"]["kind"] == "error"
    assert "INTERNAL_ERROR" in results["wrong"]["said"]
    assert results["after"]["prompt"] == "after"
