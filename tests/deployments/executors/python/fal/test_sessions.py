"""Realtime sessions of a ``fal.App`` with the real package ``fal``, on its replica."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from serve_app.domain.errors import Fenced, InvalidInput
from serve_app.domain.realtime import AppSessionRules, SessionEnd
from tests.deployments.executors.python.fal.house import DeployedApp, FalRig, serving
from tests.deployments.executors.python.fal.live import LONG_S, Client

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:.*is marked with '@pytest.mark.asyncio'"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(live: DeployedApp, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FalRig]:
    async with serving(live, tmp_path_factory.mktemp("replica")) as fal_rig:
        yield fal_rig


def test_websockets_are_endpoints_with_their_schemas(live: DeployedApp) -> None:
    rules = {path: AppSessionRules.of(endpoint) for path, endpoint in live.endpoints.items()}
    assert live.found["notes"] == []
    assert rules["/"] is None
    modes = {path: rule.mode for path, rule in rules.items() if rule is not None}
    assert modes == {
        "/batches": "unary",
        "/json": "unary",
        "/realtime": "unary",
        "/short": "unary",
        "/slow": "unary",
        "/socket": "websocket",
        "/steps": "server_streaming",
        "/talk": "bidi",
    }
    drawn = live.endpoints["/realtime"].options
    assert list(drawn["input_schema"]["properties"]) == ["prompt", "seed", "image_url", "raw"]
    assert drawn["output_schema"]["properties"]["image"]["anyOf"]
    (described,) = (
        endpoint for endpoint in live.found["endpoints"] if endpoint["path"] == "/realtime"
    )
    assert described["description"] == "Draw a frame."


async def test_each_message_is_answered_and_the_session_ends_with_its_client(rig: FalRig) -> None:
    client = Client(rig, "/realtime")
    sent = [str(number) for number in range(30)]
    sending = asyncio.create_task(_all(client, sent))
    assert [(await client.hear())["prompt"] for _ in sent] == sent
    await sending
    outcome = await client.leave()
    assert outcome.failure is None
    assert outcome.output == {"messages": 30}
    assert outcome.usage.run_s > 0
    assert ("INFO", "drawing 7") in await rig.rig.lines(client.lease_key)


async def test_bytes_pass_as_bytes(rig: FalRig) -> None:
    client = Client(rig, "/realtime")
    await client.send({"prompt": "x", "raw": b"\x00\xff" * 5000})
    assert (await client.hear())["size"] == 10_000
    await client.leave()


async def test_files_of_the_toolkit_are_data_uris(rig: FalRig) -> None:
    client = Client(rig, "/realtime")
    for _ in range(3):
        await client.send({"prompt": "image"})
        image = (await client.hear())["image"]
        head, _, content = image["url"].partition(",")
        assert (head, image["content_type"]) == ("data:image/png;base64", "image/png")
        assert content
    await client.leave()


async def test_json_of_a_client_beside_a_file_cannot_name_another_one(
    rig: FalRig, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    client = Client(rig, "/socket")
    for more in ({"media_type": "text/plain"}, {"$as": "url"}):
        forged = {"deep": [{"$file": str(tmp_path / "token"), **more}], "$as": "url"}
        await client.send(json.dumps(forged))
        heard = await client.hear()
        assert heard["said"] == forged
        assert b64decode(heard["file"].partition(",")[2]) == b"mine"
    await client.leave()


async def test_files_of_messages_are_fetched_by_the_replica(rig: FalRig) -> None:
    written = BytesIO()
    Image.new("RGB", (24, 8), "red").save(written, "PNG")
    rig.rig.storage.objects["u/wide.png"] = written.getvalue()
    client = Client(rig, "/realtime")
    await client.send({"prompt": "x", "image_url": "http://anywhere/files/u/wide.png"})
    assert (await client.hear())["size"] == 24
    with pytest.raises(InvalidInput, match="image_url"):
        await client.send({"prompt": "x", "image_url": "http://anywhere/files/u/none.png"})
    await client.send({"prompt": "goes on"})
    assert (await client.hear())["prompt"] == "goes on"
    await client.leave()


@pytest.mark.parametrize(
    ("message", "words"), [({"seed": 1}, "prompt"), ({"prompt": "fail"}, "no paint")]
)
async def test_an_error_of_the_app_is_its_own_text(
    rig: FalRig, message: dict[str, Any], words: str
) -> None:
    client = Client(rig, "/realtime")
    await client.send(message)
    error = await client.hear()
    assert (error["type"], error["error"]) == ("x-fal-error", "INTERNAL_ERROR")
    assert words in error["reason"]
    assert await client.hear() is None
    assert client.end is not None
    assert (client.end.code, client.end.failure) == (1000, None)
    assert (await client.leave()).failure is None
    printed = [text for _, text in await rig.rig.lines(client.lease_key)]
    assert not [text for text in printed if "Traceback" in text or "realtime.py" in text]


@pytest.mark.long
async def test_a_process_that_dies_ends_the_session_with_a_sentence(rig: FalRig) -> None:
    client = Client(rig, "/realtime")
    await client.send({"prompt": "x"})
    await client.hear()
    await client.send({"prompt": "die"})
    assert await client.hear() is None
    assert client.end is not None
    assert client.end.code == 1011
    assert "ended with status 5" in client.end.reason
    failure = (await client.leave()).failure
    assert (failure.code, failure.retryable) == ("replica_died", False)
    with pytest.raises(Fenced):
        await client.sessions.send_message(client.lease_key, b"x")


async def test_several_answers_and_several_messages(rig: FalRig) -> None:
    steps = Client(rig, "/steps")
    await steps.send({"prompt": "x"})
    assert [(await steps.hear())["step"] for _ in range(3)] == [0, 1, 2]
    assert (await steps.hear())["error"] == "TIMEOUT"  # fal's end of each session
    assert await steps.hear() is None
    await steps.leave()

    talk = Client(rig, "/talk")
    sending = asyncio.create_task(_all(talk, [str(number) for number in range(30)]))
    assert [(await talk.hear())["number"] for _ in range(30)] == list(range(1, 31))
    await sending
    await talk.leave()
    assert ("INFO", "the client has left") in await rig.rig.lines(talk.lease_key)

    batches = Client(rig, "/batches")
    sent = [str(number) for number in range(40)]
    sending = asyncio.create_task(_all(batches, sent))
    heard: list[str] = []
    while len(heard) < 40:
        heard += (await batches.hear())["prompts"]
    assert heard == sent
    await sending
    await batches.leave()


async def _all(client: Client, prompts: list[str]) -> None:
    for prompt in prompts:
        await client.send({"prompt": prompt})


async def test_an_app_gets_only_as_many_messages_as_it_can_begin(rig: FalRig) -> None:
    client = Client(rig, "/slow")
    for prompt in ("one", "two"):
        await client.send({"prompt": prompt})
    third = asyncio.create_task(client.send({"prompt": "three"}))
    got = await client.sessions.next_messages(client.lease_key, 0.3)
    assert (got.messages, got.idle_s) == ((), 0.0), "it computes"
    assert not third.done()
    for prompt in ("one", "two", "three"):
        await asyncio.to_thread((rig.folder / "data" / prompt).touch)
    assert [(await client.hear())["prompt"] for _ in range(3)] == ["one", "two", "three"]
    await third
    got = await client.sessions.next_messages(client.lease_key, 0.1)
    assert got.idle_s > 0
    await client.leave()


async def test_a_session_that_computes_ends_when_it_is_cancelled_and_its_time_is_billed(
    rig: FalRig,
) -> None:
    before = await rig.output("/about")
    client = Client(rig, "/slow")
    await client.send({"prompt": "never"})
    rig.rig.port.cancelled.add(client.lease_key)
    async with asyncio.timeout(LONG_S):
        outcome = await rig.rig.outcome(client.lease_key)
    assert outcome.succeeded, "what it had made was delivered"
    assert outcome.usage.run_s > 0
    assert (await rig.output("/about"))["pid"] == before["pid"]


async def test_an_apps_own_time_limit_and_encoding(rig: FalRig) -> None:
    short = Client(rig, "/short")
    await short.send({"prompt": "x"})
    assert (await short.hear())["prompt"] == "x"
    assert (await short.hear())["error"] == "TIMEOUT"
    assert await short.hear() is None
    await short.leave()

    coded = Client(rig, "/json")
    await coded.send(b'{"prompt": "x"}')
    await coded.wait_for_lease()
    async with asyncio.timeout(LONG_S):
        got = await coded.sessions.next_messages(coded.lease_key, LONG_S)
    assert [json.loads(message) for message in got.messages] == [{"prompt": "x"}]
    await coded.leave()


async def test_a_websocket_of_the_app_has_texts_and_its_own_close_code(rig: FalRig) -> None:
    client = Client(rig, "/socket")
    await client.send("hello")
    assert await client.hear() == {"said": "hello"}
    await client.send("bye")
    assert await client.hear() is None
    assert client.end == SessionEnd(4001, "See you.")
    assert (await client.leave()).failure is None


@pytest.mark.long
async def test_a_replica_that_stops_hands_its_sessions_back(
    live: DeployedApp, tmp_path: Path
) -> None:
    async with serving(live, tmp_path / "replica") as rig:
        client = Client(rig, "/realtime")
        await client.send({"prompt": "x"})
        await client.hear()
    assert [key for key, _, _ in rig.rig.port.hand_backs] == [client.lease_key]
