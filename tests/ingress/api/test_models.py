"""``/v1/models``, in fal's format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from tests.ingress.house import House, build_house

SCHNELL, PROBE, UNSERVED = "fal-ai/flux/schnell", "test/probe", "test/unserved"


async def ids(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/v1/models", params=query)
    assert answer.status_code == 200, answer.text
    return [model["endpoint_id"] for model in answer.json()["models"]]


GENERATORS = "test/generator", "test/generator/stream"


async def model(client: httpx.AsyncClient, endpoint_id: str, **query: Any) -> dict[str, Any]:
    answer = await client.get("/v1/models", params={"endpoint_id": endpoint_id, **query})
    (entry,) = answer.json()["models"]
    return dict(entry)


async def test_models_are_listed_in_fals_shape(client: httpx.AsyncClient) -> None:
    page = (await client.get("/v1/models")).json()
    assert (page["next_cursor"], page["has_more"]) == (None, False)
    models = {entry["endpoint_id"]: entry for entry in page["models"]}
    assert models.keys() == {SCHNELL, PROBE, *GENERATORS, "test/deep/path/probe", UNSERVED}
    assert models[SCHNELL]["metadata"] == {
        "display_name": "FLUX.1 [schnell]",
        "category": "text-to-image",
        "description": "",
        "status": "active",
        "tags": [],
        "license": "Apache-2.0",
        "model_url": f"http://testserver/run/{SCHNELL}",
    }
    assert all("openapi" not in entry for entry in page["models"])


async def test_demo_models_are_distinguished_from_others(client: httpx.AsyncClient) -> None:
    assert (await model(client, SCHNELL))["darkroom_demo"] is True
    assert (await model(client, PROBE))["darkroom_demo"] is False


async def test_what_is_not_served_is_listed_with_its_reason(client: httpx.AsyncClient) -> None:
    entry = await model(client, UNSERVED)
    assert entry["metadata"]["status"] == "inactive"
    assert entry["darkroom"]["served"] is False
    assert "no demo model" in entry["darkroom"]["reason"]
    assert (await model(client, PROBE))["darkroom"]["reason"] is None
    refused = await client.post(f"/{UNSERVED}", json={"prompt": "x", "image_url": "http://x/y"})
    assert (refused.status_code, refused.json()["code"]) == (400, "endpoint_not_served")
    assert entry["darkroom"]["reason"] in refused.json()["message"]


async def test_weights_and_recipes_are_shown(client: httpx.AsyncClient) -> None:
    ours = (await model(client, UNSERVED))["darkroom"]
    assert ours["family"] == "flux"
    assert ours["weights"] == {
        "source": "black-forest-labs/FLUX.1-dev",
        "revision": "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        "version": None,
        "checkpoint": None,
        "parts": {},
    }
    assert ours["recipes"] == [
        {
            "memory_gb": 24.0,
            "precision": "float8",
            "offload": "components",
            "hot": ["transformer"],
            "compile": False,
            "compile_decoder": False,
            "graphs": False,
            "dtypes": {},
            "attention": "",
            "largest": None,
            "step_cache": {},
        }
    ]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"endpoint_id": [PROBE, SCHNELL]}, [PROBE, SCHNELL]),
        ({"endpoint_id": f"{PROBE},{SCHNELL}"}, [PROBE, SCHNELL]),
        ({"endpoint_id": "gone/away"}, []),
        ({"q": "flux SCHNELL"}, [SCHNELL]),
        ({"q": "nowhere"}, []),
        ({"category": "image-to-image"}, [UNSERVED]),
        ({"status": "inactive"}, [UNSERVED]),
        ({"status": "active", "q": "deep"}, ["test/deep/path/probe"]),
        ({"status": "deprecated"}, []),
    ],
)
async def test_the_list_is_filtered(
    client: httpx.AsyncClient, query: dict[str, Any], wanted: list[str]
) -> None:
    assert await ids(client, **query) == wanted


async def test_the_list_comes_page_by_page(client: httpx.AsyncClient) -> None:
    whole = await ids(client)
    first = (await client.get("/v1/models", params={"limit": 3})).json()
    assert first["has_more"] is True
    query = {"limit": 3, "cursor": first["next_cursor"]}
    rest = (await client.get("/v1/models", params=query)).json()
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    listed = [entry["endpoint_id"] for entry in (*first["models"], *rest["models"])]
    assert listed == whole


async def test_a_page_goes_on_behind_an_endpoint_that_is_not_of_it_any_more(
    client: httpx.AsyncClient,
) -> None:
    assert await ids(client, status="inactive", cursor=SCHNELL) == [UNSERVED]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "status=gone", "expand=everything", "cursor=no/such"]
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/models?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_each_comes_with_its_description_when_asked(client: httpx.AsyncClient) -> None:
    document = (await model(client, SCHNELL, expand="openapi-3.0"))["openapi"]
    validate(document)
    assert document["info"]["title"] == f"Queue OpenAPI for {SCHNELL}"
    assert document["info"]["x-fal-metadata"]["endpointId"] == SCHNELL
    assert document["servers"] == [{"url": "http://testserver/queue"}]
    fields = document["components"]["schemas"]["FalAiFluxSchnellInput"]["properties"]
    assert fields["num_inference_steps"]["maximum"] == 12


async def test_the_list_takes_a_key(house: House) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://localhost"
    ) as stranger:
        assert (await stranger.get("/v1/models")).status_code == 401


def on_replica(**changes: Any) -> dict[str, Any]:
    return {"pool": "studio", "stage": "ready", "hot": [], "warm": [], **changes}


async def test_a_model_says_what_it_makes_and_where_its_weights_are(house: House) -> None:
    replicas = [
        on_replica(stage="draining", hot=["test/deep/path/probe"]),
        on_replica(warm=[SCHNELL, PROBE]),
        on_replica(hot=[PROBE]),
    ]

    async def listed() -> list[dict[str, Any]]:
        return replicas

    house.services.health = replace(house.services.health, replicas=listed)
    async with house.client() as client:
        statuses = {
            model_id: (await model(client, model_id))["darkroom"] for model_id in await ids(client)
        }
    assert {model_id: status["state"] for model_id, status in statuses.items()} == {
        PROBE: "hot",
        SCHNELL: "warm",
        **dict.fromkeys(GENERATORS, "cold"),
        "test/deep/path/probe": "cold",
        UNSERVED: "not_served",
    }
    assert statuses[SCHNELL]["kind"] == "image"


async def test_models_are_listed_while_the_database_does_not_answer(house: House) -> None:
    async def away() -> list[dict[str, Any]]:
        raise DatabaseUnavailable("PostgreSQL does not answer.")

    house.services.health = replace(house.services.health, replicas=away)
    async with house.client() as client:
        assert (await model(client, PROBE))["darkroom"]["state"] == "unknown"


@pytest.fixture
def card_catalog(tmp_path: Path) -> Catalog:
    entry = {
        "family": "probe",
        "schema": "open",
        "readme": "# Probe",
        "examples": [
            {"input": {"prompt": "a"}, "output": {"images": []}},
            {"input": {"prompt": "b"}},
        ],
    }
    file = tmp_path / "models.yaml"
    file.write_text(json.dumps({"built_in": False, "endpoints": {PROBE: entry}}))
    return load(file, demo=True, demo_dir=tmp_path)


async def test_a_model_card_has_the_entrys_readme_and_examples(card_catalog: Catalog) -> None:
    async with build_house(catalog=card_catalog) as house, house.client() as client:
        card = (await model(client, PROBE))["darkroom"]
    assert card["readme"] == "# Probe"
    assert card["examples"] == [
        {"input": {"prompt": "a"}, "output": {"images": []}},
        {"input": {"prompt": "b"}, "output": None},
    ]


def test_an_example_that_the_endpoint_refuses_is_named(tmp_path: Path) -> None:
    entry = {
        "family": "flux",
        "schema": "flux-text-to-image",
        "weights": {"directory": "/w"},
        "defaults": {"num_inference_steps": 4, "guidance_scale": 3.5},
        "examples": [{"input": {"prompt": "a"}}, {"input": {"prompt": "a", "num_images": 99}}],
    }
    file = tmp_path / "models.yaml"
    file.write_text(json.dumps({"built_in": False, "endpoints": {PROBE: entry}}))
    with pytest.raises(Misconfigured, match="example 2 is refused: num_images"):
        load(file, demo=False, demo_dir=tmp_path)
