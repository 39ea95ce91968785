"""What the operator's policy refuses is not queued."""

from __future__ import annotations

import pytest

from serve_app.domain.media.safety import Blocklist, SafetyPolicy, SafetyRule
from serve_app.domain.request import RequestFilter
from tests.fakes.image_checkers import rule
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.socket import connect


async def test_a_blocked_word_is_named_by_fals_type_of_error_and_nothing_is_queued(
    house: House,
) -> None:
    rule = SafetyRule(tenants=("default",), words=Blocklist(["Jane Doe"]))
    house.services.safety = SafetyPolicy((rule,))
    body = {"prompt": "a portrait of jane  doe"}
    async with house.client() as client, house.client(house.other_key) as other:
        answer = await client.post("/queue/fal-ai/flux/schnell", json=body)
        assert answer.status_code == 422
        (problem,) = answer.json()["detail"]
        assert problem["loc"] == ["body", "prompt"]
        assert problem["type"] == "content_policy_violation"
        assert "“Jane Doe”" in problem["msg"]
        page = await house.queue.gallery.search(RequestFilter("default"), 10)
        assert page.requests == []
        assert (await other.post("/queue/fal-ai/flux/schnell", json=body)).status_code == 200
        await house.services.background.join()
        (act,) = (await client.get("/v1/audit")).json()["acts"]
        assert (act["action"], act["subject"]) == ("safety.input", "default")
        assert "Jane Doe" in act["detail"]["reason"]
    counted = house.services.metrics.registry.get_sample_value(
        "darkroom_safety_decisions_total", {"of": "input", "action": "block"}
    )
    assert counted == 1


@pytest.mark.parametrize("action", ["block", "blur"])
async def test_audio_that_would_be_withheld_is_refused_before_it_is_computed(action: str) -> None:
    body = {"prompt": "rain on a roof"}
    async with (
        build_house(catalog=OTHERS, replica=False) as house,
        house.client() as client,
        house.client(house.other_key) as other,
    ):
        withheld = SafetyRule(tenants=("default",), outputs=rule(action))
        house.services.safety = SafetyPolicy((withheld,))
        answer = await client.post("/queue/test/audio", json=body)
        assert answer.status_code == 422
        (problem,) = answer.json()["detail"]
        assert problem["type"] == "content_policy_violation"
        assert "it makes audio, which no checker" in problem["msg"]
        page = await house.queue.gallery.search(RequestFilter("default"), 10)
        assert page.requests == []
        assert (await client.post("/queue/test/images", json=body)).status_code == 200
        assert (await other.post("/queue/test/audio", json=body)).status_code == 200
        for passing in (rule(action) | {"audio": "pass"}, rule("flag")):
            house.services.safety = SafetyPolicy((SafetyRule(outputs=passing),))
            assert (await client.post("/queue/test/audio", json=body)).status_code == 200


async def test_frames_of_a_session_are_under_the_rules_for_words(house: House) -> None:
    house.services.safety = SafetyPolicy((SafetyRule(words=Blocklist(["gore"])),))
    async with connect(house) as client:
        client.send(prompt="gore")
        assert "gore" in str(await client.hear())
        client.send(prompt="a circle", echo=1)
        assert (await client.hear())["echo"] == 1
    assert len(house.replica.drawn) == 1


async def test_a_session_under_a_rule_for_files_draws_nothing(house: House) -> None:
    house.services.safety = SafetyPolicy((SafetyRule(outputs=rule("flag")),))
    async with connect(house) as client:
        client.send(prompt="a circle")
        assert "cannot be checked" in str(await client.hear())
    assert house.replica.drawn == []


async def test_decisions_about_files_are_in_the_audit_log(house: House) -> None:
    decision = {"rule": "nsfw", "action": "blur", "label": "nsfw", "score": 0.9}
    await house.services.record_output_decisions("r-1", [decision])
    async with house.client() as client:
        (act,) = (await client.get("/v1/audit")).json()["acts"]
    assert (act["action"], act["subject"], act["detail"]) == ("safety.output", "r-1", decision)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/run/test/probe", {"prompt": "x"}),
        ("/openai/v1/images/generations", {"model": "test/images", "prompt": "x"}),
        ("/replicate/v1/models/test/images/predictions", {"input": {"prompt": "x"}}),
    ],
)
async def test_a_result_says_whether_it_was_checked_and_what_was_billed(
    path: str, body: dict[str, object]
) -> None:
    price = {"unit": "request", "amount": "0.02", "currency": "EUR"}
    prices = {"test/probe": price, "test/images": price}
    async with build_house(catalog=OTHERS, prices=prices) as house, house.client() as client:
        answer = await client.post(path, json=body, headers={"prefer": "wait=20"})
        assert answer.is_success, answer.text
        assert answer.headers["x-darkroom-safety"] == "not-checked"
        assert answer.headers["x-fal-billable-units"] == "1"
        if "predictions" in path:
            later = await client.get(f"/replicate/v1/predictions/{answer.json()['id']}")
            assert later.headers["x-fal-billable-units"] == "1"
