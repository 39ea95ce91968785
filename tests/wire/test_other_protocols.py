"""The other protocols on a real cluster: through its proxy, over PostgreSQL, with a real model."""

from __future__ import annotations

import base64
import io

import httpx2
import openai
import pytest
import replicate
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ImageContent
from PIL import Image

from tests.cluster.darkroom import Darkroom

pytestmark = [pytest.mark.cluster, pytest.mark.wire]

FLUX = "fal-ai/flux/schnell"
PROMPT = "a red circle on a white background"


def size_of(image: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(image)) as opened:
        return opened.size


def test_openai_draws_with_partial_images(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    base_url = f"{darkroom.url}/openai/v1"
    with (
        openai.OpenAI(base_url=base_url, api_key=darkroom.key, max_retries=0) as client,
        client.images.generate(
            model=FLUX,
            prompt=PROMPT,
            size="128x128",
            stream=True,
            partial_images=1,
            extra_body={"num_inference_steps": 12},
        ) as stream,
    ):
        *partial, last = stream
    assert len(partial) <= 1
    assert last.type == "image_generation.completed"
    assert size_of(base64.b64decode(last.b64_json)) == (128, 128)
    assert last.size == "128x128"


def test_replicate_searches_and_runs(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    client = replicate.Client(api_token=darkroom.key, base_url=f"{darkroom.url}/replicate")
    assert "fal-ai/flux-schnell" in {model.id for model in client.models.search("schnell")}
    outputs = client.run(
        "black-forest-labs/flux-schnell",
        {"prompt": PROMPT, "image_size": {"width": 128, "height": 128}, "sync_mode": True},
    )
    assert size_of(outputs[0].read()) == (128, 128)
    client._client.close()


@pytest.mark.long
async def test_an_assistant_sees_the_image(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    headers = {"Authorization": f"Bearer {darkroom.key}"}
    size = {"width": 128, "height": 128}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{darkroom.url}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool(
            "generate", {"model": FLUX, "input": {"prompt": PROMPT, "image_size": size}}
        )
    (image,) = [block for block in result.content if isinstance(block, ImageContent)]
    assert size_of(base64.b64decode(image.data)) == (128, 128)
