"""Headers of the call that creates a batch, which hold for each of its lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from serve_app.domain.batches.batch import BatchLine, BatchStatus, StoredBatch
from serve_app.domain.request import Priority, Retries
from serve_app.ingress.openai.batches import requests
from serve_app.tenants.scopes import SUBMIT, Caller
from tests.ingress.api.files.private import ACL, bare, lifecycle, statuses, without_key
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.openai.batches.test_worker import (
    BATCHES,
    FILES,
    GENERATIONS,
    fetch_batch,
    lines,
    requests_of,
    results,
    run,
)

POLICY = "X-App-Fal-Upload-Policy"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS) as house:
        yield house


async def create_batch(house: House, headers: dict[str, str], count: int = 2) -> Any:
    """Answer to the call that creates a batch."""
    async with house.client(house.weak_key) as client:
        form = {"file": ("prompts.jsonl", lines(count)), "purpose": (None, "batch")}
        file = (await client.post(FILES, files=form)).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": GENERATIONS, "completion_window": "24h"}
        return await client.post(BATCHES, json=body, headers=headers)


async def run_with(house: House, headers: dict[str, str]) -> str:
    """Id of a batch that has ended."""
    batch = str((await create_batch(house, headers)).raise_for_status().json()["id"])
    await run(house, batch)
    return batch


async def test_access_rules_of_a_batch_are_those_of_the_files_of_its_lines_and_of_its_outputs(
    house: House,
) -> None:
    batch = await run_with(house, lifecycle("forbid", friend="allow"))
    outcomes = await results(house, batch)
    urls = [outcome["response"]["body"]["data"][0]["url"] for outcome in outcomes]
    assert len(urls) == 2
    for url in urls:
        of_readers = await statuses(house, bare(url))
        assert (of_readers["stranger"], of_readers["friend"], of_readers["guest"]) == (
            403,
            200,
            403,
        )
        async with without_key(house) as guest:
            assert (await guest.get(url)).status_code == 200, "the output file has signed URLs"
    output = await house.queue.batches.files.get(
        "default", (await fetch_batch(house, batch))["output_file_id"]
    )
    assert output is not None
    assert output.key.startswith("p/")


async def test_what_is_said_of_storing_and_retries_holds_for_each_line(house: House) -> None:
    headers = {
        "X-Fal-Store-IO": "0",
        ACL: json.dumps({"expiration_duration_seconds": 3600}),
        "X-Darkroom-Deterministic": "1",
        "X-Fal-No-Retry": "1",
        "X-Fal-Queue-Priority": "normal",
        "X-Fal-Runner-Hint": "x",
    }
    await run_with(house, headers)
    submitted = requests_of(house)
    assert len(submitted) == 2
    assert all(request.forgetting is not None for request in submitted), (
        "its input and outcome are erased"
    )
    assert house.lifecycles.kept_s == {request.id: 3600 for request in submitted}
    assert {(request.alone, request.retries_left) for request in submitted} == {(True, Retries())}
    assert {request.priority for request in submitted} == {Priority.LOW}, (
        "batches run while nothing waits"
    )


async def test_a_bucket_of_the_client_is_refused(house: House) -> None:
    policy = {"url": "https://example.com/bucket", "fields": {"key": "a/${filename}"}}
    answer = await create_batch(house, {POLICY: json.dumps(policy)})
    assert answer.status_code == 400
    assert POLICY in answer.json()["error"]["message"]
    assert requests_of(house) == []


@pytest.mark.parametrize("name", [ACL, "X-Fal-Store-IO", "X-Fal-Retry-Config"])
async def test_a_header_that_cannot_be_read_is_refused_and_named(house: House, name: str) -> None:
    answer = await create_batch(house, {name: "perhaps"})
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


async def test_a_repeat_with_other_rules_is_another_batch() -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        form = {"file": ("prompts.jsonl", lines(1)), "purpose": (None, "batch")}
        file = (await client.post(FILES, files=form)).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": GENERATIONS, "completion_window": "24h"}
        repeated = {"x-stainless-retry-count": "1"}
        ids = [
            (await client.post(BATCHES, json=body, headers=headers)).json()["id"]
            for headers in (
                lifecycle("forbid"),
                repeated | lifecycle("forbid"),
                repeated,
                repeated | lifecycle("hide"),
            )
        ]
        assert ids[0] == ids[1]
        assert len(set(ids)) == 3


async def test_lines_have_the_time_that_their_batch_has_by_the_clock_of_the_database(
    house: House,
) -> None:
    services = house.services
    now = services.clock.now() - timedelta(hours=1)  # that of the ingress is ahead
    batch = StoredBatch(
        *("batch-1", "default", "", "", GENERATIONS, "file-1", "u/1", BatchStatus.IN_PROGRESS),
        created_at=now - timedelta(hours=23),
        expires_at=now + timedelta(minutes=30),
        read_at=now,
    )
    caller = Caller("", "default", frozenset({SUBMIT}))
    call = requests.call_of(services, caller, batch, json.loads(lines(1))["body"])
    line = BatchLine(1, "a", 0, 1, services.new_id())
    assert (await requests.request_of(services, caller, batch, line, call)).end_within_s == 1800
