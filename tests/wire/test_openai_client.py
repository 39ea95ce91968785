"""OpenAI's own Python client, unmodified, against Darkroom."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Image as OpenAiImage
from openai.types import ImageEditStreamEvent, ImagesResponse, Model
from openai.types.audio import TranscriptionVerbose
from openai.types.responses import Response
from PIL import Image

from serve_app.catalog.catalog import load
from tests.ingress.house import DEMO, OTHERS
from tests.ingress.openai.test_audio import HEARD, SOUNDS, SRT, VTT
from tests.ingress.replica import PREVIEW
from tests.wire.served import Address, serve

pytestmark = [
    pytest.mark.wire,
    # The client's warning about the hosted service's video calls.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),  # variations
]

IMAGES, SDXL, VIDEOS = "test/images", "fal-ai/fast-sdxl", "test/videos"


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


@pytest.fixture
def client(address: Address) -> Iterator[openai.OpenAI]:
    base_url = f"{address.url}/openai/v1"
    with openai.OpenAI(base_url=base_url, api_key=address.key, max_retries=0) as client:
        yield client


def image() -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(file, "PNG")
    file.name = "red.png"
    file.seek(0)
    return file


def validated_images(answer: ImagesResponse) -> list[OpenAiImage]:
    """Images of a response that matches the client's own types."""
    ImagesResponse.model_validate(answer.model_dump(), strict=True)
    assert answer.data is not None
    return answer.data


def test_an_image_from_a_prompt(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model=SDXL, prompt="a red circle", n=2, size="1024x1024", quality="high"
    )
    images = validated_images(answer)
    assert [base64.b64decode(picture.b64_json or "") for picture in images] == [b"image"] * 2
    assert all((picture.url or "").startswith("http://127.0.0.1:") for picture in images)


async def test_an_image_from_a_prompt_async(address: Address) -> None:
    base_url = f"{address.url}/openai/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=address.key) as client:
        answer = await client.images.generate(prompt="x", response_format="url")
    assert validated_images(answer)[0].b64_json is None


def test_images_are_edited(client: openai.OpenAI) -> None:
    edited = client.images.edit(model=SDXL, image=image(), prompt="blue", size="auto")
    assert len(validated_images(edited)) == 1
    several = client.images.edit(model=IMAGES, image=[image(), image()], prompt="blue", n=3)
    assert len(validated_images(several)) == 3


def test_a_variation_of_an_image(client: openai.OpenAI) -> None:
    variation = client.images.create_variation(image=image(), model=SDXL, n=2, size="512x512")
    assert len(validated_images(variation)) == 2


def fetch_input(address: Address, request_id: str) -> dict[str, Any]:
    """Input of a request of this id, which other protocols show."""
    key = {"Authorization": f"Bearer {address.key}"}
    shown = httpx.get(f"{address.url}/replicate/v1/predictions/{request_id}", headers=key)
    return shown.json()["input"]


def test_an_edit_has_fields_of_the_endpoint_of_any_type(
    client: openai.OpenAI, address: Address
) -> None:
    more: dict[str, Any] = {
        "seed": 5,
        "strength": 0.5,
        "sync_mode": True,
        "image_size": {"width": 512, "height": 256},
        "loras": [
            {"path": "https://a.test/a.safetensors", "scale": 0.5},
            {"path": "https://a.test/b.safetensors", "scale": 2},
        ],
    }
    response = client.images.with_raw_response.edit(
        model=SDXL, image=image(), prompt="blue", extra_body=more
    )
    sent_input = fetch_input(address, response.headers["x-request-id"])
    loras = [{name: lora[name] for name in ("path", "scale")} for lora in sent_input["loras"]]
    assert {**{name: sent_input[name] for name in more}, "loras": loras} == more
    more["loras"][0].pop("scale")
    with pytest.raises(openai.BadRequestError, match="send all of them in each item") as refused:
        client.images.edit(model=SDXL, image=image(), prompt="blue", extra_body=more)
    assert refused.value.param == "loras"


def test_partial_images_come_before_the_image(client: openai.OpenAI) -> None:
    orders: dict[str, Any] = {"sleep_s": 3, "steps": 6}
    with client.images.generate(
        model=IMAGES, prompt="x", stream=True, partial_images=2, extra_body=orders
    ) as stream:
        events = list(stream)
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
    *partial, last = events
    assert [preview.type for preview in partial] == ["image_generation.partial_image"] * 2
    assert [getattr(preview, "partial_image_index", None) for preview in partial] == [0, 1]
    assert all(base64.b64decode(preview.b64_json) == PREVIEW for preview in partial)
    assert last.type == "image_generation.completed"
    assert base64.b64decode(last.b64_json) == b"image"


@pytest.mark.parametrize("in_json", [False, True])
def test_partial_images_of_an_edit_come_to_forms_and_json_alike(
    client: openai.OpenAI, in_json: bool
) -> None:
    more: dict[str, Any] = {"sleep_s": 3, "steps": 6}
    uri = f"data:image/png;base64,{base64.b64encode(image().read()).decode()}"
    if in_json:
        body = {"model": IMAGES, "prompt": "x", "stream": True, "partial_images": 2, "image": uri}
        events = list(
            client.post(
                "/images/edits",
                body=body | more,
                cast_to=ImagesResponse,
                stream=True,
                stream_cls=openai.Stream[ImageEditStreamEvent],
            )
        )
    else:
        images = [image(), image()]
        stream = client.images.edit(
            model=IMAGES,
            image=images,
            prompt="x",
            stream=True,
            partial_images=2,
            extra_body={"sleep_s": "3", "steps": "6"},
        )
        events = list(stream)
    types = [event.type for event in events]
    assert types == [*["image_edit.partial_image"] * 2, "image_edit.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]


def test_sixteen_images_are_edited_at_once(client: openai.OpenAI, address: Address) -> None:
    images = [image() for _ in range(16)]
    response = client.images.with_raw_response.edit(model=IMAGES, image=images, prompt="x")
    by_form = fetch_input(address, response.headers["x-request-id"])["image_urls"]
    in_json = {"model": IMAGES, "prompt": "x", "image": by_form}
    again = client.post("/images/edits", body=in_json, cast_to=httpx.Response)
    assert len(by_form) == 16
    assert fetch_input(address, again.headers["x-request-id"])["image_urls"] == by_form
    with pytest.raises(openai.BadRequestError):
        client.images.edit(model=IMAGES, image=[*images, image(), image()], prompt="x")


async def test_a_stream_without_partial_images_is_the_image_alone(address: Address) -> None:
    base_url = f"{address.url}/openai/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=address.key) as client:
        stream = await client.images.edit(model=IMAGES, image=image(), prompt="x", stream=True, n=2)
        assert [event.type async for event in stream] == ["image_edit.completed"] * 2


@pytest.mark.long
def test_who_closes_a_stream_cancels_its_request(client: openai.OpenAI, address: Address) -> None:
    # The first partial image comes after a quarter of the time; the rest is there to cancel it in.
    orders: dict[str, Any] = {"sleep_s": 40, "steps": 400}
    stream = client.images.generate(
        model=IMAGES, prompt="x", stream=True, partial_images=3, extra_body=orders
    )
    request_id = stream.response.headers["x-request-id"]
    assert next(iter(stream)).type == "image_generation.partial_image"
    stream.close()
    headers = {"Authorization": f"Bearer {address.key}"}
    url, version = f"{address.url}/v1/requests/{request_id}", ""
    end = time.monotonic() + 60
    while True:
        shown = httpx.get(f"{url}?wait=5&since={version}", headers=headers, timeout=60).json()
        version = shown["version"]
        if shown["state"] != "running" or time.monotonic() > end:
            break
    assert shown["state"] == "cancelled"


def test_a_failure_in_a_stream_is_raised(client: openai.OpenAI) -> None:
    orders: dict[str, Any] = {"sleep_s": 0.2, "fail": "pipeline_failed", "message": "Boom."}
    stream = client.images.generate(model=IMAGES, prompt="x", stream=True, extra_body=orders)
    with pytest.raises(openai.APIError, match="Boom") as caught:
        list(stream)
    assert caught.value.code == "pipeline_failed"


def test_errors_are_the_clients_own(client: openai.OpenAI, address: Address) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model=SDXL, prompt="x", n=9)
    assert (refused.value.param, refused.value.code) == ("n", "invalid_input")
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError, match="Did you mean fal-ai/fast-sdxl"):
        client.images.generate(model="fal-ai/fast-sdx", prompt="x")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="no:key").models.list()
    with pytest.raises(openai.InternalServerError, match="Boom"):
        client.with_options(max_retries=3).images.generate(
            model=IMAGES, prompt="x", extra_body={"fail": "pipeline_failed", "message": "Boom."}
        )


def test_a_video_from_the_queue_to_its_file(client: openai.OpenAI) -> None:
    video = client.videos.create(
        model=VIDEOS, prompt="a red circle", extra_body={"sleep_s": 0.5, "steps": 5}
    )
    assert (video.object, video.status) == ("video", "queued")
    seen: set[int] = set()
    while video.status in ("queued", "in_progress"):
        seen.add(video.progress)
        video = client.videos.retrieve(video.id)
    assert video.status == "completed"
    assert video.progress == 100
    assert video.prompt == "a red circle"
    assert any(0 < progress < 100 for progress in seen), seen
    assert client.videos.download_content(video.id).read() == b"image"
    with pytest.raises(openai.NotFoundError, match="no thumbnail"):
        client.videos.download_content(video.id, variant="thumbnail")
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_a_video_has_fields_of_its_app_of_any_type(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"seed": 5, "loop": True, "names": ["a"], "camera": {"angle": 0.5}}
    properties = {
        "prompt": {"type": "string"},
        "image_url": {"type": "string"},
        "seed": {"type": "integer"},
        "loop": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "camera": {"type": "object", "properties": {"angle": {"type": "number"}}},
    }
    options = {
        "input_schema": {"type": "object", "properties": properties},
        "output_schema": {"type": "object"},
    }
    app = {"family": "probe", "schema": "json", "category": "image-to-video", "options": options}
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"built_in": False, "endpoints": {"apps/video": app}}))
    catalog = load(models, demo=True, demo_dir=DEMO)
    with serve(catalog=catalog) as address:
        base_url = f"{address.url}/openai/v1"
        with openai.OpenAI(base_url=base_url, api_key=address.key, max_retries=0) as client:
            linked = fields | {"input_reference": {"image_url": "https://a.test/a.png"}}
            for video in (
                client.videos.create(
                    model="apps/video", prompt="x", input_reference=image(), extra_body=fields
                ),
                client.videos.create(model="apps/video", prompt="x", extra_body=linked),
            ):
                sent_input = fetch_input(address, video.id)
                assert {name: sent_input[name] for name in fields} == fields
                assert sent_input["image_url"].startswith(("data:image/png", "https://a.test/"))


def test_a_video_from_an_image_and_one_that_fails(client: openai.OpenAI) -> None:
    video = client.videos.create_and_poll(model=VIDEOS, prompt="x", input_reference=image())
    assert video.status == "completed"
    failed = client.videos.create_and_poll(
        model=VIDEOS, prompt="x", extra_body={"fail": "pipeline_failed", "message": "Boom."}
    )
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("pipeline_failed", "Boom.")
    with pytest.raises(openai.NotFoundError, match="The request made no video: Boom"):
        client.videos.download_content(failed.id)
    remixed = client.videos.remix(video.id, prompt="in winter")
    assert (remixed.prompt, remixed.remixed_from_video_id) == ("in winter", video.id)
    assert client.videos.retrieve(remixed.id).remixed_from_video_id == video.id
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.videos.edit(prompt="x", video=image())
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.videos.extend(prompt="x", seconds="4", video=image())
    with_thumbnail = client.videos.create_and_poll(
        model=VIDEOS, prompt="x", extra_body={"thumbnails": True}
    )
    thumbnail = client.videos.download_content(with_thumbnail.id, variant="thumbnail")
    assert thumbnail.read() == b"image"
    with pytest.raises(openai.BadRequestError, match="`video` or `thumbnail`"):
        client.videos.download_content(with_thumbnail.id, variant="spritesheet")


def test_videos_are_listed_newest_first_and_page_by_page(client: openai.OpenAI) -> None:
    ids = [client.videos.create(model=VIDEOS, prompt=str(number)).id for number in range(5)]
    client.images.generate(model=IMAGES, prompt="x")
    listed = [video.id for video in client.videos.list(limit=2)]
    assert listed[:5] == ids[::-1]
    assert len(listed) == len(set(listed))


GENERATION: Any = {"type": "image_generation", "model": IMAGES}


def test_a_conversation_makes_and_changes_an_image(client: openai.OpenAI, address: Address) -> None:
    first = client.responses.create(model="gpt-5.5", input="a fox", tools=[GENERATION])
    Response.model_validate(first.model_dump(), strict=True)
    (item,) = first.output
    assert item.type == "image_generation_call"
    assert base64.b64decode(item.result or "") == b"image"
    second = client.responses.create(
        model="gpt-5.5", input="in winter", tools=[GENERATION], previous_response_id=first.id
    )
    assert fetch_input(address, second.id.removeprefix("resp_"))["image_url"].startswith(
        address.url
    )
    uri = f"data:image/png;base64,{base64.b64encode(image().read()).decode()}"
    parts: Any = [
        {"type": "input_text", "text": "blue"},
        {"type": "input_image", "image_url": uri},
    ]
    turn: Any = [{"role": "user", "content": parts}]
    third = client.responses.create(model=IMAGES, input=turn, tools=[GENERATION])
    assert fetch_input(address, third.id.removeprefix("resp_"))["image_url"] == uri
    assert client.responses.retrieve(third.id).output == third.output
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="gpt-5.5", input="Hello", tools=[])
    assert refused.value.param == "tools"


def test_a_response_in_the_background_is_cancelled_and_deleted(client: openai.OpenAI) -> None:
    tool: Any = {**GENERATION, "sleep_s": 60}
    begun = client.responses.create(model="gpt-5.5", input="a fox", tools=[tool], background=True)
    ended = client.responses.cancel(begun.id)
    Response.model_validate(ended.model_dump(), strict=True)
    assert (ended.id, ended.status) == (begun.id, "cancelled")
    with pytest.raises(openai.BadRequestError, match="stream is not supported here"):
        client.responses.retrieve(begun.id, stream=True)  # it was a stream of no events
    client.responses.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)


def test_a_response_streams_partial_images(client: openai.OpenAI) -> None:
    tool = {**GENERATION, "partial_images": 2, "sleep_s": 3, "steps": 6}
    tools: Any = [tool]
    stream = client.responses.create(model="gpt-5.5", input="a fox", tools=tools, stream=True)
    events = list(stream)
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
    assert [update.sequence_number for update in events] == [*range(len(events))]
    call = "response.image_generation_call"
    assert [update.type for update in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        f"{call}.in_progress",
        f"{call}.generating",
        *[f"{call}.partial_image"] * 2,
        f"{call}.completed",
        "response.output_item.done",
        "response.completed",
    ]
    last: Any = events[-1]
    assert base64.b64decode(last.response.output[0].result) == b"image"


@pytest.fixture(scope="module")
def speaking() -> Iterator[openai.OpenAI]:
    """Client of a Darkroom with the apps for speech."""
    with serve(catalog=SOUNDS) as address:
        base_url = f"{address.url}/openai/v1"
        with openai.OpenAI(base_url=base_url, api_key=address.key, max_retries=0) as client:
            yield client


def test_audio_is_transcribed_and_translated(speaking: openai.OpenAI) -> None:
    def file() -> tuple[str, bytes]:
        return "speech.mp3", b"sound"

    order = {"output": json.dumps(HEARD)}
    create = speaking.audio.transcriptions.create
    plain = create(model="gpt-4o-mini-transcribe-2025-12-15", file=file(), extra_body=order)
    assert plain.text == HEARD["text"]
    for model in ("whisper-1", "gpt-transcribe"):
        for name, text in (("text", "Good morning. Bye.\n"), ("srt", SRT), ("vtt", VTT)):
            options: Any = {"model": model, "response_format": name}
            assert create(file=file(), extra_body=order, **options) == text
    timed = create(
        model="whisper-1",
        file=file(),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        extra_body=order,
    )
    TranscriptionVerbose.model_validate(timed.model_dump(), strict=True)
    assert timed.segments is not None
    assert [segment.text for segment in timed.segments] == ["Good morning.", "Bye."]
    words = create(
        model="whisper-1",
        file=file(),
        response_format="verbose_json",
        timestamp_granularities=["word"],
        extra_body=order,
    )
    assert words.words is not None
    assert words.words[0].end == 1.25
    stream = create(model="gpt-4o-transcribe", file=file(), stream=True, extra_body=order)
    assert [event.type for event in stream] == ["transcript.text.delta", "transcript.text.done"]
    english = speaking.audio.translations.create(model="whisper-1", file=file(), extra_body=order)
    assert english.text == HEARD["text"]


def test_a_text_is_spoken(speaking: openai.OpenAI, tmp_path: Path) -> None:
    create = speaking.audio.speech.create
    speech = create(model="tts-1", voice="alloy", input="Hello", response_format="wav")
    assert (speech.read(), speech.response.headers["content-type"]) == (b"image", "audio/wav")
    streaming = speaking.audio.speech.with_streaming_response
    with streaming.create(model="gpt-4o-mini-tts", voice="ash", input="Hi") as answer:
        answer.stream_to_file(tmp_path / "hi.wav")
    assert (tmp_path / "hi.wav").read_bytes() == b"image"
    with pytest.raises(openai.BadRequestError) as refused:
        create(model="tts-1", voice="alloy", input="Hello", response_format="mp3")
    assert refused.value.param == "response_format"


def test_apps_that_are_not_served_say_how_they_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="darkroom deploy speaker"):
        client.audio.speech.create(model="tts-1-hd", voice="alloy", input="Hello")
    with pytest.raises(openai.NotFoundError, match="darkroom deploy whisper"):
        client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"x"))


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    for model in models:
        Model.model_validate(model.model_dump(), strict=True)
    assert {SDXL, "gpt-image-1"} <= {entry.id for entry in models}
    assert client.models.retrieve(SDXL).id == SDXL
    assert client.models.retrieve("gpt-image-1").id == "gpt-image-1"


def test_dated_model_names_are_served(client: openai.OpenAI) -> None:
    response = client.images.with_raw_response.generate(model="gpt-image-2-2026-04-21", prompt="x")
    assert response.headers["x-darkroom-endpoint"] == SDXL
