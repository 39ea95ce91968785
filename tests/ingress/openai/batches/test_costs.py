"""Most that a batch may cost: checked before any line is queued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.ingress.openai.batches.worker import BatchWorker
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.openai.batches.test_worker import (
    BATCHES,
    FILES,
    GENERATIONS,
    lines,
    requests_of,
    run,
)
from tests.ingress.submission.test_fallback import OWN, house_with

HEADER = "X-Darkroom-Max-Cost"
IMAGES = "test/images"


def price_settings(
    unit: str = "image", amount: str = "0.1", currency: str = "EUR"
) -> dict[str, Any]:
    return {"prices": {IMAGES: {"unit": unit, "amount": amount, "currency": currency}}}


async def create_batch(
    house: House, content: bytes, most: str | None, endpoint: str = GENERATIONS, key: str = ""
) -> str:
    async with house.client(key or house.weak_key) as client:
        form = {"file": ("prompts.jsonl", content), "purpose": (None, "batch")}
        file = (await client.post(FILES, files=form)).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
        headers = {} if most is None else {HEADER: most}
        answer = await client.post(BATCHES, json=body, headers=headers)
        return str(answer.raise_for_status().json()["id"])


def runs(*inputs: Mapping[str, Any], endpoint: str = IMAGES) -> bytes:
    rows: Sequence[Mapping[str, Any]] = [
        {"custom_id": f"{n}", "method": "POST", "url": f"/run/{endpoint}", "body": body}
        for n, body in enumerate(inputs)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.mark.parametrize(
    ("settings", "most", "sentence"),
    [
        (
            price_settings(),
            "0.5",
            "allows 0.5 for the batch, and its 3 lines cost 0.6 EUR. Nothing was",
        ),
        (
            price_settings(),
            "0.59 EUR",
            "allows 0.59 EUR for the batch, and its 3 lines cost 0.6 EUR.",
        ),
        (price_settings(), "9 USD", "and its price is in EUR. Give the amount in EUR"),
        (
            price_settings("gpu_second"),
            "9",
            "costs by the GPU second, which is counted while it runs",
        ),
    ],
)
async def test_a_batch_that_costs_more_than_it_may_is_refused_before_a_line_is_queued(
    settings: dict[str, Any], most: str, sentence: str
) -> None:
    async with build_house(catalog=OTHERS, **settings) as house:
        known = await run(house, await create_batch(house, lines(3, n=2), most))
        assert known["status"] == "failed"
        (error,) = known["errors"]["data"]
        assert error["code"] == "max_cost"
        assert sentence in error["message"]
        assert requests_of(house) == []


@pytest.mark.parametrize("most", ["0.6", "0.6 EUR", "100"])
async def test_a_batch_that_costs_no_more_than_it_may_runs(most: str) -> None:
    async with build_house(catalog=OTHERS, **price_settings()) as house:
        known = await run(house, await create_batch(house, lines(3, n=2), most))
        assert known["request_counts"] == {"total": 3, "completed": 3, "failed": 0}


async def test_a_line_whose_input_is_refused_costs_nothing() -> None:
    async with build_house(catalog=OTHERS, **price_settings()) as house:
        content = lines(1) + b"\n" + lines(1, n=99).replace(b"line 0", b"line 1")
        known = await run(house, await create_batch(house, content, "0.1"))
        assert known["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


async def test_a_line_of_an_unknown_cost_is_named() -> None:
    async with build_house(catalog=OTHERS, **price_settings()) as house:
        content = (
            lines(1)
            + b"\n"
            + lines(1).replace(b"line 0", b"line 1").replace(b"test/images", b"test/nothing")
        )
        known = await run(house, await create_batch(house, content, "9"))
        (error,) = known["errors"]["data"]
        assert (known["status"], error["line"]) == ("failed", 2)
        assert "test/nothing" in error["message"]


async def test_endpoints_without_a_price_cost_nothing() -> None:
    async with build_house(catalog=OTHERS) as house:
        known = await run(
            house, await create_batch(house, runs({"prompt": "x"}), "0", f"/run/{IMAGES}")
        )
        assert known["request_counts"]["completed"] == 1


async def test_an_amount_that_is_none_is_refused_at_once() -> None:
    async with build_house(catalog=OTHERS) as house, house.client(house.weak_key) as client:
        form = {"file": ("prompts.jsonl", lines(1)), "purpose": (None, "batch")}
        file = (await client.post(FILES, files=form)).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": GENERATIONS, "completion_window": "24h"}
        refused = await client.post(BATCHES, json=body, headers={HEADER: "cheap"})
        assert refused.status_code == 400
        assert f"{HEADER} should be an amount" in refused.json()["error"]["message"]


async def test_a_batch_whose_key_was_revoked_ends_without_a_request() -> None:
    async with build_house(catalog=OTHERS, **price_settings()) as house:
        batch = await create_batch(house, lines(2), "9")
        await house.keys.revoke(house.weak_key.partition(":")[0])
        known = await run(house, batch, BatchWorker(house.services))
        assert known["request_counts"]["failed"] == 2
        assert requests_of(house) == []


@pytest.mark.parametrize(("most", "falls"), [("9", False), (None, True)])
async def test_a_line_does_not_fall_back_to_where_it_costs_more_than_was_counted(
    tmp_path: Path, most: str | None, *, falls: bool
) -> None:
    """Its own endpoint costs 0.01 EUR, and the other one 0.5."""
    async with house_with(tmp_path) as house:
        content = runs({"echo": "hello"}, endpoint=OWN)
        await run(house, await create_batch(house, content, most, f"/run/{OWN}", house.key))
        (request,) = requests_of(house)
        assert (request.fallback is not None) == falls
