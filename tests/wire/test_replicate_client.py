"""Replicate's own Python client, unmodified, against Darkroom."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import replicate
from replicate import prediction
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.prediction import Prediction

from serve_app.ingress.replicate import files, headers
from serve_app.ingress.replicate import prediction as rendered
from tests.ingress.house import OTHERS, House
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
IMAGES, SDXL, FLUX = "test/images", "fal-ai/fast-sdxl", "fal-ai/flux-schnell"
VERSION = OTHERS.get_listed(IMAGES).endpoint.digest


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


@pytest.fixture
def client(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[replicate.Client]:
    # It waits half a second longer than it asks the server to, and machines stand still for longer.
    patient = httpx.Timeout(60.0)
    monkeypatch.setattr(prediction, "_create_prediction_timeout", lambda **_: patient)
    client = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
    client.poll_interval = 0.05
    yield client
    client._client.close()


def read(client: replicate.Client, url: str) -> bytes:
    return client._client.get(url).content


def endpoint_of(client: replicate.Client, request: prediction.Prediction) -> str:
    """Endpoint that took the request, which the client's own objects leave out."""
    return client._client.get(f"/v1/predictions/{request.id}").json()["darkroom_endpoint"]


def test_run_by_name_and_by_version(client: replicate.Client) -> None:
    outputs = client.run(IMAGES, {"prompt": "x", "num_images": 2})
    assert isinstance(outputs, list)
    assert [output.read() for output in outputs] == [b"image"] * 2, "as in Replicate's own examples"
    assert all(output.url.startswith("data:image/png;base64,") for output in outputs)
    again = client.run(f"{IMAGES}:{VERSION}", {"prompt": "x"})
    assert isinstance(again, list)
    assert len(again) == 1


def test_an_endpoint_with_a_longer_id_and_an_alias(client: replicate.Client) -> None:
    for name in (FLUX, "black-forest-labs/flux-schnell"):
        assert len([*client.run(name, {"prompt": "x", "num_images": 3})]) == 3
        latest = client.predictions.list()[0]
        assert (latest.model, client.predictions.get(latest.id).model) == (name, name)


def test_other_programs_and_lists_get_urls_and_large_files_are_not_inside(
    client: replicate.Client, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = client.predictions.create(version=VERSION, input={"prompt": "x"}, wait=True)
    assert created.output is not None
    assert created.output[0].startswith("data:")
    key = {"Authorization": f"Bearer {address.key}"}
    plain = httpx.get(f"{address.url}/replicate/v1/predictions/{created.id}", headers=key)
    assert read(client, plain.json()["output"][0]) == b"image"
    assert client.predictions.list()[0].output == plain.json()["output"]
    monkeypatch.setattr(rendered, "MAX_INSIDE_BYTES", 4)
    assert client.predictions.get(created.id).output == plain.json()["output"]


def test_inputs_have_replicates_names(client: replicate.Client) -> None:
    model_input = {"prompt": "x", "num_outputs": 3, "aspect_ratio": "16:9", "output_format": "jpg"}
    outputs = client.run(FLUX, {**model_input, "go_fast": True, "disable_safety_checker": True})
    assert len([*outputs]) == 3
    stored = client.predictions.list()[0].input or {}
    assert stored["image_size"] == {"width": 1360, "height": 768}
    assert (stored["output_format"], stored["enable_safety_checker"]) == ("jpeg", False)


def test_an_image_goes_to_the_endpoint_that_takes_one(client: replicate.Client) -> None:
    client.run(SDXL, {"prompt": "x", "image": PIXEL, "prompt_strength": 0.5, "guidance_scale": 3})
    newest = client.predictions.list()[0]
    assert endpoint_of(client, newest) == "fal-ai/fast-sdxl/image-to-image"
    assert (newest.input or {})["strength"] == 0.5
    client.run(SDXL, {"prompt": "x", "image": PIXEL, "mask": PIXEL, "width": 512, "height": 512})
    newest = client.predictions.list()[0]
    assert endpoint_of(client, newest) == "fal-ai/fast-sdxl/inpainting"
    assert (newest.model, newest.version) == (SDXL, client.models.get(SDXL).latest_version.id)


def test_the_strength_of_no_image_is_ignored_with_a_line_in_the_log(
    client: replicate.Client,
) -> None:
    client.run("stability-ai/sdxl", {"prompt": "x", "prompt_strength": 0.8})
    newest = client.predictions.list()[0]
    newest.reload()
    assert newest.status == "succeeded"
    assert newest.model == "stability-ai/sdxl"
    assert "prompt_strength" in (newest.logs or "")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"fps": 8}, "fps"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"aspect_ratio": "99:1"}, "aspect_ratio"),
        ({"num_outputs": 99}, "num_images"),
    ],
)
def test_what_is_not_possible_is_refused_and_not_ignored(
    client: replicate.Client, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(ReplicateError, match=field):
        client.run(FLUX, {"prompt": "x", **given})


def test_files_inside_the_answer_are_read_by_the_client(client: replicate.Client) -> None:
    (output,) = client.run(IMAGES, {"prompt": "x", "sync_mode": True})
    assert output.read() == b"image"
    newest = client.predictions.list()[0]
    assert newest.output is not None
    assert newest.output[0].startswith("http://"), "a page of files would be large"


@asynccontextmanager
async def redirect_downloads(house: House) -> AsyncGenerator[None]:
    """Have storage serve the files itself, as with `DARKROOM_S3_DOWNLOADS=redirect`."""
    house.storage.links = "https://bucket.test"
    yield


async def test_outputs_are_read_without_redirects_which_the_client_does_not_follow() -> None:
    with serve(redirect_downloads, catalog=OTHERS) as address:
        client = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
        client.predictions.create(version=VERSION, input={"prompt": "x"}, wait=True)
        (url,) = client.predictions.list()[0].output or ()
        async with httpx.AsyncClient() as other:
            assert (await other.get(url)).status_code == 307
        output = FileOutput(url, client)  # over HTTPS, the client makes it of each URL
        assert output.read() == b"".join(output) == await output.aread() == b"image"
        client._client.close()
        await client._async_client.aclose()


async def test_run_async(address: Address) -> None:
    client = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
    outputs = await client.async_run(IMAGES, {"prompt": "x"})
    assert isinstance(outputs, list)
    assert len(outputs) == 1
    await client._async_client.aclose()


def test_an_output_without_files_comes_whole(client: replicate.Client) -> None:
    output = client.run("test/probe", {"echo": {"a": 1}})
    assert isinstance(output, dict)
    assert output["echo"] == {"a": 1}


def test_a_prediction_from_the_queue_to_its_end(client: replicate.Client) -> None:
    created = client.predictions.create(
        version=VERSION, input={"prompt": "x", "sleep_s": 0.5, "steps": 5}
    )
    assert (created.status, created.model, created.version) == ("starting", IMAGES, VERSION)
    assert created.input is not None
    assert created.input["prompt"] == "x"
    seen: set[float] = set()
    while created.status in ("starting", "processing"):
        if created.progress:
            seen.add(created.progress.percentage)
        created.reload()
    assert seen, "no progress was reported"
    assert created.status == "succeeded"
    assert isinstance(created.output, list)
    assert created.metrics is not None
    assert created.metrics["predict_time"] == 0.25
    assert created.metrics["total_time"] >= 0.5
    assert created.completed_at
    assert created.started_at
    assert created.logs
    assert created.error is None
    assert client.predictions.get(created.id).output == created.output


def test_waiting_in_the_create_and_past_it(client: replicate.Client) -> None:
    done = client.predictions.create(version=VERSION, input={"prompt": "x"}, wait=True)
    assert done.status == "succeeded"
    late = client.predictions.create(version=VERSION, input={"sleep_s": 60}, wait=1)
    assert late.status == "starting", "the client takes any other word for the end"
    late.cancel()
    late.wait()
    assert late.status == "canceled"
    with pytest.raises(ReplicateError, match="from 1 to 60"):
        client.predictions.create(version=VERSION, input={}, wait=61)


@pytest.mark.long
def test_a_prediction_ends_as_long_after_its_creation_as_the_header_says(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "MIN_CANCEL_AFTER_S", 1)
    own = {"Cancel-After": "1s", "Authorization": f"Bearer {address.key}"}
    client = replicate.Client(base_url=f"{address.url}/replicate", headers=own)
    created = client.predictions.create(version=VERSION, input={"sleep_s": 60})
    created.wait()
    assert created.status == "canceled"
    assert "Cancel-After" in (created.error or "")
    client._client.headers["Cancel-After"] = "soon"
    with pytest.raises(ReplicateError, match="Cancel-After: should be like 30s") as refused:
        client.run(IMAGES, {"prompt": "x"})
    assert refused.value.status == 422
    client._client.close()


def test_the_output_of_a_slow_run_is_waited_for(client: replicate.Client) -> None:
    outputs = client.run(IMAGES, {"prompt": "x", "sleep_s": 1.5}, wait=1)
    assert isinstance(outputs, list)
    assert len(outputs) == 1


def test_a_failure_is_the_models(client: replicate.Client) -> None:
    orders = {"fail": "pipeline_failed", "message": "Boom."}
    with pytest.raises(ModelError, match="Boom") as caught:
        client.run(IMAGES, orders)
    assert caught.value.prediction.status == "failed"


@pytest.mark.long
def test_predictions_are_listed_newest_first_and_page_by_page() -> None:
    with serve(catalog=OTHERS) as address:
        client = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
        for number in range(101):
            client.predictions.create(version=VERSION, input={"n": number, "num_images": 0})
        first = client.predictions.list()
        assert len(first) == 100
        assert first.next
        second = client.predictions.list(first.next)
        client._client.close()
    numbers = [(predicted.input or {})["n"] for predicted in (*first, *second)]
    assert numbers == list(range(100, -1, -1))
    assert second.next is None


def test_a_stream_sends_the_log_and_each_file(client: replicate.Client) -> None:
    events = list(client.stream(IMAGES, input={"sleep_s": 0.3, "steps": 3, "num_images": 2}))
    kinds = [event.event.value for event in events]
    assert kinds[-3:] == ["output", "output", "done"]
    assert set(kinds[:-3]) == {"logs"}
    assert read(client, str(events[-2].data)) == b"image"
    with pytest.raises(RuntimeError, match="Boom"):
        list(client.stream(IMAGES, input={"fail": "pipeline_failed", "message": "Boom."}))


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("output", "sent"),
    [
        ({"video": {"url": "http://here/a.mp4"}}, ["http://here/a.mp4"]),
        ({"output": "a text\nof two lines"}, ["a text\nof two lines"]),
        ({"output": "10 %\r20 %\r\nend\n"}, ["10 %\n20 %\nend\n"]),
        ({"output": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"}, ["a\nb\nc\nd\ne\nf\ng"]),
        ({"output": ["a", {"b": [True]}]}, ["a", '{"b": [true]}']),
        ({"output": 0.5}, ["0.5"]),
        ({"output": []}, []),
        ({"output": None}, []),
    ],
)
def test_a_stream_sends_an_output_that_is_no_list_of_files(
    client: replicate.Client, output: dict[str, Any], sent: list[str]
) -> None:
    events = list(client.stream("test/probe", input={"yields": [output]}))
    assert [event.data for event in events if event.event.value == "output"] == sent
    assert events[-1].event.value == "done"


def image() -> io.BytesIO:
    file = io.BytesIO(b"an image")
    file.name = "a.png"
    return file


def test_a_file_of_the_input_is_uploaded_first(client: replicate.Client) -> None:
    created = client.predictions.create(version=VERSION, input={"image": image()}, wait=True)
    assert created.input is not None
    assert created.input["image"].startswith("http://127.0.0.1:")
    assert read(client, created.input["image"]) == b"an image"
    file = client.files.create(image())
    assert (file.name, file.content_type, file.size) == ("a.png", "image/png", 8)
    assert read(client, file.urls["get"]) == b"an image"


def test_files_are_listed_found_and_deleted(client: replicate.Client) -> None:
    uploads = [client.files.create(image()) for _ in range(3)]
    assert [file.id for file in client.files.list()[:3]] == [
        upload.id for upload in reversed(uploads)
    ]
    fetched = client.files.get(uploads[1].id)
    assert (fetched.id, fetched.urls, fetched.size, fetched.etag, fetched.created_at) == (
        uploads[1].id,
        uploads[1].urls,
        8,
        uploads[1].etag,
        uploads[1].created_at,
    )
    assert client.files.delete(uploads[1].id)
    with pytest.raises(ReplicateError, match="no such upload"):
        client.files.get(uploads[1].id)
    with pytest.raises(ReplicateError, match="no such upload"):
        client.files.delete(uploads[1].id)
    assert uploads[1].id not in [file.id for file in client.files.list()]
    assert client._client.get(uploads[1].urls["get"]).status_code == 404


def test_a_form_with_two_files_is_refused(address: Address) -> None:
    key = {"Authorization": f"Bearer {address.key}"}
    twice = [("content", ("one.png", b"1")), ("content", ("two.png", b"2"))]
    answer = httpx.post(f"{address.url}/replicate/v1/files", headers=key, files=twice)
    assert answer.status_code == 422
    assert "Only one file" in answer.text


async def test_files_are_listed_found_and_deleted_async(client: replicate.Client) -> None:
    upload = await client.files.async_create(image())
    assert (await client.files.async_get(upload.id)).id == upload.id
    assert (await client.files.async_list())[0].id == upload.id
    assert await client.files.async_delete(upload.id)
    await client._async_client.aclose()


def test_files_of_other_tenants_are_not_seen(client: replicate.Client, address: Address) -> None:
    upload = client.files.create(image())
    other = replicate.Client(api_token=address.other_key, base_url=f"{address.url}/replicate")
    assert upload.id not in [file.id for file in other.files.list()]
    for act in (other.files.get, other.files.delete):
        with pytest.raises(ReplicateError, match="no such upload"):
            act(upload.id)
    assert client.files.get(upload.id).id == upload.id
    other._client.close()


def test_pages_of_files_follow_each_other(
    client: replicate.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAGE", 2)
    for _ in range(5):
        client.files.create(image())
    seen: list[str] = []
    following: str | None = "/v1/files"
    while following is not None:
        page = client._request("GET", following).json()
        assert len(page["results"]) <= 2
        seen += [result["id"] for result in page["results"]]
        following = page["next"]
    assert len(seen) == len(set(seen)) >= 5
    assert client._client.get("/v1/files?cursor=nonsense").status_code == 422


def test_a_file_of_the_input_may_come_inside_it(client: replicate.Client) -> None:
    created = client.predictions.create(
        version=VERSION, input={"image": image()}, file_encoding_strategy="base64", wait=True
    )
    assert created.input is not None
    kind, _, content = created.input["image"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == b"an image"


def test_models_and_their_versions(client: replicate.Client) -> None:
    model = client.models.get(FLUX)
    assert (model.owner, model.name, model.id) == ("fal-ai", "flux-schnell", FLUX)
    version = model.latest_version
    assert version is not None
    assert version.id == OTHERS.get_listed("fal-ai/flux/schnell").endpoint.digest
    schemas = version.openapi_schema["components"]["schemas"]
    assert schemas["Input"]["properties"]["num_inference_steps"]["maximum"] == 12
    assert schemas["Output"]["type"] == "array"
    assert [release.id for release in model.versions.list()] == [version.id]
    assert model.versions.get(version.id).id == version.id
    assert {listed.id for listed in client.models.list()} >= {FLUX, SDXL}
    assert [hit.id for hit in client.models.search("schnell flux")] == [FLUX]
    assert client.accounts.current().username == "default"


def test_collections_are_the_categories_of_models(client: replicate.Client) -> None:
    listed = {category.slug: category for category in client.collections.list()}
    assert listed["text-to-video"].name == "Text to video"
    assert listed["text-to-video"].models is None
    collection = client.collections.get("text-to-video")
    assert [model.id for model in collection] == ["test/videos"]
    with pytest.raises(ReplicateError, match=r"no collection nothing.*text-to-video"):
        client.collections.get("nothing")


def test_each_endpoint_is_a_deployment_that_predicts(client: replicate.Client) -> None:
    assert [(hardware.sku, hardware.name) for hardware in client.hardware.list()] == [
        ("studio", "Pool studio")
    ]
    assert {entry.id for entry in client.deployments.list()} >= {FLUX, SDXL, IMAGES}
    deployment = client.deployments.get(FLUX)
    release = deployment.current_release
    assert release is not None
    assert (release.model, release.configuration.hardware) == (FLUX, "studio")
    created = deployment.predictions.create(input={"prompt": "x"}, wait=True)
    again = client.deployments.predictions.create(FLUX, input={"prompt": "x"}, wait=True)
    assert (created.status, again.status, again.model) == ("succeeded", "succeeded", FLUX)
    with pytest.raises(ReplicateError, match="Did you mean"):
        client.deployments.get("test/image")


def test_what_only_replicate_has_is_refused_by_name(client: replicate.Client) -> None:
    sizes: Any = {"hardware": "studio", "min_instances": 1, "max_instances": 2}
    cases: list[tuple[str, Callable[[], object]]] = [
        (
            "warm set",
            lambda: client.deployments.create(name="x", model=FLUX, version=VERSION, **sizes),
        ),
        ("warm set", lambda: client.deployments.update("fal-ai", "flux-schnell", max_instances=2)),
        ("warm delete", lambda: client.deployments.delete("fal-ai", "flux-schnell")),
        (
            "models add",
            lambda: client.models.create("a", "b", visibility="public", hardware="studio"),
        ),
        ("models delete", lambda: client.models.delete("a", "b")),
        ("models delete", lambda: client.models.get(FLUX).versions.delete(VERSION)),
        ("trains nothing", client.trainings.list),
        ("trains nothing", lambda: client.trainings.get("x")),
        ("trains nothing", lambda: client.trainings.cancel("x")),
        (
            "trains nothing",
            lambda: client.trainings.create(model="a/b", version="c", input={}, destination="d/e"),
        ),
    ]
    for words, call in cases:
        with pytest.raises(ReplicateError, match=words) as refused:
            call()
        assert refused.value.status == 400


def test_a_model_has_a_readme_and_examples(client: replicate.Client) -> None:
    path = f"/v1/models/{FLUX}"
    readme = client._request("GET", f"{path}/readme")
    assert readme.headers["content-type"].startswith("text/plain")
    assert readme.text.startswith("# FLUX.1 [schnell]\n\n")
    (shown,) = client._request("GET", f"{path}/examples").json()["results"]
    example = Prediction(**shown)
    assert example.input == {"prompt": "a red circle"}
    assert example.output == [f"{client._client.base_url}".removesuffix("/replicate/") + "/page/x"]
    model = client.models.get(FLUX)
    assert model.default_example is not None
    assert model.default_example.dict() == example.dict()
    assert client.models.get(SDXL).default_example is None


def test_mistakes_are_answered_with_problem_details(
    client: replicate.Client, address: Address
) -> None:
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (422, "input.num_inference_steps", {"model": FLUX, "input": {"num_inference_steps": 13}}),
        (422, "webhook", {"version": VERSION, "input": {}, "webhook": "http://127.0.0.1:9/x"}),
        (
            422,
            "webhook_events_filter",
            {
                "version": VERSION,
                "input": {},
                "webhook": "https://example.com",
                "webhook_events_filter": ["end"],
            },
        ),
        (422, "input", {"version": VERSION, "input": []}),
        (404, "no version", {"version": "0" * 16, "input": {}}),
        (404, "Did you mean", {"model": "test/image", "input": {}}),
        (400, "is not served here", {"model": "test/unserved", "input": {}}),
    ]
    for status, words, wrong in cases:
        with pytest.raises(ReplicateError) as caught:
            client.predictions.create(**wrong)
        assert (caught.value.status, words in (caught.value.detail or "")) == (status, True), wrong
    stranger = replicate.Client(api_token="no:key", base_url=f"{address.url}/replicate")
    for call in (stranger.predictions.list, lambda: stranger.models.get(FLUX)):
        with pytest.raises(ReplicateError) as refused:
            call()
        assert (refused.value.status, refused.value.title) == (401, "Unauthenticated")
    stranger._client.close()
    with pytest.raises(ReplicateError, match="There is no prediction"):
        client.predictions.get("nothing")
    with pytest.raises(ReplicateError, match="is not supported here"):
        client._request("GET", "/v1/nothing")


def test_another_tenants_predictions_are_not_there(address: Address) -> None:
    client = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
    created: Prediction = client.predictions.create(version=VERSION, input={}, wait=True)
    client._client.close()
    other = replicate.Client(api_token=address.other_key, base_url=f"{address.url}/replicate")
    with pytest.raises(ReplicateError) as caught:
        other.predictions.get(created.id)
    assert caught.value.status == 404
    assert len(other.predictions.list()) == 0
    other._client.close()
