"""Drafts over HTTP: made, listed, and gone on from."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.ingress.api import drafts
from serve_app.ingress.submission.drafts import UNKNOWN
from tests.ingress.house import House, build_house

FLUX = "/fal-ai/flux/schnell"


async def generate_drafts(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Output of a request with drafts."""
    body = {"prompt": "a dog", "seed": 7, "draft": {"count": 2}, **fields}
    answer = await client.post(f"/run{FLUX}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def first_problem(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """First problem of a request that is refused."""
    answer = await client.post(f"/run{FLUX}", json=body)
    assert answer.status_code == 422, answer.text
    return answer.json()["detail"][0]


async def test_a_request_answers_with_previews_and_the_ids_of_its_drafts(house: House) -> None:
    async with house.client(house.weak_key) as client:
        output = await generate_drafts(client)
        assert len(output["images"]) == 2
        for image in output["images"]:
            assert (await client.get(image["url"])).status_code == 200
        assert [draft["seed"] for draft in output["drafts"]] == [7, 8]
        (first, _) = output["drafts"]
        assert first["expires_at"].endswith("Z")
        assert "key" not in first
        listed = (await client.get("/v1/drafts")).json()
        assert {draft["id"] for draft in listed["drafts"]} == {
            draft["id"] for draft in output["drafts"]
        }
        assert listed["bytes"] == sum(draft["size"] for draft in listed["drafts"])
        shown = (await client.get(f"/v1/drafts/{first['id']}")).json()
        assert (shown["endpoint_id"], shown["seed"]) == ("fal-ai/flux/schnell", 7)


async def test_a_key_for_some_endpoints_lists_their_drafts_however_many_others_are_newer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "MAX_LISTED", 2)
    dev = "fal-ai/flux/dev"
    key = str(await house.keys.create("default", endpoints=("fal-ai/flux/s*",)))
    async with house.client() as client, house.client(key) as limited:
        await generate_drafts(client)
        await generate_drafts(client)
        newer = [*house.queue._rows.values()][-1]
        newer.request = replace(newer.request, endpoint=dev)
        of_all = (await client.get("/v1/drafts")).json()["drafts"]
        assert {draft["endpoint_id"] for draft in of_all} == {dev}
        listed = (await limited.get("/v1/drafts")).json()["drafts"]
        assert [draft["endpoint_id"] for draft in listed] == ["fal-ai/flux/schnell"] * 2
        path = f"/v1/drafts?request_id={listed[0]['request_id']}"
        for caller in (client, limited):
            assert (await caller.get(path)).json()["drafts"] == listed
        hidden = f"/v1/drafts?request_id={of_all[0]['request_id']}"
        assert (await limited.get(hidden)).json()["drafts"] == []
        wrong = await client.get("/v1/drafts?request_id=one")
        assert wrong.status_code == 422
        assert wrong.json()["detail"][0]["loc"] == ["query", "request_id"]


async def test_a_draft_has_no_public_url(house: House) -> None:
    async with house.client(house.weak_key) as client:
        output = await generate_drafts(client)
        request_id = (await client.get("/v1/drafts")).json()["drafts"][0]["request_id"]
        shown = (await client.get(f"/v1/requests/{request_id}")).text
    keys = [key for key in house.storage.objects if key.startswith("d/")]
    assert len(keys) == 2
    assert not any(key in shown or key in str(output) for key in keys)


async def test_a_request_goes_on_with_the_drafts_input_and_its_own_changes(house: House) -> None:
    async with house.client(house.weak_key) as client:
        output = await generate_drafts(client, image_size="square")
        draft = output["drafts"][1]["id"]
        sent = await client.post(f"/queue{FLUX}", json={"from_draft": draft, "guidance_scale": 5})
        assert sent.status_code == 200, sent.text
        stored = await house.queue.get("default", sent.json()["request_id"])
        assert stored.input["prompt"] == "a dog"
        assert stored.input["seed"] == 8
        assert stored.input["image_size"] == {"width": 512, "height": 512}
        assert stored.input["guidance_scale"] == 5
        assert "draft" not in stored.input
        assert stored.draft_key in house.storage.objects
        whole = await client.post(f"/queue{FLUX}", json={"prompt": "a dog", "image_size": "square"})
        other = await house.queue.get("default", whole.json()["request_id"])
        assert stored.work == pytest.approx(0.75 * other.work)


async def test_new_noise_gets_a_seed_that_the_request_shows(house: House) -> None:
    async with house.client(house.weak_key) as client:
        draft = (await generate_drafts(client))["drafts"][0]["id"]
        sent = await client.post(f"/queue{FLUX}", json={"from_draft": draft, "new_noise": 0.4})
        stored = await house.queue.get("default", sent.json()["request_id"])
        assert isinstance(stored.input["noise_seed"], int)


async def test_an_unknown_draft_one_of_another_tenant_and_a_deleted_one_are_the_same(
    house: House,
) -> None:
    async with house.client(house.weak_key) as client, house.client(house.other_key) as other:
        draft = (await generate_drafts(client))["drafts"][0]["id"]
        problems = [
            await first_problem(client, from_draft="nothing"),
            await first_problem(client, from_draft="ünknown"),
            await first_problem(other, from_draft=draft, prompt="x"),
        ]
        assert (await other.get(f"/v1/drafts/{draft}")).status_code == 404
        assert (await other.delete(f"/v1/drafts/{draft}")).status_code == 404
        assert (await client.delete(f"/v1/drafts/{draft}")).status_code == 204
        assert (await client.delete(f"/v1/drafts/{draft}")).status_code == 404
        problems.append(await first_problem(client, from_draft=draft))
    for problem in problems:
        assert problem["loc"] == ["body", "from_draft"]
        assert problem["msg"] == UNKNOWN


async def test_what_a_draft_has_decided_is_a_422_at_the_field(house: House) -> None:
    async with house.client(house.weak_key) as client:
        draft = (await generate_drafts(client))["drafts"][0]["id"]
        for field, value in {"image_size": "square", "num_inference_steps": 2, "seed": 1}.items():
            problem = await first_problem(client, from_draft=draft, **{field: value})
            assert problem["loc"] == ["body", field]


async def test_a_draft_of_an_endpoint_that_was_changed_is_refused(house: House) -> None:
    async with house.client(house.weak_key) as client:
        draft = (await generate_drafts(client))["drafts"][0]["id"]
        (row,) = house.queue._rows.values()
        row.endpoint_digest = "another"
        problem = await first_problem(client, from_draft=draft)
        assert "was changed" in problem["msg"]
        row.endpoint_digest = house.services.catalog.get("fal-ai/flux/schnell").endpoint.digest
        row.request = replace(row.request, endpoint="fal-ai/flux/dev")
        problem = await first_problem(client, from_draft=draft)
        assert "made by fal-ai/flux/dev" in problem["msg"]


async def test_a_request_that_keeps_no_input_makes_no_drafts(house: House) -> None:
    async with house.client(house.weak_key) as client:
        answer = await client.post(
            f"/run{FLUX}", json={"prompt": "x", "draft": {}}, headers={"x-fal-store-io": "0"}
        )
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "draft"]


async def test_the_bytes_of_a_tenants_drafts_are_limited() -> None:
    async with (
        build_house(max_drafts_bytes_per_tenant=1) as house,
        house.client(house.weak_key) as client,
        house.client(house.other_key) as other,
    ):
        draft = (await generate_drafts(client))["drafts"][0]["id"]
        full = await client.post(f"/run{FLUX}", json={"prompt": "x", "draft": {}})
        assert full.status_code == 507
        assert "DARKROOM_MAX_DRAFTS_BYTES_PER_TENANT" in full.text
        assert (await client.post(f"/run{FLUX}", json={"from_draft": draft})).status_code == 200
        await generate_drafts(other)
        for old_draft in (await client.get("/v1/drafts")).json()["drafts"]:
            await client.delete(f"/v1/drafts/{old_draft['id']}")
        await generate_drafts(client)


async def test_drafts_of_unfinished_requests_count_towards_the_limit() -> None:
    async with (
        build_house(replica=False, max_drafts_bytes_per_tenant=10 * 2**20) as house,
        house.client(house.weak_key) as client,
        house.client(house.other_key) as other,
    ):
        path, body = f"/queue{FLUX}", {"prompt": "x", "draft": {"count": 2}}
        first = await client.post(path, json=body)
        assert first.status_code == 200
        assert (await client.post(path, json=body)).status_code == 200  # 8 of 10 MiB are expected
        full = await client.post(path, json=body)
        assert full.status_code == 507
        assert "unfinished requests" in full.text
        assert (await client.post(path, json={"prompt": "x"})).status_code == 200
        assert (await other.post(path, json=body)).status_code == 200
        cancelled = await client.put(f"{path}/requests/{first.json()['request_id']}/cancel")
        assert cancelled.is_success, cancelled.text
        assert (await client.post(path, json=body)).status_code == 200


async def test_requests_for_drafts_that_are_submitted_at_once_do_not_pass_the_limit() -> None:
    async with (
        build_house(replica=False, max_drafts_bytes_per_tenant=1) as house,
        house.client(house.weak_key) as client,
    ):
        body = {"prompt": "x", "draft": {"count": 16}}
        sent = [client.post(f"/queue{FLUX}", json=body) for _ in range(20)]
        answers = sorted([response.status_code for response in await asyncio.gather(*sent)])
        assert answers == [200, *[507] * 19]
        assert not house.services.drafts_storing


async def test_a_repeat_is_answered_when_the_bytes_are_used_up() -> None:
    async with (
        build_house(max_drafts_bytes_per_tenant=1) as house,
        house.client(house.weak_key) as client,
    ):
        body = {"prompt": "x", "seed": 1, "draft": {"count": 1}}
        sent = [
            await client.post(f"/run{FLUX}", json=body, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert [response.status_code for response in sent] == [200, 200]
        assert sent[0].json()["drafts"] == sent[1].json()["drafts"]


async def test_equal_requests_make_drafts_of_their_own() -> None:
    async with build_house() as house, house.client(house.weak_key) as client:
        headers = {"X-Darkroom-Cache": "allow"}
        ids: set[str] = set()
        for _ in range(2):
            body = {"prompt": "x", "seed": 1, "draft": {"count": 1}}
            answer = await client.post(f"/run{FLUX}", json=body, headers=headers)
            ids.add(answer.json()["drafts"][0]["id"])
        assert len(ids) == 2


async def test_the_list_of_models_says_which_make_drafts(house: House) -> None:
    async with house.client(house.weak_key) as client:
        models = (await client.get("/v1/models")).json()["models"]
    makes_drafts = {model["endpoint_id"]: model["darkroom"]["drafts"] for model in models}
    assert makes_drafts["fal-ai/flux/schnell"]
    assert not makes_drafts["test/probe"]
