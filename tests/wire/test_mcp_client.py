"""The official Python client of the Model Context Protocol, unmodified, against Darkroom: with the
present revision, and with the older ones that have a handshake."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import httpx2
import jsonschema
import pytest
from mcp import Client, ClientSession, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    GetTaskRequestParams,
    ImageContent,
    Request,
    ResourceLink,
    Result,
    TextContent,
)

from serve_app.domain.json_depth import MAX_DEPTH
from serve_app.ingress.mcp.content import MAX_INLINE_BYTES
from serve_app.ingress.mcp.tasks import EXTENSION
from serve_app.telemetry.version import package_version
from tests.contract.waiting import eventually
from tests.ingress.house import OTHERS
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

IMAGES, AUDIOS, VIDEOS = "test/images", "test/audio", "test/videos"
PROBE = "test/probe"
FLUX = "fal-ai/flux/schnell"
MODERN = "2026-07-28"


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


@pytest.fixture(params=[MODERN, "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def connect(
    address: Address, mode: str, key: str | None = None, *extensions: ClientExtension
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key or address.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{address.url}/mcp", http_client=http)
        async with Client(transport, mode=mode, extensions=extensions) as client:
            yield client


def kinds(result: CallToolResult) -> list[str]:
    return [block.type for block in result.content]


def text(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


class TaskHandle(Result):
    """What a client of the extension for tasks gets in place of a result. The SDK has none."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    status_message: str
    ttl_ms: int | None
    poll_interval_ms: int


class TaskStatus(Result):
    status: str
    status_message: str
    result: CallToolResult | None = None


class TaskRequest(Request[GetTaskRequestParams, str]):
    name_param = "taskId"


class Tasks(ClientExtension):
    """Client of the extension, which polls a task to its end."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.seen: list[str] = []

    def claims(self) -> list[ResultClaim[TaskHandle]]:
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=self.resolve)]

    async def resolve(self, handle: TaskHandle, context: ClaimContext) -> CallToolResult:
        self.seen.append(handle.status)
        while True:
            task = await ask_task(context.session, "tasks/get", handle.task_id)
            self.seen.append(task.status)
            if task.status == "completed":
                assert task.result is not None
                return task.result
            await asyncio.sleep(0.05)


async def ask_task(session: ClientSession, method: str, task_id: str) -> TaskStatus:
    request = TaskRequest(method=method, params=GetTaskRequestParams(task_id=task_id))
    return await session.send_request(request, TaskStatus)


async def begin_task(client: Client) -> TaskHandle:
    """Task of a request that takes a minute."""
    arguments = {"model": IMAGES, "input": {"sleep_s": 60}, "wait_s": 0}
    handle = await client.session.call_tool("generate", arguments, allow_claimed=True)
    assert isinstance(handle, TaskHandle)
    return handle


async def test_what_takes_longer_is_a_task_for_a_client_that_polls(address: Address) -> None:
    tasks = Tasks()
    async with connect(address, "auto", None, tasks) as client:
        assert client.server_capabilities is not None
        assert EXTENSION in (client.server_capabilities.extensions or {})
        orders = {"model": IMAGES, "input": {"sleep_s": 0.5, "steps": 2}}
        generated = await client.call_tool("generate", {**orders, "wait_s": 0})
        again = await client.call_tool(
            "wait", {"request_id": generated.structured_content["request_id"]}
        )
        failing = {"model": IMAGES, "input": {"sleep_s": 0.3, "fail": "pipeline_failed"}}
        failed = await client.call_tool("generate", {**failing, "wait_s": 0})
    assert kinds(generated) == kinds(again) == ["text", "image", "resource_link"]
    assert tasks.seen[0] == tasks.seen[1] == "working"
    assert failed.is_error, "it is the tool's error, not the protocol's"


async def test_a_task_is_cancelled(address: Address) -> None:
    async with connect(address, MODERN, None, Tasks()) as client:
        handle = await begin_task(client)
        assert (handle.status, handle.ttl_ms) == ("working", None)
        assert handle.poll_interval_ms > 0
        for method in ("tasks/update", "tasks/cancel"):
            named = GetTaskRequestParams(task_id=handle.task_id)
            await client.session.send_request(TaskRequest(method=method, params=named), Result)

        async def cancelled() -> bool:
            task = await ask_task(client.session, "tasks/get", handle.task_id)
            return task.status == "cancelled" and "ancelled" in task.status_message

        await eventually(cancelled)


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_tasks_are_for_their_tenant_and_for_clients_that_take_them(
    address: Address, method: str
) -> None:
    async with connect(address, MODERN, None, Tasks()) as client:
        handle = await begin_task(client)
        with pytest.raises(MCPError, match="There is no task nothing") as unknown:
            await ask_task(client.session, method, "nothing")
    async with connect(address, MODERN, address.other_key, Tasks()) as other:
        with pytest.raises(MCPError, match="There is no task") as foreign:
            await ask_task(other.session, method, handle.task_id)
    assert unknown.value.code == foreign.value.code == INVALID_PARAMS
    async with connect(address, MODERN) as plain:
        with pytest.raises(MCPError) as refused:
            await ask_task(plain.session, method, handle.task_id)
        assert refused.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
        assert refused.value.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        await plain.call_tool("cancel", {"request_id": handle.task_id})
    async with connect(address, "legacy") as old:
        with pytest.raises(MCPError) as absent:
            await ask_task(old.session, method, handle.task_id)
        assert absent.value.code == METHOD_NOT_FOUND
        assert not (old.server_capabilities and old.server_capabilities.extensions)


async def test_the_tools_are_listed_with_their_schemas(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        tools = {offered.name: offered for offered in (await client.list_tools()).tools}
    assert set(tools) == {
        "list_models",
        "describe_model",
        "generate",
        "wait",
        "cancel",
        "get_result",
    }
    for tool in tools.values():
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert tool.description
    assert tools["generate"].input_schema["required"] == ["model", "input"]


async def test_the_handshake_says_the_version_of_the_server(address: Address) -> None:
    async with connect(address, "legacy") as client:  # the present revision has no handshake
        assert client.server_info is not None
        assert client.server_info.version == package_version()
        offered = client.server_capabilities
        assert offered is not None
        assert offered.tools is not None
        assert (offered.resources, offered.prompts) == (None, None)


async def test_wrong_arguments_are_told_with_those_that_there_are(
    address: Address, mode: str
) -> None:
    async with connect(address, mode) as client:
        wrong = {"modle": IMAGES, "prompt": "x", "wait_s": 1000}
        result = await client.call_tool("generate", wrong)
    assert result.is_error
    message = text(result)
    assert "`model` is missing; `input` is missing" in message
    assert "there is no `modle` (did you mean `model`?)" in message
    assert "there is no `prompt`" in message
    assert "`wait_s`: Input should be less than or equal to 600" in message
    assert "It takes `model` (required), `input` (required), `wait_s`." in message


async def test_many_wrong_arguments_are_answered_with_a_few_of_them(
    address: Address, mode: str
) -> None:
    async with connect(address, mode) as client:
        some = await client.call_tool("generate", {f"wait{number}": 1 for number in range(50)})
        many = await client.call_tool("generate", {f"wait{number}": 1 for number in range(5000)})
    assert some.is_error
    assert text(some).count("there is no") < 10
    assert "was called with 5000 arguments. It takes `model`, `input`" in text(many)


async def test_a_null_character_in_an_input_is_reported_with_its_field(
    address: Address, mode: str
) -> None:
    async with connect(address, mode) as client:
        wish = {"model": IMAGES, "input": {"prompt": "a\0b"}}
        result = await client.call_tool("generate", wish)
    assert result.is_error
    assert "input.prompt: Input should not contain NUL" in text(result)


async def test_an_input_may_be_as_deep_as_elsewhere_and_no_deeper(
    address: Address, mode: str
) -> None:
    deep: list[Any] = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    async with connect(address, mode) as client:
        # The list begins one level below the input.
        fits = await client.call_tool("generate", {"model": PROBE, "input": {"echo": deep[0][0]}})
        refused = await client.call_tool("generate", {"model": PROBE, "input": {"echo": deep}})
    assert not fits.is_error
    assert refused.is_error
    assert f"more than {MAX_DEPTH} lists and objects" in text(refused)


async def test_a_model_is_found_and_described(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        listing = await client.call_tool("list_models", {"query": "flux schnell"})
        assert [model["model"] for model in listing.structured_content["models"]] == [FLUX]
        result = await client.call_tool("describe_model", {"model": FLUX})
        alias = await client.call_tool("describe_model", {"model": "gpt-image-1"})
    schema = result.structured_content["input_schema"]
    assert schema["properties"]["num_inference_steps"]["maximum"] == 12
    assert json.loads(text(result)) == result.structured_content
    assert alias.structured_content["model"] == "fal-ai/fast-sdxl"


async def test_an_image_is_shown_and_linked_and_progress_is_reported(
    address: Address, mode: str
) -> None:
    reported: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async with connect(address, mode) as client:
        result = await client.call_tool(
            "generate",
            {"model": IMAGES, "input": {"prompt": "x", "sleep_s": 0.4, "steps": 4}},
            progress_callback=on_progress,
        )
    assert not result.is_error
    assert kinds(result) == ["text", "image", "resource_link"]
    _, image, link = result.content
    assert isinstance(image, ImageContent)
    assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", b"image")
    assert isinstance(link, ResourceLink)
    async with httpx.AsyncClient() as plain:
        assert (await plain.get(str(link.uri))).content == b"image"
    assert result.structured_content["state"] == "succeeded"
    assert result.structured_content["output"]["images"][0]["url"] == str(link.uri)
    assert [update[0] for update in reported] == sorted({update[0] for update in reported}), (
        "it has to grow"
    )
    assert any(message and message.startswith("denoising") for _, _, message in reported)


async def test_audio_files_are_played_videos_are_linked(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        audio = await client.call_tool("generate", {"model": AUDIOS, "input": {"prompt": "x"}})
        video = await client.call_tool("generate", {"model": VIDEOS, "input": {"prompt": "x"}})
    assert kinds(audio) == ["text", "audio", "resource_link"]
    assert isinstance(audio.content[1], AudioContent)
    assert kinds(video) == ["text", "resource_link"]


async def test_what_is_too_large_for_a_conversation_is_linked_only(
    address: Address, mode: str
) -> None:
    orders = {"num_images": 2, "content": "x" * (MAX_INLINE_BYTES // 2 + 1)}
    async with connect(address, mode) as client:
        result = await client.call_tool("generate", {"model": IMAGES, "input": orders})
    assert kinds(result) == ["text", "image", "resource_link", "resource_link"]


async def test_images_inside_the_answer_do_not_go_into_the_text(
    address: Address, mode: str
) -> None:
    async with connect(address, mode) as client:
        result = await client.call_tool(
            "generate", {"model": IMAGES, "input": {"prompt": "x", "sync_mode": True}}
        )
    assert "base64" not in text(result)


async def test_an_image_without_a_size_gives_the_output_its_shape(
    address: Address, mode: str
) -> None:
    model_input = {"prompt": "x", "image_url": "https://example.org/cat.png"}
    async with connect(address, mode) as client:
        model = "fal-ai/fast-sdxl/image-to-image"
        done = await client.call_tool("generate", {"model": model, "input": model_input})
    async with httpx2.AsyncClient(headers={"Authorization": f"Key {address.key}"}) as plain:
        request_id = done.structured_content["request_id"]
        shown = (await plain.get(f"{address.url}/v1/requests/{request_id}")).json()
    assert shown["input"]["image_size"] == "auto"


@pytest.mark.long
async def test_what_takes_longer_than_the_call_may_wait_is_waited_for(
    address: Address, mode: str
) -> None:
    async with connect(address, mode) as client:
        begun = await client.call_tool(
            "generate", {"model": IMAGES, "input": {"sleep_s": 1, "steps": 2}, "wait_s": 0}
        )
        request_id = begun.structured_content["request_id"]
        assert not begun.is_error
        assert "has not ended" in text(begun)
        early = await client.call_tool("get_result", {"request_id": request_id})
        assert early.structured_content["state"] in ("queued", "running")
        ended = await client.call_tool("wait", {"request_id": request_id})
        again = await client.call_tool("get_result", {"request_id": request_id})
    assert kinds(ended) == kinds(again) == ["text", "image", "resource_link"]


async def test_a_request_is_cancelled(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        begun = await client.call_tool(
            "generate", {"model": IMAGES, "input": {"sleep_s": 60}, "wait_s": 0}
        )
        named = {"request_id": begun.structured_content["request_id"]}
        verdict = await client.call_tool("cancel", named)
        assert verdict.structured_content["verdict"] in ("cancelled", "requested")
        ended = await client.call_tool("wait", named)
        assert ended.is_error
        assert ended.structured_content["state"] == "cancelled"
        twice = await client.call_tool("cancel", named)
    assert "already ended" in text(twice)


async def test_a_call_that_is_given_up_cancels_what_it_began(address: Address, mode: str) -> None:
    began = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        if message and message.startswith("denoising"):
            began.set()

    async def call() -> None:
        async with connect(address, mode) as client:
            orders = {"sleep_s": 60, "echo": mode}
            await client.call_tool(
                "generate", {"model": IMAGES, "input": orders}, progress_callback=on_progress
            )

    calling = asyncio.create_task(call())
    await asyncio.wait_for(began.wait(), 20)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert await ended_state(address, echo=mode) == "cancelled"


async def ended_state(address: Address, echo: str) -> str:
    """State of the newest request with this echo."""
    headers = {"Authorization": f"Bearer {address.key}"}
    async with httpx.AsyncClient(base_url=address.url, headers=headers) as client:
        for request in (await client.get("/v1/requests")).json()["requests"]:
            shown = (await client.get(f"/v1/requests/{request['request_id']}")).json()
            while shown["input"].get("echo") == echo:
                if shown["finished_at"]:
                    return str(shown["state"])
                query = {"wait": 10, "since": shown["version"]}
                url = f"/v1/requests/{request['request_id']}"
                shown = (await client.get(url, params=query, timeout=20)).json()
    raise AssertionError(f"no request says {echo}")


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("generate", {"model": FLUX}, "`input` is missing"),
        ("generate", {"model": FLUX, "input": {}}, "prompt: Field required"),
        ("generate", {"model": FLUX, "input": {"prompt": "x", "num_images": 9}}, "num_images"),
        ("generate", {"model": "fal-ai/flux/schnel", "input": {}}, "Did you mean"),
        ("generate", {"model": "test/unserved", "input": {}}, "is not served here"),
        ("generate", {"model": FLUX, "input": {"prompt": "x"}, "wait_s": 9000}, "wait_s"),
        ("generate", {"model": FLUX, "input": {"prompt": "x"}, "seed": 1}, "seed"),
        ("describe_model", {"model": "nobody/nothing"}, "nobody/nothing"),
        ("list_models", {"query": "a " * 501}, "at most 1000 characters"),
        ("wait", {"request_id": "nothing"}, "There is no request nothing"),
        ("cancel", {}, "`request_id` is missing"),
        (
            "generate",
            {"model": IMAGES, "input": {"fail": "pipeline_failed", "message": "Boom."}},
            "failed: Boom.",
        ),
    ],
)
async def test_mistakes_are_results_that_say_so(
    address: Address, mode: str, tool: str, arguments: dict[str, Any], words: str
) -> None:
    async with connect(address, mode) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert words in text(result)
    assert result.structured_content["error"]["message"]


async def test_a_tool_that_is_not_there_is_named(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        with pytest.raises(MCPError, match="There is no tool paint"):
            await client.call_tool("paint", {})


@pytest.mark.long
async def test_another_tenants_request_is_not_there(address: Address, mode: str) -> None:
    async with connect(address, mode) as client:
        result = await client.call_tool("generate", {"model": IMAGES, "input": {}})
    async with connect(address, mode, address.other_key) as other:
        named = {"request_id": result.structured_content["request_id"]}
        assert (await other.call_tool("get_result", named)).is_error


async def test_without_a_good_key_there_is_nothing(address: Address) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx.AsyncClient(base_url=address.url) as client:
        answer = await client.post("/mcp", json=call)
        bad = await client.post("/mcp", json=call, headers={"Authorization": "Bearer no:key"})
        got = await client.get("/mcp")
    assert (answer.status_code, bad.status_code) == (401, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert got.status_code == 405, "there is no stream beside the calls' own"


async def test_a_body_of_another_type_gets_an_error_of_the_protocol(address: Address) -> None:
    async with httpx.AsyncClient(base_url=address.url) as client:
        answer = await client.post("/mcp", headers={"Authorization": f"Key {address.key}"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32_600
