"""The header that says what a request may cost at most, in each protocol."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.ingress.house import OTHERS, build_house
from tests.ingress.submission.test_quotas import DOORS, FLUX, PROBE
from tests.ingress.workflows.test_running import POSTER, house_with

HEADER = "X-Darkroom-Max-Cost"
MCP = {"accept": "application/json, text/event-stream"}


def price_settings(
    unit: str, amount: float | str = "0.04", currency: str = "EUR"
) -> dict[str, Any]:
    price = {"unit": unit, "amount": amount, "currency": currency}
    return {"prices": {PROBE: price, FLUX: price}}


@pytest.mark.parametrize("door", DOORS)
async def test_a_request_that_costs_more_than_it_may_is_refused_before_it_is_queued(
    door: str,
) -> None:
    path, body = DOORS[door]
    async with build_house(**price_settings("request")) as house, house.client() as client:
        refused = await client.post(path, json=body, headers={HEADER: "0.03"})
        stored = await house.queue.page("default")
        allowed = await client.post(path, json=body, headers={HEADER: "0.04 EUR"})
    assert refused.is_client_error
    assert "allows 0.03, and this request costs 0.04 EUR. It was not queued" in refused.text
    assert stored == []
    assert allowed.is_success


@pytest.mark.parametrize(
    ("settings", "body", "value", "sentence"),
    [
        (
            price_settings("gpu_second"),
            {},
            "9",
            "costs by the GPU second, which is counted while it runs",
        ),
        (price_settings("second"), {}, "9", "by the second, and the input does not say how many"),
        (
            price_settings("second"),
            {"duration": "auto"},
            "9",
            "by the second, and the input does not say",
        ),
        (price_settings("second"), {"duration": "8s"}, "0.31", "this request costs 0.32 EUR"),
        (
            price_settings("megapixel"),
            {},
            "9",
            "by the megapixel, and the input does not say the size",
        ),
        (
            price_settings("megapixel"),
            {"image_size": "auto"},
            "9",
            "and the input does not say the size",
        ),
        (price_settings("request"), {}, "9 USD", "its price is in EUR. Give the amount in EUR"),
        (
            price_settings("request"),
            {},
            "cheap",
            "should be an amount, such as `0.05` or `0.05 EUR`",
        ),
        (price_settings("image"), {"num_images": 3}, "0.1", "this request costs 0.12 EUR"),
    ],
)
async def test_a_cost_that_is_not_known_or_too_high_is_a_sentence(
    settings: dict[str, Any], body: dict[str, Any], value: str, sentence: str
) -> None:
    async with build_house(**settings) as house, house.client() as client:
        refused = await client.post(f"/queue/{PROBE}", json=body, headers={HEADER: value})
    assert refused.status_code == 422
    assert sentence in refused.text


@pytest.mark.parametrize(
    ("settings", "body", "value"),
    [
        ({}, {}, "0"),  # without a price it costs nothing
        (price_settings("second"), {"duration": 5}, "0.2"),
        (price_settings("megapixel"), {"image_size": {"width": 1024, "height": 2048}}, "0.08"),
        (price_settings("image"), {"num_images": 3}, "0.12"),
    ],
)
async def test_a_cost_that_the_input_tells_is_known(
    settings: dict[str, Any], body: dict[str, Any], value: str
) -> None:
    async with build_house(**settings) as house, house.client() as client:
        answer = await client.post(f"/queue/{PROBE}", json=body, headers={HEADER: value})
    assert answer.status_code == 200


async def test_an_image_in_the_shape_of_another_costs_one_megapixel() -> None:
    redraw = "fal-ai/fast-sdxl/image-to-image"
    price = price_settings("megapixel")["prices"][PROBE]
    body = {"prompt": "x", "image_url": "https://example.org/cat.png", "image_size": "auto"}
    async with (
        build_house(catalog=OTHERS, prices={redraw: price}) as house,
        house.client() as client,
    ):
        refused = await client.post(f"/queue/{redraw}", json=body, headers={HEADER: "0.03"})
        allowed = await client.post(f"/queue/{redraw}", json=body, headers={HEADER: "0.04"})
    assert (refused.status_code, allowed.status_code) == (422, 200)


@pytest.mark.parametrize(
    ("unit", "value", "sentence"),
    [
        ("request", "0.08", ""),
        ("request", "0.07", "this request costs 0.08 EUR"),
        ("image", "0.12", ""),  # the first step makes two images, the second one
        ("image", "0.11", "this request costs 0.12 EUR"),
        ("megapixel", "9", "its step `draw`: test/images costs by the megapixel"),
    ],
)
async def test_a_workflow_costs_the_sum_of_its_steps(unit: str, value: str, sentence: str) -> None:
    price = {"unit": unit, "amount": "0.04", "currency": "EUR"}
    prices = {"test/images": price, PROBE: price}
    async with house_with(replica=False, prices=prices) as house, house.client() as client:
        await client.post("/v1/workflows", json=POSTER)
        path = "/queue/workflows/default/poster"
        answer = await client.post(path, json={"idea": "a fox"}, headers={HEADER: value})
    assert (answer.status_code, sentence in answer.text) == (422 if sentence else 200, True)


@pytest.mark.parametrize(
    ("fields", "value", "sentence"),
    [
        ({"seeds": [1, 2, 3, 4]}, "0.20", ""),  # four images, and one of the second step
        ({"seeds": [1, 2, 3, 4]}, "0.19", "this request costs 0.2 EUR"),
        ({"draft": {"count": 2}}, "9", "its step `draw`: it makes drafts, or goes on from one"),
    ],
)
async def test_the_seeds_of_a_step_are_counted(
    fields: dict[str, Any], value: str, sentence: str
) -> None:
    price = {"unit": "image", "amount": "0.04", "currency": "EUR"}
    poster = copy.deepcopy(dict(POSTER))
    step = poster["contents"]["nodes"]["draw"]
    step["input"] = {"prompt": "$input.idea", **fields}
    prices = {"test/images": price, PROBE: price}
    async with house_with(replica=False, prices=prices) as house, house.client() as client:
        await client.post("/v1/workflows", json=poster)
        path = "/queue/workflows/default/poster"
        answer = await client.post(path, json={"idea": "a fox"}, headers={HEADER: value})
    assert (answer.status_code, sentence in answer.text) == (422 if sentence else 200, True)


@pytest.mark.parametrize(
    ("step", "value", "sentence"),
    [
        ({"for_each": "$input.ideas"}, "0.16", ""),  # three images, and one of the other step
        ({"for_each": "$input.ideas"}, "0.15", "this request costs 0.16 EUR"),
        ({"for_each": "$input.ideas", "input": {"seeds": "$item.seeds"}}, "0.23", "costs 0.24"),
        ({"for_each": "$words.sizes"}, "9", "runs for each element of a list that another step"),
        ({"input": {"num_images": {"$first": ["$words.sizes", 1]}}}, "9", "which is known when"),
        ({"if": "$input.wanted"}, "0.04", ""),
        ({"if": "$words.sizes"}, "0.07", "this request costs 0.08 EUR"),
    ],
)
async def test_a_step_costs_what_its_list_and_its_condition_say(
    step: dict[str, Any], value: str, sentence: str
) -> None:
    price = {"unit": "image", "amount": "0.04", "currency": "EUR"}
    steps = {
        "draw": {"app": "test/images", "input": {"prompt": "x"}, **step},
        "words": {"app": PROBE, "input": {"artifacts": 1}},
    }
    flow = {"name": "flow", "steps": steps, "output": {"drawn": "$draw"}}
    body = {"ideas": [{"seeds": [number] * number} for number in (1, 2, 2)], "wanted": False}
    async with house_with(replica=False, prices={"test/images": price, PROBE: price}) as house:
        async with house.client() as client:
            kept = await client.post("/v1/workflows", json=flow)
            assert kept.is_success, kept.text
            path = "/queue/workflows/default/flow"
            answer = await client.post(path, json=body, headers={HEADER: value})
    assert (answer.status_code, sentence in answer.text) == (422 if sentence else 200, True)


@pytest.mark.parametrize(
    ("draft", "steps", "value", "sentence"),
    [
        ({"count": 16, "until": 0.25}, 12, "0.16", ""),  # 16 images of 3 of 12 steps
        ({"count": 16, "until": 0.25}, 12, "0.15", "this request costs 0.16"),
        ({"count": 2, "noise": 0.5}, 12, "0.07", "this request costs 0.08 EUR"),
    ],
)
async def test_drafts_cost_their_share_of_the_steps(
    draft: dict[str, Any], steps: int, value: str, sentence: str
) -> None:
    body = {"prompt": "a dog", "draft": draft, "num_inference_steps": steps}
    async with build_house(**price_settings("image")) as house, house.client() as client:
        answer = await client.post(f"/queue/{FLUX}", json=body, headers={HEADER: value})
    assert (answer.status_code, sentence in answer.text) == (422 if sentence else 200, True)


async def test_tools_of_mcp_have_the_limit_too() -> None:
    async with build_house(**price_settings("request")) as house, house.client() as client:
        tool = {"name": "generate", "arguments": {"model": PROBE, "input": {}}}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
        answer = await client.post("/mcp", json=call, headers=MCP | {HEADER: "0.01"})
    assert "allows 0.01, and this request costs 0.04 EUR" in answer.text
