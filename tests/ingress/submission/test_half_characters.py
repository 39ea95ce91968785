"""Half of a surrogate pair in the output of an app, which no encoding has, in each protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgpack
import pytest

from serve_app.catalog.catalog import load
from serve_app.ingress.realtime.codec import pack
from tests.ingress.house import DEMO, House, build_house
from tests.ingress.replicate.test_webhooks import wait_until_delivered
from tests.webhooks.receiver import Receiver

SOUNDS = load(Path(__file__).parents[1] / "openai" / "sounds.yaml", demo=True, demo_dir=DEMO)
OUTPUT = json.dumps(
    {"text": "half \ud83e", "chunks": [{"timestamp": [0, 1], "text": "\ud83e"}], "\ud83e": 1}
)
MCP = {"accept": "application/json, text/event-stream"}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(
        catalog=SOUNDS, deliver=True, allow_private_webhooks=True, webhook_waits_s=(0.0,)
    ) as house:
        yield house


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_openai_s_transcripts_have_a_question_mark(
    client: httpx.AsyncClient, format: str
) -> None:
    form = {
        "file": ("a.mp3", b"sound"),
        "output": (None, OUTPUT),
        "response_format": (None, format),
    }
    answer = await client.post("/openai/v1/audio/transcriptions", files=form)
    assert (answer.status_code, "?" in answer.text) == (200, True)


async def test_a_tool_of_mcp_has_a_question_mark(client: httpx.AsyncClient) -> None:
    arguments = {"model": "test/heard", "input": {"output": OUTPUT}}
    tool = {"name": "generate", "arguments": arguments}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
    answer = await client.post("/mcp", json=call, headers=MCP)
    result = json.loads(answer.text.partition("data: ")[2])["result"]
    assert result["structuredContent"]["output"]["text"] == "half ?"


async def test_replicate_s_webhook_has_a_question_mark(client: httpx.AsyncClient) -> None:
    async with Receiver() as receiver:
        body = {
            "input": {"output": OUTPUT},
            "webhook": receiver.url(),
            "webhook_events_filter": ["completed"],
        }
        made = await client.post("/replicate/v1/models/test/heard/predictions", json=body)
        await wait_until_delivered(client, made.json()["id"])
    assert json.loads(receiver.received[0].body)["output"]["text"] == "half ?"


def test_a_frame_of_a_realtime_session_has_a_question_mark() -> None:
    assert msgpack.unpackb(pack({"text": "half \ud83e"})) == {"text": "half ?"}
