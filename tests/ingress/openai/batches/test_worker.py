"""The worker of batches: crashes between any two steps, limits, revoked keys, and webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from serve_app.domain.errors import TooLarge
from serve_app.domain.request import Priority, State
from serve_app.ingress.openai.batches import requests
from serve_app.ingress.openai.batches import worker as module
from serve_app.ingress.openai.batches.lines import MAX_LINES, FileCheck, split
from serve_app.ingress.openai.batches.worker import BatchWorker
from serve_app.jobs.worker import JobWorker
from serve_app.settings import TenantLimits
from tests.ingress.house import ORIGIN, OTHERS, House, build_house
from tests.webhooks.receiver import Receiver

BATCHES, FILES = "/openai/v1/batches", "/openai/v1/files"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
ROUNDS = 400


class Killed(BaseException):
    """Death of the process at a call."""


class Mortal:
    """Wraps an object; the call number ``dies_at`` of all that share ``calls`` kills the process,
    ``after`` its effect or before it."""

    def __init__(self, inner: Any, calls: list[str], dies_at: int, *, after: bool) -> None:
        self._inner, self._calls, self._dies_at, self._after = inner, calls, dies_at, after

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name == "work":
            return Mortal(attribute, self._calls, self._dies_at, after=self._after)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **more: Any) -> Any:
            self._calls.append(name)
            dies = len(self._calls) == self._dies_at
            if dies and not self._after:
                raise Killed
            answer = await attribute(*args, **more)
            if dies:
                raise Killed
            return answer

        return call


def lines(count: int, **body: Any) -> bytes:
    rows = [
        {
            "custom_id": f"line {n}",
            "method": "POST",
            "url": GENERATIONS,
            "body": {"model": "test/images", "prompt": f"{n}", **body},
        }
        for n in range(count)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


async def create_batch(house: House, content: bytes, key: str = "", **more: Any) -> str:
    """Id of a new batch of these lines."""
    async with house.client(key or house.weak_key) as client:
        form = {"file": ("prompts.jsonl", content), "purpose": (None, "batch")}
        file = (await client.post(FILES, files=form)).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": GENERATIONS, "completion_window": "24h"}
        answer = await client.post(BATCHES, json=body | more)
        return str(answer.raise_for_status().json()["id"])


async def fetch_batch(house: House, batch: str) -> dict[str, Any]:
    async with house.client() as client:
        return dict((await client.get(f"{BATCHES}/{batch}")).raise_for_status().json())


async def results(house: House, batch: str) -> list[dict[str, Any]]:
    known, answers = await fetch_batch(house, batch), list[dict[str, Any]]()
    async with house.client() as client:
        for file in (known["output_file_id"], known["error_file_id"]):
            if file is not None:
                text = (await client.get(f"{FILES}/{file}/content")).raise_for_status().text
                answers += map(json.loads, text.splitlines())
    return answers


async def run(house: House, batch: str, worker: BatchWorker | None = None) -> dict[str, Any]:
    """Rounds until the batch has ended."""
    worker = worker or BatchWorker(house.services)
    for _ in range(ROUNDS):
        await worker.validate()
        await worker.advance()
        if (known := await fetch_batch(house, batch))["status"] in (
            "completed",
            "failed",
            "cancelled",
        ):
            return known
        await asyncio.sleep(0.01)
    raise AssertionError(known)


def requests_of(house: House) -> Sequence[Any]:
    return [row.request for row in house.queue._rows.values()]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS) as house:
        yield house


@pytest.fixture
async def idle() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS, replica=False) as house:
        yield house


@pytest.mark.variants(1)
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_call_repeats_no_line_and_loses_none(
    house: House, after: bool
) -> None:
    count, dies_at, deaths = 3, 0, 0
    while True:
        dies_at += 1
        before = {request.id for request in requests_of(house)}
        batch = await create_batch(house, lines(count))
        calls: list[str] = []
        mortal = Mortal(house.queue, calls, dies_at, after=after)
        services = replace(house.services, queue=mortal)
        doomed = BatchWorker(services)
        doomed._book = Mortal(house.queue.batches, calls, dies_at, after=after)
        try:
            known = await run(house, batch, doomed)
        except Killed:
            deaths += 1
            known = await run(house, batch)
        new = [request for request in requests_of(house) if request.id not in before]
        what = f"died {'after' if after else 'before'} call {dies_at}, {calls[-1:]}"
        assert known["status"] == "completed", what
        assert known["request_counts"] == {"total": count, "completed": count, "failed": 0}, what
        custom_ids = [result["custom_id"] for result in await results(house, batch)]
        assert sorted(custom_ids) == [f"line {n}" for n in range(count)], what
        assert len(new) == count, what
        files = await house.queue.batches.files.written_by(batch)
        if len(calls) < dies_at:  # it lived to the end
            assert len(files) == 1
            break
    assert deaths > 20


async def test_a_line_with_an_image_keeps_its_shape_as_the_call_does(house: House) -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    body = {"model": "fal-ai/fast-sdxl", "prompt": "x", "image": image}
    line = {"custom_id": "1", "method": "POST", "url": EDITS, "body": body}
    await run(house, await create_batch(house, json.dumps(line).encode(), endpoint=EDITS))
    (request,) = requests_of(house)
    assert request.endpoint == "fal-ai/fast-sdxl/image-to-image"
    assert request.input["image_size"] == "auto"


@pytest.mark.parametrize("broken", ["result_of", "call_of"])
async def test_a_line_that_meets_a_defect_is_an_error_and_holds_no_batch_up(
    house: House, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The worker repeated it for ever, and did nothing for the batches after it."""
    intact = getattr(requests, broken)

    def call(services: Any, *others: Any) -> Any:
        if "boom" in str(others):
            raise ZeroDivisionError
        return intact(services, *others)

    monkeypatch.setattr(requests, broken, call)
    odd = lines(1).replace(b"line 0", b"boom") + b"\n" + lines(1)
    odd = odd.replace(b'"prompt": "0"', b'"prompt": "boom"', 1)
    first, second = await create_batch(house, odd), await create_batch(house, lines(1))
    assert (await run(house, second))["request_counts"]["completed"] == 1
    known = await run(house, first)
    assert (known["status"], known["request_counts"]["failed"]) == ("completed", 1)
    (failed,) = [line for line in await results(house, first) if line["error"]]
    assert failed["error"]["message"].startswith("Unexpected ZeroDivisionError.")


async def test_two_workers_at_once_repeat_no_line(house: House) -> None:
    batch = await create_batch(house, lines(40))
    workers = [BatchWorker(house.services) for _ in range(3)]
    ended = await asyncio.gather(*(run(house, batch, worker) for worker in workers))
    assert {document["status"] for document in ended} == {"completed"}
    assert len(requests_of(house)) == 40
    assert len(await results(house, batch)) == 40
    assert len(await house.queue.batches.files.written_by(batch)) == 1


async def test_a_batch_fills_only_what_is_idle(idle: House) -> None:
    batch = await create_batch(idle, lines(100))
    worker = BatchWorker(idle.services)
    for _ in range(5):
        await worker.validate()
        await worker.advance()
    queued = requests_of(idle)
    assert len(queued) == module.LEAST_QUEUED
    assert {request.priority for request in queued} == {Priority.LOW}
    assert (await fetch_batch(idle, batch))["request_counts"]["total"] == 100


async def test_a_batch_waits_while_requests_of_others_are_queued(idle: House) -> None:
    async with idle.client(idle.other_key) as client:
        for _ in range(module.LEAST_QUEUED):
            (await client.post("/queue/test/images", json={"prompt": "x"})).raise_for_status()
    before = len(requests_of(idle))
    await create_batch(idle, lines(10))
    worker = BatchWorker(idle.services)
    for _ in range(5):
        await worker.validate()
        await worker.advance()
    assert len(requests_of(idle)) == before


async def test_a_line_over_the_rate_is_tried_later_and_one_over_the_budget_is_an_error() -> None:
    budget = {"amount": 1, "currency": "USD", "period": "day"}
    for limits, done in (
        (
            {"requests_per_minute": 6000, "requests_burst": 2},
            {"total": 4, "completed": 4, "failed": 0},
        ),
        ({"budget": budget}, {"total": 4, "completed": 1, "failed": 3}),
    ):
        own = TenantLimits.model_validate(limits)
        prices = {"test/images": {"unit": "image", "amount": 0.9, "currency": "USD"}}
        async with build_house(
            catalog=OTHERS, tenant_limits={"default": own}, prices=prices
        ) as house:
            batch = await create_batch(house, lines(4))
            known = await run(house, batch)
            assert known["request_counts"] == done
            codes = [x["error"]["code"] for x in await results(house, batch) if x["error"]]
            assert codes == ["insufficient_quota"] * done["failed"]


async def test_the_lines_of_a_revoked_key_are_errors(house: House) -> None:
    batch = await create_batch(house, lines(5))
    await BatchWorker(house.services).validate()
    await house.keys.revoke(house.weak_key.partition(":")[0])
    known = await run(house, batch)
    assert known["request_counts"] == {"total": 5, "completed": 0, "failed": 5}
    assert {result["error"]["code"] for result in await results(house, batch)} == {
        "unauthenticated"
    }


async def test_a_deleted_request_is_an_error_of_its_line(idle: House) -> None:
    batch = await create_batch(idle, lines(2))
    worker = BatchWorker(idle.services)
    await worker.validate()
    await worker.advance()
    gone, kept = requests_of(idle)
    for request in (gone, kept):
        await idle.queue.cancel(request.tenant, request.id)
    await idle.queue.delete(gone.tenant, gone.id)
    known = await run(idle, batch, worker)
    assert known["request_counts"]["failed"] == 2
    codes = [result["error"]["code"] for result in await results(idle, batch)]
    assert codes == ["request_deleted", "cancelled"]


async def test_a_deleted_input_file_is_an_error_of_the_lines_that_were_not_read(
    idle: House,
) -> None:
    batch = await create_batch(idle, lines(module.LEAST_QUEUED + 2))
    worker = BatchWorker(idle.services)
    await worker.validate()
    await worker.advance()
    stored = await idle.queue.batches.work.find(batch)
    assert stored is not None
    await idle.storage.delete([stored.input_key])
    for request in requests_of(idle):
        await idle.queue.cancel(request.tenant, request.id)
    await run(idle, batch, worker)
    codes = [result["error"]["code"] for result in await results(idle, batch)]
    assert sorted(codes) == ["artifact_not_found"] * 2 + ["cancelled"] * module.LEAST_QUEUED


async def test_cancelling_cancels_what_waits(idle: House) -> None:
    batch = await create_batch(idle, lines(50))
    worker = BatchWorker(idle.services)
    await worker.validate()
    await worker.advance()
    async with idle.client() as client:
        (await client.post(f"{BATCHES}/{batch}/cancel")).raise_for_status()
    known = await run(idle, batch, worker)
    assert (known["status"], known["request_counts"]["failed"]) == ("cancelled", 50)
    assert {request.state for request in requests_of(idle)} == {State.CANCELLED}
    codes = {result["error"]["code"] for result in await results(idle, batch)}
    assert codes == {"batch_cancelled"}


async def test_a_key_that_is_limited_to_endpoints_sees_only_its_own_batches(house: House) -> None:
    limited = str(await house.keys.create("default", endpoints=("test/*",)))
    batch = await create_batch(house, lines(1))
    output = (await run(house, batch))["output_file_id"]
    async with house.client(limited) as client:
        assert (await client.get(f"{BATCHES}/{batch}")).status_code == 404
        assert (await client.post(f"{BATCHES}/{batch}/cancel")).status_code == 404
        assert (await client.get(f"{FILES}/{output}/content")).status_code == 404
        assert (await client.get(BATCHES)).json()["data"] == []


async def test_openais_client_lists_all_batches_of_a_limited_key_between_those_of_others(
    idle: House,
) -> None:
    limited = str(await idle.keys.create("default", endpoints=("test/*",)))
    own = [await create_batch(idle, lines(1), key=limited)]
    for _ in range(3):
        await create_batch(idle, lines(1))
    own += [await create_batch(idle, lines(1), key=limited) for _ in range(2)]
    async with (
        idle.client() as http,
        openai.AsyncOpenAI(base_url=f"{ORIGIN}/openai/v1", api_key=limited, http_client=http) as ai,
    ):
        listed = [batch.id async for batch in ai.batches.list(limit=1)]
        page = await ai.batches.list(limit=3)
    assert listed == own[::-1]
    assert ([batch.id for batch in page.data], page.has_more) == (own[::-1], False)


@pytest.mark.parametrize("takes_urls", [True, False])
async def test_a_batch_whose_results_are_too_large_for_storage_ends(
    house: House, monkeypatch: pytest.MonkeyPatch, takes_urls: bool
) -> None:
    put = house.storage.put

    async def small(key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        content = b"".join([chunk async for chunk in chunks])
        if key.startswith("u/") and (b'"b64_json"' in content or not takes_urls):
            raise TooLarge("The artifact is larger than the bucket allows.")
        return await put(key, media_type, once(content))

    async def once(content: bytes) -> AsyncIterator[bytes]:
        yield content

    batch = await create_batch(house, lines(3, response_format="b64_json"))
    worker = BatchWorker(house.services)
    await worker.validate()
    monkeypatch.setattr(house.storage, "put", small)
    known = await run(house, batch, worker)
    assert (known["status"], known["request_counts"]["completed"]) == ("completed", 3)
    outcomes = await results(house, batch)
    assert len(outcomes) == (3 if takes_urls else 0)
    for outcome in outcomes:
        (image,) = outcome["response"]["body"]["data"]
        key = image.pop("url").removeprefix(f"{ORIGIN}/files/")
        assert image == {}
        assert await house.storage.size(key) > 0


async def test_the_limit_of_batches_is_answered_with_429() -> None:
    async with build_house(catalog=OTHERS, max_batches_per_tenant=1) as house:
        await create_batch(house, lines(1))
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await create_batch(house, lines(1))
        assert refused.value.response.status_code == 429
        assert "DARKROOM_MAX_BATCHES_PER_TENANT" in refused.value.response.text


async def test_lines_are_found_however_the_file_is_cut() -> None:
    content = b'{"a": 1}\n\n  \r\n{"b": "\xc3\xa9"}\n{"c": 3}'
    for size in range(1, len(content) + 1):

        async def chunks(size: int = size) -> AsyncIterator[bytes]:
            for at in range(0, len(content), size):
                yield content[at : at + size]

        batch_lines = [line async for piece in split(chunks(), 100) for line in piece]
        assert [line.line for line in batch_lines] == [1, 4, 5]
        for batch_line in batch_lines:
            assert (
                content[batch_line.start : batch_line.start + len(batch_line.content)]
                == batch_line.content
            )


async def test_a_file_without_a_newline_is_not_read_into_memory() -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x" * 1000

    check = FileCheck(GENERATIONS, max_line=5000)
    async for piece in split(chunks(), check.max_line):
        await check.check(piece)
    assert [(error.code, error.line) for error in check.errors] == [("line_too_long", 1)]
    assert read < 10


@pytest.mark.long
async def test_a_file_has_a_limit_of_lines() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for n in range(MAX_LINES + 1):
            row = {"custom_id": f"{n}", "method": "POST", "url": GENERATIONS, "body": {}}
            yield json.dumps(row).encode() + b"\n"

    check = FileCheck(GENERATIONS, max_line=5000)
    async for piece in split(chunks(), check.max_line):
        await check.check(piece)
    check.end()
    assert [error.code for error in check.errors] == ["too_many_lines"]


async def test_one_webhook_comes_at_the_end_and_openais_client_verifies_it() -> None:
    async with (
        Receiver() as receiver,
        build_house(catalog=OTHERS, deliver=True, allow_private_webhooks=True) as house,
    ):
        batch = await create_batch(house, lines(3), webhook_url=receiver.url())
        await run(house, batch)
        notices = house.services.webhooks.notices
        await JobWorker(house.queue.batches.jobs, [notices]).run_due()
        assert house.queue.batches.jobs.rows == {}
        (received,) = await receiver.until(1)
        (secret, *_) = await house.services.webhooks.signer.secrets_of("default")
        with openai.OpenAI(api_key="x") as client:
            event = client.webhooks.unwrap(received.body, received.headers, secret=secret)
        assert event.type == "batch.completed"
        assert event.data.id == batch
