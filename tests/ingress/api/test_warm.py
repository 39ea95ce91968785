"""Warm targets over HTTP."""

from __future__ import annotations

import httpx
import pytest

from serve_app.domain.operations import WeightsLevel
from serve_app.settings import PoolConfig
from serve_app.settings.pools import WarmConfig
from tests.ingress.house import House, build_house

PROBE = "test/probe"
TWICE_WARM = PoolConfig(
    families=("probe",),
    warm=(WarmConfig(endpoint=PROBE), WarmConfig(endpoint=PROBE, level=WeightsLevel.HOST)),
)


async def test_an_operator_sets_lists_and_ends_a_target(house: House) -> None:
    async with house.client() as client:
        wish = {"endpoint_id": PROBE, "replicas": 2, "for_s": 1800}
        stored = await client.post("/v1/warm", json=wish)
        assert stored.status_code == 200
        target = stored.json()
        assert (target["replicas"], target["level"], target["source"]) == (2, "hot", "operator")
        assert (target["pool"], target["ready_replicas"], target["problems"]) == ("studio", 0, [])
        assert target["until"] is not None
        assert (await client.get("/v1/warm")).json()["warm_targets"] == [target]
        status = (await client.get("/v1/status")).json()
        assert status["warm"] == [target]
        replaced = await client.post("/v1/warm", json={"endpoint_id": PROBE, "level": "disk"})
        assert (replaced.json()["level"], replaced.json()["until"]) == ("disk", None)
        assert (await client.delete(f"/v1/warm/{PROBE}")).status_code == 204
        assert (await client.delete(f"/v1/warm/{PROBE}")).status_code == 404
        assert (await client.get("/v1/warm")).json()["warm_targets"] == []
        acts = (await client.get("/v1/audit")).json()["acts"]
        assert [act["action"] for act in acts] == ["warm.end", "warm.set", "warm.set"]


async def test_targets_are_for_operators(house: House) -> None:
    async with house.client(house.weak_key) as client:
        for answer in (
            await client.get("/v1/warm"),
            await client.post("/v1/warm", json={"endpoint_id": PROBE}),
            await client.delete(f"/v1/warm/{PROBE}"),
        ):
            assert answer.status_code == 403


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"replicas": 0}, "replicas"),
        ({"level": "lukewarm"}, "level"),
        ({"for_s": -1}, "for_s"),
        ({"for_s": 60, "until": "2100-01-01T00:00:00Z"}, "until"),
        ({"until": "2020-01-01T00:00:00Z"}, "until"),
        ({"until": "2100-01-01T00:00:00"}, "until"),
        ({"minutes": 3}, "minutes"),
    ],
)
async def test_a_field_that_is_not_valid_is_named(
    client: httpx.AsyncClient, wish: dict[str, object], field: str
) -> None:
    answer = await client.post("/v1/warm", json={"endpoint_id": PROBE, **wish})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_an_app_has_no_weights_to_hold(house: House) -> None:
    schema = {"type": "object", "properties": {}}
    options = {
        "app": {"bundle": "aa", "class": "a:A", "path": "/"},
        "input_schema": schema,
        "output_schema": schema,
    }
    entry = {"family": "python", "schema": "json", "options": options}
    async with house.client() as client:
        stored = await client.put("/v1/models/entries/apps/a", json=entry)
        assert stored.status_code == 200, stored.text
        answer = await client.post("/v1/warm", json={"endpoint_id": "apps/a"})
        assert (await client.get("/v1/warm")).json()["warm_targets"] == []
    assert answer.status_code == 422
    assert "apps/a has no weights that a replica could hold" in answer.text


async def test_an_endpoint_that_is_not_there_is_not_kept(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/warm", json={"endpoint_id": "test/prob"})).status_code == 404


async def test_no_more_replicas_are_kept_than_the_pool_may_have() -> None:
    async with build_house(pools={"probes": PoolConfig(families=("probe",))}) as house:
        async with house.client() as client:
            answer = await client.post("/v1/warm", json={"endpoint_id": PROBE, "replicas": 2})
            assert answer.status_code == 422
            assert "max_replicas of the pool probes" in answer.json()["detail"][0]["msg"]


async def test_pages_show_each_of_several_targets_of_one_model_once() -> None:
    levels: list[str] = []
    async with build_house(pools={"probes": TWICE_WARM}) as house, house.client() as client:
        await client.post("/v1/warm", json={"endpoint_id": PROBE, "level": "disk"})
        page = (await client.get("/v1/warm?limit=1")).json()
        while len(levels) < 4:
            levels += [target["level"] for target in page["warm_targets"]]
            if not page["has_more"]:
                break
            page = (await client.get(f"/v1/warm?limit=1&cursor={page['next_cursor']}")).json()
    assert levels == ["hot", "host", "disk"]
