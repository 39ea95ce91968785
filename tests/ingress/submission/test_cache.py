"""`X-Darkroom-Cache` and the catalog's `cache`: an equal input with an equal seed runs once."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.ingress.submission.reuse import reuse_digest
from tests.ingress.house import House

ALLOW = {"X-Darkroom-Cache": "allow"}
RUN, SUBMIT = "/test/probe", "/queue/test/probe"
CACHED = "/test/deep/path/probe"


def wish(**changes: Any) -> dict[str, Any]:
    return {"seed": 1, "artifacts": 1, "content": "abc", **changes}


async def test_the_same_wish_has_the_same_files_and_says_so(
    house: House, client: httpx.AsyncClient
) -> None:
    first = await client.post(RUN, json=wish(), headers=ALLOW)
    second = await client.post(RUN, json=wish(), headers=ALLOW)
    assert first.json() == second.json()
    assert "x-darkroom-cache" not in first.headers
    assert second.headers["x-darkroom-cache"] == "hit"
    ids = [answer.headers["x-fal-request-id"] for answer in (first, second)]
    assert house.replica.ran == [ids[0]] != [ids[1]]
    shown = (await client.get(f"/v1/requests/{ids[1]}")).json()
    assert (shown["reuses"], shown["run_s"], shown["attempt"]) == (ids[0], 0.0, 0)
    assert ids[0] in shown["log"][-1]["message"]


async def test_a_submit_is_found_at_its_end(house: House, client: httpx.AsyncClient) -> None:
    await client.post(RUN, json=wish(), headers=ALLOW)
    response = await client.post(SUBMIT, json=wish(), headers=ALLOW)
    assert response.headers["x-darkroom-cache"] == "hit"
    status = await client.get(response.json()["status_url"], params={"logs": "1"})
    assert (status.status_code, status.json()["status"]) == (200, "COMPLETED")
    assert (await client.get(response.json()["response_url"])).status_code == 200
    assert len(house.replica.ran) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (wish(seed=None), wish(seed=None)),
        (wish(), wish(seed=2)),
        (wish(), wish(content="abd")),
        (wish(image_url="https://a.example/x.png"), wish(image_url="https://a.example/x.png")),
        (wish(more=[{"url": "HTTP://a.example/"}]), wish(more=[{"url": "HTTP://a.example/"}])),
    ],
)
async def test_another_wish_or_one_whose_outcome_cannot_be_known_is_made(
    house: House, client: httpx.AsyncClient, first: dict[str, Any], second: dict[str, Any]
) -> None:
    for orders in (first, second):
        answer = await client.post(RUN, json=orders, headers=ALLOW)
        assert "x-darkroom-cache" not in answer.headers
    assert len(house.replica.ran) == 2


async def test_without_a_wish_for_it_nothing_is_shared(
    house: House, client: httpx.AsyncClient
) -> None:
    for headers in ({}, ALLOW, {}, {"X-Darkroom-Cache": "no"}):
        await client.post(RUN, json=wish(), headers=headers)
    assert len(house.replica.ran) == 4


async def test_an_endpoint_may_share_unless_the_request_forbids_it(
    house: House, client: httpx.AsyncClient
) -> None:
    answers = [
        await client.post(CACHED, json=wish(), headers=headers)
        for headers in ({}, {}, {"X-Darkroom-Cache": "no"})
    ]
    assert [answer.headers.get("x-darkroom-cache") for answer in answers] == [None, "hit", None]
    assert len(house.replica.ran) == 2


async def test_the_digest_distinguishes_versions_of_an_endpoint_and_deterministic_runs() -> None:
    before = Endpoint("a/b", "flux", Weights("hub", "a" * 40), "open")
    after = Endpoint("a/b", "flux", Weights("hub", "b" * 40), "open")
    digests = {
        await reuse_digest(endpoint, {"seed": 1}, alone=alone)
        for endpoint in (before, after)
        for alone in (True, False)
    }
    assert len(digests) == 4
    assert await reuse_digest(before, {"b": 2, "seed": 1}, alone=False) == await reuse_digest(
        before, {"seed": 1, "b": 2}, alone=False
    )


async def test_the_same_wish_while_the_first_runs_waits_for_it_and_says_so(
    house: House, client: httpx.AsyncClient
) -> None:
    first = (await client.post(SUBMIT, json=wish(sleep_s=0.3), headers=ALLOW)).json()
    response = await client.post(SUBMIT, json=wish(sleep_s=0.3), headers=ALLOW)
    assert response.headers["x-darkroom-cache"] == "joined"
    assert response.json()["darkroom"]["reason"] == "following"
    second = response.json()
    shown = (await client.get(f"/v1/requests/{second['request_id']}")).json()
    assert (shown["state"], shown["follows"]) == ("queued", first["request_id"])
    ran = await client.post(RUN, json=wish(sleep_s=0.3), headers=ALLOW)
    assert ran.headers["x-darkroom-cache"] == "hit"
    answers = [await client.get(submission["response_url"]) for submission in (first, second)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json() == ran.json()
    assert house.replica.ran == [first["request_id"]]


async def test_who_hangs_up_does_not_take_away_what_another_waits_for(
    house: House, client: httpx.AsyncClient
) -> None:
    first = (await client.post(SUBMIT, json=wish(sleep_s=0.5), headers=ALLOW)).json()
    second = (await client.post(SUBMIT, json=wish(sleep_s=0.5), headers=ALLOW)).json()
    await client.put(first["cancel_url"])
    answer = await client.get(second["status_url"])
    while answer.json()["status"] != "COMPLETED":
        answer = await client.get(second["status_url"])
    assert "error" not in answer.json()
    assert house.replica.ran == [first["request_id"], second["request_id"]]
