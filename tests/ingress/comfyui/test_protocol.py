"""ComfyUI's protocol in front of the queue."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.domain.request import State
from serve_app.ingress.comfyui import prompts
from tests.ingress.comfyui.comfy import (
    CATALOG,
    GRAPH,
    Place,
    connect,
    history,
    node,
    queue_prompt,
    wait_for_end,
)
from tests.ingress.house import build_house
from tests.ingress.replica import JPEG

ENDPOINT = "studio/comfyui"
HOLD = {"1": node("Hold"), "2": node("SaveImage", filename_prefix="x")}


@pytest.mark.parametrize("chosen", [None, "6c9cd4e5-7c2e-4b0c-9d4e-7a1c55f3d001"])
async def test_a_client_as_in_comfyuis_example_gets_its_images(
    place: Place, chosen: str | None
) -> None:
    """It listens until nothing is executing, and reads history and files; newer ones choose the
    id."""
    async with connect(place.house, "me") as socket:
        first = await socket.hear()
        assert (first["type"], first["data"]["sid"]) == ("status", "me")
        more = {} if chosen is None else {"prompt_id": chosen}
        prompt_id = await queue_prompt(place.client, GRAPH, client_id="me", **more)
        assert chosen in (None, prompt_id)
        heard = await socket.until("executing", node=None, prompt_id=prompt_id)
        kinds = [event["type"] for event in heard if isinstance(event, dict)]
        assert kinds[0] == "execution_start"
        assert kinds[-3:] == ["executed", "execution_success", "executing"]
    entry = (await history(place.client, prompt_id))[prompt_id]
    assert entry["status"]["status_str"] == "success"
    assert entry["prompt"][2] == GRAPH
    (image,) = entry["outputs"]["2"]["images"]
    assert image["filename"] == "2_00001_.png"
    file = await place.client.get("/comfyui/view", params=image)
    assert (file.content, file.headers["content-type"]) == (b"image of 2", "image/png")
    assert prompt_id in (await place.client.get("/comfyui/history?max_items=5")).json()


async def test_events_name_the_node_that_runs_its_steps_and_previews(place: Place) -> None:
    async with connect(place.house, "me") as socket, connect(place.house, "you") as yours:
        prompt_id = await queue_prompt(place.client, HOLD, client_id="me")
        await socket.until("executing", node="1", prompt_id=prompt_id)
        place.replica.release.set()
        heard = await socket.until("executing", node=None)
        events = [event for event in heard if isinstance(event, dict)]
        steps = [event["data"] for event in events if event["type"] == "progress"]
        assert all((step["max"], step["prompt_id"]) == (4, prompt_id) for step in steps)
        previews = [message for message in heard if isinstance(message, bytes)]
        assert all(preview == b"\0\0\0\1\0\0\0\1" + JPEG for preview in previews)
        (executed,) = [event for event in events if event["type"] == "executed"]
        assert executed["data"]["output"]["images"][0]["subfolder"] == prompt_id
        assert (await yours.hear())["type"] == "status"
        await queue_prompt(place.client, GRAPH, client_id="you")
        theirs = await yours.until("executing", node=None)
        assert prompt_id not in str(theirs), "only the client's own"


async def test_a_client_that_comes_again_hears_of_its_prompt(place: Place) -> None:
    prompt_id = await queue_prompt(place.client, HOLD, client_id="me")
    await place.running(prompt_id)
    async with connect(place.house, "me") as socket:
        await socket.until("executing", node="1", prompt_id=prompt_id)
        place.replica.release.set()
        await socket.until("execution_success", prompt_id=prompt_id)


async def test_a_socket_ends_when_its_key_is_revoked(place: Place) -> None:
    house = place.house
    key = str(await house.keys.create("default"))
    async with connect(house, "me", key=key) as socket, connect(house, "you") as yours:
        await socket.hear()
        await yours.hear()
        await asyncio.sleep(0.2)
        assert not socket.closed.done(), "it goes on while its key is valid"
        assert await house.keys.revoke(key.partition(":")[0])
        async with asyncio.timeout(120):
            code, reason = await socket.closed
        assert (code, "no longer valid" in reason) == (1008, True)
        assert not yours.closed.done(), "it has another key"


async def test_a_socket_ends_when_its_tenant_is_disabled(place: Place) -> None:
    key = str(await place.house.keys.create("cat"))
    async with connect(place.house, "me", key=key) as socket:
        await socket.hear()
        answer = await place.client.put("/v1/tenants/cat/disable", json={})
        assert answer.status_code == 200, answer.text
        async with asyncio.timeout(120):
            code, reason = await socket.closed
        assert (code, "The tenant cat is disabled." in reason) == (1008, True)


async def test_a_failed_node_and_an_interrupted_prompt_end_as_comfyuis_do(place: Place) -> None:
    async with connect(place.house, "me") as socket:
        failed = await queue_prompt(place.client, {"7": node("Fail")}, client_id="me")
        failure = (await socket.until("execution_error", prompt_id=failed))[-1]["data"]
        assert "Node 7 (Fail) failed" in failure["exception_message"]
        entry = (await history(place.client, failed))[failed]
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["messages"][-1][0] == "execution_error"
        holding = await queue_prompt(place.client, HOLD, client_id="me")
        await place.running(holding)
        assert (await place.client.post("/comfyui/interrupt")).status_code == 200
        await socket.until("execution_interrupted", prompt_id=holding)
    assert (await history(place.client, holding))[holding]["status"]["completed"] is False


async def test_the_queue_has_what_waits_and_runs_and_what_waits_can_be_deleted() -> None:
    async with build_house(catalog=CATALOG, replica=False) as house, house.client() as client:
        first, second = [await queue_prompt(client, GRAPH, prompt_id=name) for name in ("a", "b")]
        assert (first, second) == ("a", "b")
        queue = (await client.get("/comfyui/queue")).json()
        assert [item[1] for item in queue["queue_pending"]] == ["a", "b"]
        assert queue["queue_running"] == []
        assert await queue_prompt(client, GRAPH, prompt_id="a") == "a", "it runs once"
        info = (await client.get("/comfyui/prompt")).json()["exec_info"]
        assert info == {"queue_remaining": 2}
        await client.post("/comfyui/interrupt", json={"prompt_id": "a"})
        await client.post("/comfyui/queue", json={"delete": ["b", "unknown"]})
        queue = (await client.get("/comfyui/queue")).json()
        assert [item[1] for item in queue["queue_pending"]] == ["a"], "it does not run"
        await client.post("/comfyui/queue", json={"clear": True})
        assert (await client.get("/comfyui/queue")).json()["queue_pending"] == []


async def test_clear_cancels_and_deletes_more_than_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompts, "MAX_LISTED", 2)
    async with build_house(catalog=CATALOG, replica=False) as house, house.client() as client:
        for number in range(5):
            await queue_prompt(client, GRAPH, prompt_id=f"p{number}")
        queue = (await client.get("/comfyui/queue")).json()
        assert [item[1] for item in queue["queue_pending"]] == ["p3", "p4"], "the newest"
        await client.post("/comfyui/queue", json={"clear": True})
        waiting = await house.queue.page("default", states=(State.QUEUED,))
        assert [*waiting] == []
        await client.post("/comfyui/history", json={"clear": True})
        assert [*await house.queue.page("default")] == []


async def test_an_interrupt_stops_more_than_are_listed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MAX_LISTED", 1)
    prompt_ids = [await queue_prompt(place.client, HOLD) for _ in range(3)]
    for prompt_id in prompt_ids:
        await place.running(prompt_id)
    assert (await place.client.post("/comfyui/interrupt")).status_code == 200
    for prompt_id in prompt_ids:
        assert (await place.house.queue.wait("default", prompt_id, 5)).state is State.CANCELLED


async def test_an_upload_is_loaded_by_the_name_of_its_answer_and_by_its_own(place: Place) -> None:
    files = {"image": ("cat.png", JPEG, "image/png")}
    sent = await place.client.post("/comfyui/upload/image", files=files, data={"overwrite": "1"})
    assert sent.status_code == 200, sent.text
    name = sent.json()["name"]
    seen = await place.client.get("/comfyui/view", params={"filename": name, "type": "input"})
    assert seen.content == JPEG
    graph = {
        "1": node("LoadImage", image=name),
        "2": node("LoadImage", image="cat.png"),
        "3": node("LoadImage", image="comfyuis own.png"),
    }
    await wait_for_end(place.house, await queue_prompt(place.client, graph))
    url = f"http://testserver/files/{name}"
    assert place.replica.given[-1]["files"] == {name: url, "cat.png": url}
    theirs = await queue_prompt(place.other, graph)
    await wait_for_end(place.house, theirs, "other")
    assert place.replica.given[-1]["files"] == {}


@pytest.mark.parametrize("name", ["é.\r\nX-Evil: 1", 'é.png" x', "é\n.b\tin", "é"])
async def test_an_upload_is_read_by_a_name_of_any_characters(place: Place, name: str) -> None:
    """A line feed in its header broke the connection."""
    part = f"Content-Disposition: form-data; name=\"image\"; filename*=utf-8''{quote(name)}"
    body = f"--b\r\n{part}\r\nContent-Type: text/x\r\n\r\nimage\r\n--b--\r\n".encode()
    form = {"content-type": "multipart/form-data; boundary=b"}
    stored = await place.client.post("/comfyui/upload/image", content=body, headers=form)
    assert stored.status_code == 200, stored.text
    shown = await place.client.get("/comfyui/view", params={"filename": name, "type": "input"})
    assert shown.content == b"image"
    assert not {"\r", "\n"} & {*shown.headers["content-disposition"]}


async def test_another_tenant_finds_nothing(place: Place) -> None:
    mine = await queue_prompt(place.client, GRAPH, prompt_id="mine")
    holding = await queue_prompt(place.client, HOLD)
    await place.running(holding)
    request_id = place.replica.ran[0]
    await wait_for_end(place.house, request_id)
    files = {"image": ("cat.png", JPEG, "image/png")}
    upload = (await place.client.post("/comfyui/upload/image", files=files)).json()["name"]
    (image,) = (await history(place.client, mine))[mine]["outputs"]["2"]["images"]
    other = place.other
    for prompt in (mine, request_id, holding):
        assert await history(other, prompt) == {}
        await other.post("/comfyui/interrupt", json={"prompt_id": prompt})
        await other.post("/comfyui/queue", json={"delete": [prompt], "clear": True})
    await other.post("/comfyui/interrupt")
    assert (await other.get("/comfyui/history")).json() == {}
    assert (await other.get("/comfyui/queue")).json()["queue_running"] == []
    for query in (image, {"filename": upload, "type": "input"}):
        assert (await other.get("/comfyui/view", params=query)).status_code == 404
        assert (await place.client.get("/comfyui/view", params=query)).status_code == 200
    request = await place.house.queue.get("default", holding)
    assert (request.state, request.cancel_requested) == (State.RUNNING, False)
    place.replica.release.set()


async def test_texts_are_of_their_nodes_and_extra_data_goes_with_the_graph(place: Place) -> None:
    graph = {"4": node("ShowText", text="a cat"), **GRAPH}
    extra = {"extra_pnginfo": {"workflow": {}}, "api_key_comfy_org": "secret"}
    prompt_id = await queue_prompt(place.client, graph, extra_data=extra)
    await wait_for_end(place.house, prompt_id)
    assert place.replica.given[-1]["extra_data"] == {"extra_pnginfo": {"workflow": {}}}
    entry = (await history(place.client, prompt_id))[prompt_id]
    assert entry["outputs"]["4"] == {"text": ["a cat"]}


async def test_half_of_a_surrogate_pair_in_a_text_is_a_question_mark(place: Place) -> None:
    queued = await queue_prompt(place.client, {"1": node("HalfText")})
    await place.over(queued)
    assert (await history(place.client, queued))[queued]["outputs"]["1"] == {"text": ["half ?"]}
    asset = f"/comfyui/api/v2/assets/{queued}.0/content"
    assert (await place.client.get(asset)).text == "half ?"


async def test_a_graph_that_is_none_is_refused_in_comfyuis_form(place: Place) -> None:
    answer = await place.client.post("/comfyui/prompt", json={"prompt": {}})
    assert (answer.status_code, answer.json()["node_errors"]) == (400, {})
    answer = await place.client.post("/comfyui/prompt", json={"prompt": {"3": {"inputs": {}}}})
    assert answer.status_code == 400
    (problem,) = answer.json()["node_errors"]["3"]["errors"]
    assert "class_type" in problem["message"]
    answer = await place.client.get("/comfyui/manager/version")
    assert (answer.status_code, "is not supported here" in answer.text) == (404, True)
    assert (await place.client.get("/comfyui/system_stats")).json()["devices"] == []


async def test_the_key_may_stand_where_clients_of_comfyui_can_put_one(place: Place) -> None:
    key = place.house.key
    transport = httpx.ASGITransport(place.house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        path = "/comfyui/queue"
        assert (await client.get(path, params={"token": key})).status_code == 200
        user, _, password = key.partition(":")
        assert (await client.get(path, auth=(user, password))).status_code == 200
        for wrong in ("", "?token=x"):
            refused = await client.get(path + wrong)
            assert refused.status_code == 401, refused.text
            assert refused.json()["error"]["type"] == "unauthenticated"
        for basic in (b"Basic x", b"Basic \xe9", b"Basic /w=="):
            header = {b"authorization": basic}
            assert (await client.get(path, headers=header)).status_code == 401
    async with connect(place.house, "me", key=None, token=key) as socket:
        assert (await socket.hear())["type"] == "status"
    async with connect(place.house, "me", key=None) as socket:
        pass
    assert socket.refused


@pytest.mark.parametrize("others", [0, 2])
async def test_without_one_endpoint_a_sentence_says_what_to_do(others: int) -> None:
    entry = CATALOG.get(ENDPOINT)
    catalog = Catalog({f"studio/{number}": entry for number in range(others)})
    async with build_house(catalog=catalog, documented=CATALOG) as house, house.client() as client:
        answer = await client.post("/comfyui/prompt", json={"prompt": GRAPH})
        assert answer.status_code == 404
        reason = "Several endpoints" if others else "No endpoint here takes any ComfyUI workflow"
        assert reason in json.loads(answer.text)["error"]["message"]


async def test_a_key_that_is_limited_to_other_endpoints_is_refused(place: Place) -> None:
    limited = str(await place.house.keys.create("default", endpoints=("test/*",)))
    async with place.house.client(limited) as client:
        for path in ("queue", "history", "history/x", "prompt", "view?filename=x&subfolder=y"):
            assert (await client.get(f"/comfyui/{path}")).status_code == 403, path
        assert (await client.post("/comfyui/prompt", json={"prompt": GRAPH})).status_code == 403
