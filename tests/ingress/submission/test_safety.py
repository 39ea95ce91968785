"""What the operator's policy refuses is not queued."""

from __future__ import annotations

from serve_app.domain.request import RequestFilter
from serve_app.domain.safety import Blocklist, SafetyPolicy, SafetyRule
from tests.ingress.house import House


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
        found = await house.queue.gallery.search(RequestFilter("default"), 10)
        assert found.requests == []
        assert (await other.post("/queue/fal-ai/flux/schnell", json=body)).status_code == 200
    counted = house.services.metrics.registry.get_sample_value(
        "darkroom_safety_decisions_total", {"of": "input", "action": "block"}
    )
    assert counted == 1
