"""OpenAI's calls for videos: the effect of each parameter at several kinds of endpoints."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.catalog.fields.outputs import ImagesOutput
from serve_app.catalog.fields.pydantic_schema import PydanticSchema, Shape
from serve_app.catalog.source import EndpointSource
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput
from serve_app.domain.lease import Ask, Report
from serve_app.domain.progress import Progress, Stage
from serve_app.ingress.openai.video_parameters import (
    VideoParameters,
    input_of,
    length_text,
    size_text,
)
from serve_app.ingress.submission.model_lookup import EndpointFields
from tests.fakes.clock import FakeClock
from tests.ingress.house import OTHERS, House, build_house

VIDEOS = "/openai/v1/videos"


class ByFrames(BaseModel):
    """Input in the style of Wan's endpoints."""

    prompt: str
    num_frames: int = Field(default=81, ge=17, le=161)
    frames_per_second: int = 24
    resolution: Literal["580p", "720p"] = "720p"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"


class ByDuration(BaseModel):
    """Input in the style of endpoints with fixed lengths."""

    prompt: str
    duration: Literal["5", "10"] = "5"


class ByRate(BaseModel):
    """Input that has no rate of its own."""

    prompt: str
    num_frames: int = 81
    fps: int


class ByNames(BaseModel):
    prompt: str
    duration: Literal["short", "5", "auto"] = "5"


class ByPixels(BaseModel):
    prompt: str
    video_size: dict[str, int] = Field(default_factory=dict)


PROBE = EndpointSource(family="probe", schema="x")


def fields(model: type[BaseModel]) -> EndpointFields:
    endpoint = Endpoint(id="test/x", family="probe", weights=Weights(""), schema="x")
    schema = PydanticSchema(Shape(model, ImagesOutput, None), endpoint)
    return EndpointFields(CatalogEntry(endpoint, schema, PROBE))


def parse_input(model: type[BaseModel], **parameters: Any) -> dict[str, Any]:
    return input_of(VideoParameters.read({"prompt": "x"} | parameters), fields(model))


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS) as house:
        yield house


def test_seconds_and_size_become_what_the_endpoint_counts_in() -> None:
    video_input = parse_input(ByFrames, seconds="4", size="1280x720")
    assert video_input == {
        "prompt": "x",
        "num_frames": 96,
        "resolution": "720p",
        "aspect_ratio": "16:9",
    }
    assert (length_text({**video_input, "frames_per_second": 24}), size_text(video_input)) == (
        "4",
        "1280x720",
    )
    assert parse_input(ByFrames, seconds=2, frames_per_second=30)["num_frames"] == 60
    assert parse_input(ByFrames, size="720x1280")["aspect_ratio"] == "9:16"
    assert parse_input(ByDuration, seconds="10")["duration"] == "10"
    assert parse_input(ByPixels, size="640x480")["video_size"] == {"width": 640, "height": 480}
    assert parse_input(ByFrames) == {"prompt": "x"}


def test_an_endpoint_at_openai_gets_openais_own_parameters() -> None:
    endpoint = Endpoint(id="openai/sora-2", family="openai", weights=Weights(""), schema="x")
    schema = PydanticSchema(Shape(ByFrames, ImagesOutput, None), endpoint)
    fields = EndpointFields(CatalogEntry(endpoint, schema, PROBE))
    parameters = VideoParameters.read(
        {"prompt": "x", "seconds": 4, "size": "1280x720", "model": "y"}
    )
    video_input = input_of(parameters, fields)
    assert video_input == {"prompt": "x", "seconds": "4", "size": "1280x720"}
    assert (length_text(video_input), size_text(video_input)) == ("4", "1280x720")


@pytest.mark.parametrize(
    ("model", "given", "param"),
    [
        (ByFrames, {"size": "1024x1792"}, "size"),
        (ByFrames, {"size": "1000x720"}, "size"),
        (ByFrames, {"size": "0x720"}, "size"),
        (ByFrames, {"size": "large"}, "size"),
        (ByFrames, {"seconds": "long"}, "seconds"),
        (ByFrames, {"seconds": 0}, "seconds"),
        (ByFrames, {"seconds": "nan"}, "seconds"),
        (ByFrames, {"seconds": [4]}, "seconds"),
        (ByFrames, {"size": 720}, "size"),
        (ByFrames, {"size": {"width": 720}}, "size"),
        *[
            (ByFrames, {"seconds": 4, "frames_per_second": rate}, "frames_per_second")
            for rate in ("fast", 0, -1, [24], {"a": 1}, "inf", 1e308)
        ],
        (ByRate, {"seconds": 4}, "seconds"),
        (ByNames, {"seconds": 4}, "seconds"),
        (ByFrames, {"characters": []}, "characters"),
        (ByDuration, {"seconds": 4}, "seconds"),
        (ByDuration, {"size": "1280x720"}, "size"),
        (ByPixels, {"seconds": 4}, "seconds"),
        (ByPixels, {"prompt": None}, "prompt"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    model: type[BaseModel], given: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput, match=f"^{param}: "):
        parse_input(model, **given)


def test_lengths_and_sizes_that_an_input_does_not_say_are_left_out() -> None:
    assert (length_text({}), size_text({})) == ("", "")
    assert size_text({"resolution": "720p", "aspect_ratio": "auto"}) == ""
    assert size_text({"resolution": "480p", "aspect_ratio": "9:16"}) == "480x853"
    assert length_text({"duration": "5"}) == "5"
    for odd in (("1e308", "1e9:1"), ("1e308", "9:1"), ("9", "1e-300:1e300"), ("9", "1e300:1e-300")):
        assert size_text(dict(zip(("resolution", "aspect_ratio"), odd, strict=True))) == ""


@pytest.mark.parametrize(
    "input",
    [
        {"num_frames": "many", "fps": 24},
        {"num_frames": 24, "fps": "fast"},
        {"num_frames": [1], "fps": {}},
        {"resolution": "720p", "aspect_ratio": "16:0"},
        {"resolution": "720p", "aspect_ratio": f"16:{'9' * 5000}"},
        {"video_size": {}},
        {"image_size": {"width": 4}},
    ],
)
async def test_an_endpoint_that_takes_any_input_shows_requests_whatever_that_is(
    client: httpx.AsyncClient, input: dict[str, Any]
) -> None:
    created = await client.post(VIDEOS, json={"prompt": "x", "model": "test/videos"} | input)
    assert created.status_code == 200, created.text
    assert (created.json()["seconds"], created.json()["size"]) == ("", "")
    shown = await client.get(f"{VIDEOS}/{created.json()['id']}")
    assert shown.status_code == 200, shown.text


async def test_a_bound_of_the_endpoint_is_reported_for_the_parameter() -> None:
    endpoint = Endpoint(
        id="test/frames",
        family="probe",
        weights=Weights(""),
        schema="x",
        category="text-to-video",
    )
    schema = PydanticSchema(Shape(ByFrames, ImagesOutput, None), endpoint)
    catalog = Catalog({"test/frames": CatalogEntry(endpoint, schema, PROBE)})
    async with build_house(catalog=catalog) as house, house.client() as client:
        body = {"prompt": "x", "model": "test/frames", "seconds": "12"}
        answer = await client.post(VIDEOS, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "seconds")
        assert error["message"] == "seconds: Input should be less than or equal to 6.7"
        short = (await client.post(VIDEOS, json=body | {"seconds": 0.5})).json()["error"]
        assert short["message"] == "seconds: Input should be greater than or equal to 0.71"
        most = await client.post(VIDEOS, json=body | {"seconds": 6.7})
        assert most.status_code == 200, most.text
        created = await client.post(VIDEOS, json=body | {"seconds": "4", "size": "1280x720"})
    assert created.json()["seconds"] == "4"
    assert created.json()["size"] == "1280x720"


@pytest.mark.parametrize(
    ("called", "shown"),
    [("sora-9", "sora-9"), ("sora-\n", "test/videos"), ("sora-" + "x" * 400, "test/videos")],
)
async def test_a_video_has_the_model_that_was_named_and_a_header_its_endpoint(
    called: str, shown: str
) -> None:
    aliases = {"sora-*": "test/videos"}
    async with (
        build_house(catalog=OTHERS, model_aliases=aliases) as house,
        house.client() as client,
    ):
        created = await client.post(VIDEOS, json={"prompt": "x", "model": called})
        again = await client.get(f"{VIDEOS}/{created.json()['id']}")
        prediction = await client.get(f"/replicate/v1/predictions/{created.json()['id']}")
    for answer in (created, again):
        assert answer.json()["model"] == shown
        assert answer.headers["x-darkroom-endpoint"] == "test/videos"
    assert prediction.json()["model"] == "test/videos", "Replicate has no such name"


async def test_progress_is_shown_in_percent() -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        body = {"prompt": "x", "model": "test/videos"}
        video = (await client.post(VIDEOS, json=body)).json()
        url, seen = f"{VIDEOS}/{video['id']}", [video]
        lease_key = (await house.queue.ask(Ask("r1", "actor-1", "studio", 1))).leases[0].key
        for progress in (
            Progress(Stage.LOADING, 1, 2),
            Progress(Stage.DENOISING, 20, 40),
            Progress(Stage.DENOISING, 40, 40),
            Progress(Stage.ENCODING_MEDIA),
        ):
            await house.queue.report(Report("r1", (lease_key,), ((lease_key, progress),)))
            seen.append((await client.get(url)).json())
        early = [await client.get(f"{url}/content"), await client.delete(url)]
    assert [answer["status"] for answer in seen] == ["queued", *["in_progress"] * 4]
    assert [answer["progress"] for answer in seen] == [0, 0, 45, 90, 90]
    assert [response.status_code for response in early] == [400, 400]
    assert "not ready yet" in early[0].json()["error"]["message"]


async def test_an_image_to_start_from_leads_to_the_sibling(
    house: House, client: httpx.AsyncClient
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    linked = {"image_url": "https://example.com/a.png"}
    body = {"prompt": "x", "model": "test/videos/image-to-video"}
    answers = [
        await client.post(VIDEOS, data=body, files={"input_reference": ("a.png", file.getvalue())}),
        await client.post(VIDEOS, json=body | {"input_reference": linked}),
    ]
    urls = []
    for answer in answers:
        assert answer.status_code == 200, answer.text
        stored = await house.queue.get("default", answer.json()["id"])
        assert stored.endpoint == "test/videos/image-to-video"
        urls.append(stored.input["image_url"])
    assert urls[0].startswith("data:image/png;base64,")
    assert urls[1] == "https://example.com/a.png"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "test/images"}, 400, "does not make videos. Endpoints that do: test/videos"),
        ({"model": "fal-ai/flux/schnell", "input_reference": {"image_url": "x"}}, 400, "cannot"),
        ({"model": "test/videos", "input_reference": {"file_id": "x"}}, 400, "input_reference"),
        ({"model": "test/nothing"}, 404, "test/nothing"),
    ],
)
async def test_what_cannot_become_a_video_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, words: str
) -> None:
    answer = await client.post(VIDEOS, json={"prompt": "x"} | body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


async def test_other_requests_are_no_videos(client: httpx.AsyncClient) -> None:
    submitted = (await client.post("/queue/test/images", json={})).json()
    assert (await client.get(f"{VIDEOS}/{submitted['request_id']}")).status_code == 404
    assert (await client.get(f"{VIDEOS}/nothing")).status_code == 404
    assert (await client.get(VIDEOS, params={"order": "asc"})).status_code == 400
    for path in ("edits", "extensions", "characters"):
        answer = await client.post(f"{VIDEOS}/{path}", json={"prompt": "x"})
        assert answer.status_code == 400
        assert "not supported" in answer.json()["error"]["message"]


async def test_a_finished_video_is_remixed_by_an_endpoint_that_takes_one(
    house: House, client: httpx.AsyncClient
) -> None:
    video = (await client.post(VIDEOS, json={"prompt": "x", "model": "test/videos"})).json()
    await house.queue.wait("default", video["id"], 10)
    remix = f"{VIDEOS}/{video['id']}/remix"
    answer = await client.post(remix, json={"prompt": "in winter", "seed": 5})
    body = answer.json()
    assert (answer.status_code, body["prompt"]) == (200, "in winter"), body
    assert body["id"] not in (video["id"], None)
    assert answer.headers["x-request-id"] == body["id"]
    assert body["remixed_from_video_id"] == video["id"]
    stored_input = (await house.queue.get("default", body["id"])).input
    assert stored_input["seed"] == 5
    assert (await client.get(stored_input["video_url"])).content == b"image"
    other = {"prompt": "x", "model": "fal-ai/fast-sdxl"}
    refused = await client.post(remix, json=other)
    assert refused.status_code == 400
    assert "cannot change a video" in refused.json()["error"]["message"]
    assert (await client.post(f"{VIDEOS}/nothing/remix", json=other)).status_code == 404


async def test_a_remix_is_recognised_again_when_the_url_of_its_private_video_has_changed() -> None:
    clock, key = FakeClock(), {"idempotency-key": "winter"}
    async with (
        build_house(catalog=OTHERS, files="private", file_url_valid_s=60, clock=clock) as house,
        house.client() as client,
    ):
        video = (await client.post(VIDEOS, json={"prompt": "x", "model": "test/videos"})).json()
        await house.queue.wait("default", video["id"], 10)
        call: dict[str, Any] = {
            "url": f"{VIDEOS}/{video['id']}/remix",
            "json": {"prompt": "in winter"},
            "headers": key,
        }
        first = await client.post(**call)
        clock.advance(20)
        again = await client.post(**call)
        assert again.json().get("id") == first.json()["id"], again.text
        other = await client.post(**call | {"json": {"prompt": "in summer"}})
        assert other.status_code == 400


async def test_what_is_wrong_with_a_remix_has_the_name_of_its_parameter(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(SECONDS)
    async with build_house(models=models) as house, house.client() as client:
        video = (await client.post(VIDEOS, json={"prompt": "x", "model": "test/videos"})).json()
        await house.queue.wait("default", video["id"], 10)
        body = {"prompt": "x", "seconds": "4", "model": "test/short"}
        refused = await client.post(f"{VIDEOS}/{video['id']}/remix", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seconds")


SECONDS = """
built_in: false
endpoints:
  test/videos:
    category: text-to-video
    family: probe
    schema: open
    options: {artifacts_field: videos, media_type: video/mp4}
    defaults: {videos: 1}
  test/short:
    category: video-to-video
    family: probe
    schema: json
    options:
      input_schema:
        type: object
        properties:
          prompt: {type: string}
          video_url: {type: string}
          duration: {type: integer, maximum: 3}
      output_schema: {type: object}
"""


async def test_a_video_that_is_not_ready_or_failed_is_not_remixed(
    house: House, client: httpx.AsyncClient
) -> None:
    orders = {"prompt": "x", "model": "test/videos"}
    slow = (await client.post(VIDEOS, json=orders | {"sleep_s": 30})).json()
    early = await client.post(f"{VIDEOS}/{slow['id']}/remix", json={"prompt": "x"})
    assert (early.status_code, early.json()["error"]["message"]) == (
        400,
        "The video is not ready yet.",
    )
    failed = (await client.post(VIDEOS, json=orders | {"fail": "pipeline_failed"})).json()
    await house.queue.wait("default", failed["id"], 10)
    none = await client.post(f"{VIDEOS}/{failed['id']}/remix", json={"prompt": "x"})
    assert (none.status_code, none.json()["error"]["code"]) == (404, "artifact_not_found")


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client
