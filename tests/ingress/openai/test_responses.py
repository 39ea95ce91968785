"""OpenAI's calls for responses over HTTP: turns of conversations as prompts and images."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.ingress.house import OTHERS, House, build_house

RESPONSES = "/openai/v1/responses"
SDXL, IMAGES = "fal-ai/fast-sdxl", "test/images"
URL = "https://example.org/a.png"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS) as house:
        yield house


async def create_response(
    client: httpx.AsyncClient, input: Any = "a fox", tool: Any = None, **body: Any
) -> httpx.Response:
    tools = [{"type": "image_generation", "model": IMAGES} | (tool or {})]
    return await client.post(RESPONSES, json={"input": input, "tools": tools} | body)


async def fetch_input(house: House, answer: httpx.Response) -> dict[str, Any]:
    """Input of the request that the call created."""
    assert answer.status_code == 200, answer.text
    return dict((await house.queue.get("default", answer.headers["x-request-id"])).input)


def user(*parts: Any) -> dict[str, Any]:
    """Message of a user. Texts that are URLs are images."""
    content = [
        {"type": "input_image", "image_url": part}
        if part.startswith("https:")
        else {"type": "input_text", "text": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


async def test_a_response_is_a_request_for_an_image(
    house: House, client: httpx.AsyncClient
) -> None:
    tool = {"model": SDXL, "size": "768x512", "quality": "high", "seed": 3}
    answer = await create_response(client, tool=tool, model="gpt-5.5")
    stored_input, body = await fetch_input(house, answer), answer.json()
    assert (stored_input["prompt"], stored_input["seed"]) == ("a fox", 3)
    assert stored_input["image_size"] == {"width": 768, "height": 512}
    assert body["id"] == f"resp_{answer.headers['x-request-id']}"
    assert (body["status"], body["model"]) == ("completed", SDXL)
    (item,) = body["output"]
    assert item["type"] == "image_generation_call"
    assert base64.b64decode(item["result"]) == b"image"
    again = await client.get(f"{RESPONSES}/{body['id']}")
    assert again.json() == body


@pytest.mark.parametrize(
    ("tool", "model", "endpoint", "shown"),
    [
        ({"model": IMAGES}, SDXL, IMAGES, IMAGES),
        ({}, IMAGES, IMAGES, IMAGES),
        ({"model": "gpt-image-2"}, None, SDXL, "gpt-image-2"),
        ({}, "gpt-5.5", SDXL, "gpt-image-1"),  # a text model, which is not here
        ({}, None, SDXL, "gpt-image-1"),
    ],
)
async def test_the_tools_model_counts_then_the_other_one_then_the_default(
    client: httpx.AsyncClient, tool: dict[str, Any], model: str | None, endpoint: str, shown: str
) -> None:
    tools = [{"type": "image_generation", **tool}]
    body = {"input": "x", "tools": tools, "model": model}
    answer = await client.post(RESPONSES, json=body)
    assert answer.headers["x-darkroom-endpoint"] == endpoint
    assert answer.json()["model"] == shown


async def test_messages_are_a_prompt_and_images(house: House, client: httpx.AsyncClient) -> None:
    turns = [
        user("Draw a cat."),
        {"role": "assistant", "content": "Here it is."},
        user("Now with", URL),
        {"type": "message", "role": "user", "content": "a hat"},
    ]
    stored_input = await fetch_input(house, await create_response(client, turns))
    assert (stored_input["prompt"], stored_input["image_url"]) == ("Now with\na hat", URL)
    several = await fetch_input(house, await create_response(client, [user("x", URL, URL)]))
    assert several["image_urls"] == [URL, URL]
    only = {"action": "generate"}
    ignored = await fetch_input(house, await create_response(client, turns, tool=only))
    assert "image_url" not in ignored


async def test_the_image_of_the_previous_response_is_edited(
    house: House, client: httpx.AsyncClient
) -> None:
    first = (await create_response(client, tool={"num_images": 2})).json()
    second = await create_response(
        client, "in winter", tool={"model": SDXL}, previous_response_id=first["id"]
    )
    stored_input = await fetch_input(house, second)
    assert second.headers["x-darkroom-endpoint"] == f"{SDXL}/image-to-image"
    assert stored_input["prompt"] == "in winter"
    assert (await client.get(stored_input["image_url"])).content == b"image"
    assert second.json()["previous_response_id"] == first["id"]
    call = {"type": "image_generation_call", "id": first["output"][1]["id"]}
    by_id = await fetch_input(
        house, await create_response(client, [user("x"), call, user("in winter")])
    )
    assert by_id["image_url"] != stored_input["image_url"]
    assert by_id["prompt"] == "in winter"


async def test_who_waits_for_none_polls_the_response(
    house: House, client: httpx.AsyncClient
) -> None:
    begun = await create_response(client, tool={"sleep_s": 0.3}, background=True)
    assert begun.json()["status"] == "queued"
    assert begun.json()["output"] == []
    url = f"{RESPONSES}/{begun.json()['id']}"
    early = await create_response(client, previous_response_id=begun.json()["id"])
    assert early.status_code == 400
    assert (await client.get(url)).json()["status"] in ("queued", "in_progress")
    await house.queue.wait("default", begun.headers["x-request-id"], 10)
    shown = (await client.get(url)).json()
    assert base64.b64decode(shown["output"][0]["result"]) == b"image"


async def test_a_response_is_cancelled_and_then_deleted(
    house: House, client: httpx.AsyncClient
) -> None:
    begun = (await create_response(client, tool={"sleep_s": 60}, background=True)).json()
    url = f"{RESPONSES}/{begun['id']}"
    active = await client.delete(url)
    assert (active.status_code, active.json()["error"]["code"]) == (400, "request_active")
    cancelled = await client.post(f"{url}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    again = await client.post(f"{url}/cancel")
    assert again.json() == cancelled.json()
    deleted = await client.delete(url)
    assert deleted.json() == {"id": begun["id"], "object": "response", "deleted": True}
    for answer in (
        await client.get(url),
        await client.delete(url),
        await client.post(f"{url}/cancel"),
    ):
        assert answer.status_code == 404


async def test_a_response_that_has_ended_is_not_cancelled(client: httpx.AsyncClient) -> None:
    created = (await create_response(client)).json()
    assert (await client.post(f"{RESPONSES}/{created['id']}/cancel")).json() == created


async def test_a_failure_is_an_error_or_the_end_of_its_stream(client: httpx.AsyncClient) -> None:
    orders = {"fail": "pipeline_failed", "message": "Boom."}
    answer = await create_response(client, tool=orders)
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "Boom.")
    shown = (await client.get(f"{RESPONSES}/resp_{answer.headers['x-request-id']}")).json()
    error = {"code": "server_error", "message": "Boom."}
    assert (shown["status"], shown["error"], shown["output"]) == ("failed", error, [])
    streamed = await create_response(client, tool=orders, stream=True)
    lines = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    last = json.loads(lines[-1])
    assert (last["type"], last["response"]["error"]) == ("response.failed", error)
    none = await create_response(client, previous_response_id=shown["id"])
    assert (none.status_code, none.json()["error"]["param"]) == (400, "previous_response_id")


async def test_a_request_that_made_no_image_is_no_response(client: httpx.AsyncClient) -> None:
    submitted = await client.post("/run/test/probe", json={})
    assert submitted.status_code == 200, submitted.text
    name = f"resp_{submitted.headers['x-fal-request-id']}"
    assert (await client.get(f"{RESPONSES}/{name}")).status_code == 404
    edited = await create_response(client, previous_response_id=name)
    assert edited.status_code == 404


ITEM = {"type": "function_call_output", "output": "x"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": None}, "tools"),
        ({"tools": [{"type": "image_generation"}] * 2}, "tools"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"tool": {"size": "large"}}, "size"),
        ({"tool": {"action": "paint"}}, "tools.0.action"),
        ({"tool": {"action": "edit"}}, "tools.0.action"),
        ({"tool": {"input_image_mask": {"image_url": URL}}}, "tools.0.input_image_mask"),
        ({"instructions": "Be kind."}, "instructions"),
        ({"temperature": 0.5}, "temperature"),
        ({"store": False}, "store"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"background": True, "stream": True}, "background"),
        ({"input": [ITEM]}, "input.0.type"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{"role": "system", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input.0.content.0.type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
            "input.0.content.0.image_url",
        ),
        ({"input": [{"type": "image_generation_call", "id": "x"}]}, "input.0.id"),
    ],
)
async def test_what_is_not_about_images_is_refused_by_name(
    house: House, client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await create_response(client, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert house.replica.ran == []


async def test_what_changes_nothing_about_images_is_taken(client: httpx.AsyncClient) -> None:
    more = {"parallel_tool_calls": False, "user": "me", "store": True, "temperature": None}
    answer = await create_response(client, tool_choice={"type": "image_generation"}, **more)
    assert answer.status_code == 200, answer.text


async def test_only_requests_for_images_are_responses(client: httpx.AsyncClient) -> None:
    video = await client.post("/openai/v1/videos", json={"prompt": "x", "model": "test/videos"})
    for response_id in (f"resp_{video.json()['id']}", "resp_x"):
        url = f"{RESPONSES}/{response_id}"
        for call in (client.get(url), client.delete(url), client.post(f"{url}/cancel")):
            answer = await call
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "request_not_found"
        again = await create_response(client, previous_response_id=response_id)
        assert again.status_code == 404
