"""The servers that stand for OpenAI and Replicate are what those providers' own clients expect."""

from __future__ import annotations

import base64

import openai
import pytest
import replicate
from replicate.exceptions import ReplicateError

from tests.fakes.openai_server import OpenAiServer
from tests.fakes.provider_server import KEY, PNG
from tests.fakes.replicate_server import ReplicateServer

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


async def test_openais_client_makes_images_and_videos() -> None:
    server = OpenAiServer()
    base_url = f"{await server.start()}/v1"
    try:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            response = await client.images.generate(model="gpt-image-1", prompt="x", n=2)
            encoded = [str(image.b64_json) for image in response.data or ()]
            assert [base64.b64decode(text) for text in encoded] == [PNG] * 2
            body = {"num_images": 2}
            with pytest.raises(openai.BadRequestError) as raised:
                await client.images.generate(model="gpt-image-1", prompt="x", extra_body=body)
            assert raised.value.param == "num_images"
            video = await client.videos.create(model="sora-2", prompt="x", seconds="4")
            retrieved = await client.videos.retrieve(video.id)
            assert (retrieved.status, retrieved.seconds) == ("completed", "4")
            listed = await client.videos.list(limit=1)
            assert listed.data[0].prompt == "x"
            content = await client.videos.download_content(video.id)
            assert content.content == b"a film"
    finally:
        await server.aclose()


async def test_replicates_client_follows_lists_and_cancels_predictions() -> None:
    server = ReplicateServer()
    server.holds = True
    client = replicate.Client(api_token=KEY, base_url=await server.start())
    try:
        prediction = await client.predictions.async_create(
            model="owner/model", input={"prompt": "x"}
        )
        assert (prediction.status, prediction.input) == ("processing", {"prompt": "x"})
        server.page = 1
        await client.predictions.async_create(model="owner/model", input={"prompt": "y"})
        page = await client.predictions.async_list()
        assert [result.input for result in page.results] == [{"prompt": "y"}]
        assert page.next is not None
        await prediction.async_cancel()
        await prediction.async_reload()
        assert prediction.status == "canceled"
        with pytest.raises(ReplicateError):
            await client.predictions.async_get("nothing")
    finally:
        await server.aclose()
