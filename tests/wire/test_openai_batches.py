"""OpenAI's own Python client, unmodified: files and batches."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import httpx
import openai
import pytest
from openai.types import Batch, FileObject

from tests.ingress.house import OTHERS
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

IMAGES, SDXL, VIDEOS = "test/images", "fal-ai/fast-sdxl", "test/videos"
GENERATIONS: Any = "/v1/images/generations"
FINAL = ("completed", "failed", "expired", "cancelled")
WAIT_S = 120.0
PIXEL = "data:image/png;base64," + base64.b64encode(b"x").decode()


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS, batches=True) as address:
        yield address


@pytest.fixture
def client(address: Address) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{address.url}/openai/v1", api_key=address.key, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def other_client(address: Address) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{address.url}/openai/v1", api_key=address.other_key, max_retries=0
    ) as client:
        yield client


class LostAnswers(httpx.BaseTransport):
    """Network that loses the answer to the first call that creates a batch."""

    def __init__(self) -> None:
        self._under = httpx.HTTPTransport()
        self.calls = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._under.handle_request(request)
        if request.method != "POST" or not request.url.path.endswith("/batches"):
            return answer
        self.calls += 1
        if self.calls > 1:
            return answer
        answer.read()
        raise httpx.ReadError("the answer is lost", request=request)


def line(custom_id: str, body: dict[str, Any], url: str = GENERATIONS) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload_lines(client: openai.OpenAI, lines: Sequence[Any]) -> FileObject:
    content = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines).encode()
    return client.files.create(file=("prompts.jsonl", content), purpose="batch")


def start_batch(
    client: openai.OpenAI, lines: Sequence[Any], endpoint: Any = GENERATIONS, **more: Any
) -> Batch:
    file = upload_lines(client, lines)
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def wait_for_end(client: openai.OpenAI, batch: Batch) -> Batch:
    """The batch at its end. Its counts never go back and never exceed the total."""
    until, last = time.monotonic() + WAIT_S, (0, 0)
    while batch.status not in FINAL:
        assert time.monotonic() < until, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
        counts = batch.request_counts
        assert counts is not None
        assert counts.completed >= last[0]
        assert counts.failed >= last[1]
        last = counts.completed, counts.failed
        assert sum(last) <= counts.total or not counts.total
    Batch.model_validate(batch.model_dump(), strict=True)
    return batch


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    text = client.files.content(file_id).text
    answers = [json.loads(raw_line) for raw_line in text.splitlines()]
    assert len({answer["id"] for answer in answers}) == len(answers)
    return {answer["custom_id"]: answer for answer in answers}


def counts_of(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    return (
        batch.request_counts.total,
        batch.request_counts.completed,
        batch.request_counts.failed,
    )


def test_a_file_is_uploaded_listed_read_and_deleted(
    client: openai.OpenAI, other_client: openai.OpenAI
) -> None:
    first = upload_lines(client, [line("a", {"prompt": "x"})])
    second = upload_lines(client, [line("b", {"prompt": "x"})])
    FileObject.model_validate(first.model_dump(), strict=True)
    assert (first.filename, first.purpose, first.status) == ("prompts.jsonl", "batch", "processed")
    assert client.files.retrieve(first.id) == first
    content = client.files.content(first.id).read()
    assert json.loads(content)["custom_id"] == "a"
    assert first.bytes == len(content)
    listed = [file.id for file in client.files.list(purpose="batch", limit=1)]  # all pages
    assert listed.index(second.id) < listed.index(first.id)
    oldest = [file.id for file in client.files.list(purpose="batch", order="asc")]
    assert oldest == listed[::-1]
    for call in (
        other_client.files.retrieve,
        other_client.files.content,
        other_client.files.delete,
    ):
        with pytest.raises(openai.NotFoundError):
            call(first.id)
    assert first.id not in [file.id for file in other_client.files.list()]
    assert client.files.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(first.id)


def test_a_client_that_deletes_the_files_of_each_page_learns_that_there_are_more(
    other_client: openai.OpenAI,
) -> None:
    """It got an empty page, as at the end, and had deleted two of five."""
    for _ in range(5):
        upload_lines(other_client, [])
    before = len(list(other_client.files.list()))
    files = iter(other_client.files.list(limit=2))
    for _ in range(2):
        other_client.files.delete(next(files).id)
    with pytest.raises(openai.BadRequestError, match="list from the beginning"):
        next(files)
    assert len(list(other_client.files.list())) == before - 2


def test_a_batch_of_images_runs_to_its_end(
    client: openai.OpenAI, other_client: openai.OpenAI
) -> None:
    lines = [
        *(line(f"image {n}", {"model": SDXL, "prompt": f"{n}", "seed": n}) for n in range(20)),
        line("as base64", {"model": IMAGES, "prompt": "x", "n": 2, "response_format": "b64_json"}),
        line("fails", {"model": IMAGES, "prompt": "x", "fail": "pipeline_failed"}),
        line("has no model", {"model": "unknown", "prompt": "x"}),
        line("has no prompt", {"model": SDXL}),
    ]
    batch = start_batch(client, lines, metadata={"job": "night"})
    assert (batch.status, batch.metadata, batch.endpoint) == (
        "validating",
        {"job": "night"},
        GENERATIONS,
    )
    done = wait_for_end(client, batch)
    assert (done.status, counts_of(done)) == ("completed", (24, 21, 3))
    assert done.in_progress_at is not None
    assert done.finalizing_at is not None
    assert done.completed_at is not None
    good, bad = results(client, done.output_file_id), results(client, done.error_file_id)
    assert set(good) | set(bad) == {request_line["custom_id"] for request_line in lines}
    body = good["image 7"]["response"]["body"]
    assert (good["image 7"]["response"]["status_code"], good["image 7"]["error"]) == (200, None)
    assert [set(image) for image in body["data"]] == [{"url"}]
    assert httpx.get(body["data"][0]["url"]).content == b"image"
    inlined = good["as base64"]["response"]["body"]["data"]
    assert [base64.b64decode(image["b64_json"]) for image in inlined] == [b"image"] * 2
    statuses = {name: answer["response"]["status_code"] for name, answer in bad.items()}
    assert statuses == {"fails": 500, "has no model": 404, "has no prompt": 400}
    assert bad["has no model"]["error"]["code"] == "model_not_found"
    assert bad["has no prompt"]["response"]["body"]["error"]["param"] == "prompt"
    with pytest.raises(openai.NotFoundError):
        other_client.batches.retrieve(batch.id)
    with pytest.raises(openai.NotFoundError):
        other_client.files.content(cast("str", done.output_file_id))


def test_lines_edit_images_make_videos_and_run_any_endpoint(client: openai.OpenAI) -> None:
    edits: Any = "/v1/images/edits"
    body = {"model": SDXL, "prompt": "blue", "images": [{"image_url": PIXEL}]}
    masked = {"model": SDXL, "prompt": "blue", "image": PIXEL, "mask": PIXEL}
    edited = wait_for_end(
        client, start_batch(client, [line("a", body, edits), line("b", masked, edits)], edits)
    )
    assert set(results(client, edited.output_file_id)) == {"a"}
    refused = results(client, edited.error_file_id)["b"]
    assert "mask_url" in refused["error"]["message"]
    videos: Any = "/v1/videos"
    batch = wait_for_end(
        client, start_batch(client, [line("v", {"model": VIDEOS, "prompt": "x"}, videos)], videos)
    )
    video = results(client, batch.output_file_id)["v"]["response"]["body"]
    assert (video["object"], video["status"], video["progress"]) == ("video", "completed", 100)
    run: Any = "/run/test/audio"
    heard = wait_for_end(client, start_batch(client, [line("s", {"prompt": "x"}, run)], run))
    output = results(client, heard.output_file_id)["s"]["response"]["body"]
    assert "http://127.0.0.1" in json.dumps(output)


@pytest.mark.parametrize(
    ("bad", "code", "number", "param"),
    [
        ("{", "invalid_json_line", 2, None),
        ("[]", "invalid_json_line", 2, None),
        (line("a", {"prompt": "x"}), "duplicate_custom_id", 2, "custom_id"),
        ({"method": "POST"}, "missing_required_parameter", 2, "custom_id"),
        (line("b", {"prompt": "x"}, "/v1/videos"), "mismatched_url", 2, "url"),
        ({**line("b", {}), "method": "GET"}, "invalid_method", 2, "method"),
        ({**line("b", {}), "body": None}, "missing_required_parameter", 2, "body"),
    ],
)
def test_an_invalid_file_is_refused_before_anything_runs(
    client: openai.OpenAI, bad: Any, code: str, number: int, param: str | None
) -> None:
    done = wait_for_end(client, start_batch(client, [line("a", {"prompt": "x"}), bad]))
    assert done.status == "failed"
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(error.code, error.line, error.param) for error in done.errors.data] == [
        (code, number, param)
    ]
    assert counts_of(done) == (0, 0, 0)
    assert done.output_file_id is None
    assert done.error_file_id is None


def test_a_file_without_lines_is_refused(client: openai.OpenAI) -> None:
    done = wait_for_end(client, start_batch(client, ["", "  "]))
    assert done.errors is not None
    assert done.errors.data is not None
    assert [error.code for error in done.errors.data] == ["empty_file"]


@pytest.mark.long
def test_a_cancelled_batch_has_the_results_until_then(client: openai.OpenAI) -> None:
    lines = [
        line("quick", {"model": IMAGES, "prompt": "x"}),
        *(line(f"{n}", {"model": IMAGES, "prompt": "x", "sleep_s": 600}) for n in range(300)),
    ]
    batch = start_batch(client, lines)
    until = time.monotonic() + WAIT_S
    while counts_of(client.batches.retrieve(batch.id))[1] < 1:
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(openai.BadRequestError, match="reads this file"):
        client.files.delete(batch.input_file_id)
    stopping = client.batches.cancel(batch.id)
    assert stopping.status == "cancelling"
    assert stopping.cancelling_at is not None
    done = wait_for_end(client, stopping)
    assert (done.status, counts_of(done)) == ("cancelled", (301, 1, 300))
    assert done.cancelled_at is not None
    assert set(results(client, done.output_file_id)) == {"quick"}
    dropped = results(client, done.error_file_id)
    assert {answer["error"]["code"] for answer in dropped.values()} == {"batch_cancelled"}
    assert client.batches.cancel(batch.id).status == "cancelled"
    assert client.files.delete(batch.input_file_id).deleted


def test_batches_are_listed_in_pages(client: openai.OpenAI, other_client: openai.OpenAI) -> None:
    ids = [start_batch(client, [line("a", {"prompt": "x"})]).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == ids[::-1]
    assert len(set(listed)) == len(listed)
    assert not set(ids) & {batch.id for batch in other_client.batches.list()}


def test_refused_calls_name_the_parameter(client: openai.OpenAI) -> None:
    file = upload_lines(client, [line("a", {"prompt": "x"})])
    create: Any = client.batches.create
    usual: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": GENERATIONS,
        "completion_window": "24h",
    }
    for wrong, param in (
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "7d"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"metadata": {"x": "y" * 513}}, "metadata"),
        ({"extra_body": {"webhook_url": "ftp://example.com"}}, "webhook_url"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            create(**{**usual, **wrong})
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    assert refused.value.param == "purpose"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_unknown")


def test_a_repeat_after_a_lost_answer_makes_no_second_batch(address: Address) -> None:
    network = LostAnswers()
    with openai.OpenAI(
        base_url=f"{address.url}/openai/v1",
        api_key=address.key,
        http_client=httpx.Client(transport=network),
    ) as client:
        first = start_batch(client, [line("a", {"prompt": "x"})], metadata={"shop": "7"})
        assert network.calls == 2
        same = [
            batch for batch in client.batches.list() if batch.input_file_id == first.input_file_id
        ]
        assert [batch.id for batch in same] == [first.id]
        again = client.batches.create(
            input_file_id=first.input_file_id,
            endpoint=GENERATIONS,
            completion_window="24h",
            metadata={"shop": "7"},
        )
        assert again.id != first.id  # a call that is no repeat makes its own batch
