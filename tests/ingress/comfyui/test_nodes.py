"""Nodes and models that a replica has described, and the check of graphs by them."""

from __future__ import annotations

import gzip
import time

import pytest

from serve_app.domain.errors import Unavailable
from serve_app.domain.executors.comfyui import known_nodes
from tests.fakes.clock import FakeClock
from tests.ingress.comfyui.comfy import (
    CATALOG,
    DESCRIBED,
    GRAPH,
    Place,
    describe,
    node,
    queue_prompt,
    wait_for_end,
)
from tests.ingress.house import build_house

PATHS = ("object_info", "object_info/KSampler", "models", "models/loras", "embeddings")


async def test_until_a_replica_has_described_them_a_sentence_says_so(place: Place) -> None:
    for path in PATHS:
        answer = await place.client.get(f"/comfyui/{path}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30"), path
        assert "No replica has described the nodes" in answer.json()["error"]["message"]
    await queue_prompt(place.client, {"1": node("Whatever")})  # ComfyUI will say what it lacks


async def test_nodes_and_models_are_as_the_replica_described_them(place: Place) -> None:
    await describe(place.house)
    for prefix in ("", "api/"):
        answer = await place.client.get(f"/comfyui/{prefix}object_info")
        assert answer.json() == DESCRIBED["classes"]
        assert answer.headers["content-encoding"] == "gzip"
    plain = await place.client.get("/comfyui/object_info", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == DESCRIBED["classes"]
    for path, expected in (
        ("object_info/Hold", {"Hold": {"input": {}}}),
        ("object_info/None", {}),
        ("models", ["checkpoints", "embeddings"]),
        ("models/checkpoints", ["sd15.safetensors"]),
        ("embeddings", ["style/soft"]),
        ("experiment/models/checkpoints", [{"name": "sd15.safetensors", "pathIndex": 0}]),
    ):
        assert (await place.client.get(f"/comfyui/{path}")).json() == expected, path
    kinds = (await place.client.get("/comfyui/experiment/models")).json()
    assert kinds[0] == {"name": "checkpoints", "folders": []}
    unknown = await place.client.get("/comfyui/models/secrets")
    assert (unknown.status_code, "no kind of models" in unknown.text) == (404, True)
    system = (await place.client.get("/comfyui/system_stats")).json()["system"]
    assert system["comfyui_version"] == "0.3.75"


async def test_another_description_is_seen_after_some_seconds() -> None:
    clock = FakeClock()
    async with (
        build_house(catalog=CATALOG, replica=False, clock=clock) as house,
        house.client() as client,
    ):
        await describe(house)
        assert (await client.get("/comfyui/models/checkpoints")).json() == ["sd15.safetensors"]
        await describe(house, {**DESCRIBED, "models": {"checkpoints": ["new"]}})
        assert (await client.get("/comfyui/models/checkpoints")).json() == ["sd15.safetensors"]
        clock.advance(5)
        assert (await client.get("/comfyui/models/checkpoints")).json() == ["new"]


@pytest.mark.parametrize("damaged", [b"x", gzip.compress(b"{}"), gzip.compress(b'{"classes": []}')])
def test_a_damaged_description_is_an_error_with_a_sentence(damaged: bytes) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        known_nodes(damaged)


async def test_a_graph_with_an_unknown_node_is_refused_before_anything_is_queued(
    place: Place,
) -> None:
    await describe(place.house)
    graph = {**GRAPH, "7": {"class_type": "Magic", "inputs": {}, "_meta": {"title": "Wand"}}}
    answer = await place.client.post("/comfyui/prompt", json={"prompt": graph})
    assert answer.status_code == 400
    body = answer.json()
    assert body["error"]["type"] == "invalid_prompt"
    assert "Node 7 (Magic, “Wand”): ComfyUI here has no such class" in body["error"]["message"]
    assert body["node_errors"].keys() == {"7"}
    assert body["node_errors"]["7"]["class_type"] == "Magic"
    assert body["node_errors"]["7"]["errors"][0]["type"] == "missing_node_type"
    assert (await place.client.get("/comfyui/jobs")).json()["jobs"] == []


async def test_a_graph_without_outputs_or_inputs_is_refused(place: Place) -> None:
    await describe(place.house)
    answer = await place.client.post("/comfyui/prompt", json={"prompt": {"1": node("Hold")}})
    assert (answer.status_code, answer.json()["node_errors"]) == (400, {})
    assert "Prompt has no outputs" in answer.json()["error"]["message"]
    graph = {
        "1": node("KSampler"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="a"),
        "3": node("SaveImage", images=["1", 0]),
        "4": node("KSampler"),  # before no output
    }
    answer = await place.client.post("/comfyui/prompt", json={"prompt": graph})
    assert answer.status_code == 400
    errors = answer.json()["node_errors"]
    assert errors.keys() == {"1", "3"}
    (problem,) = errors["1"]["errors"]
    assert problem["type"] == "required_input_missing"
    assert problem["extra_info"] == {"input_name": "seed"}, (
        "what depends on the graph may be missing"
    )


async def test_a_large_graph_that_cannot_run_is_refused_within_seconds(place: Place) -> None:
    """Every output was looked at with all that is before it: 37 s for 600 kB, while all waited."""
    await describe(place.house)
    chain = {str(i): node("Hold", before=[str(i - 1), 0]) for i in range(1, 4000)}
    outputs = {
        f"out{i}": node("SaveImage", images=["3999", 0], filename_prefix="a") for i in range(4000)
    }
    graph = {"0": node("KSampler"), **chain, **outputs}
    began = time.monotonic()
    answer = await place.client.post("/comfyui/prompt", json={"prompt": graph})
    assert answer.json()["node_errors"].keys() == {"0"}
    assert time.monotonic() - began < 10


async def test_a_prompt_runs_if_one_of_its_outputs_can_be_computed(place: Place) -> None:
    await describe(place.house)
    graph = {**GRAPH, "3": node("KSampler"), "4": node("SaveImage", images=["3", 0])}
    await wait_for_end(place.house, await queue_prompt(place.client, graph))


async def test_a_key_for_other_endpoints_does_not_read_the_nodes(place: Place) -> None:
    await describe(place.house)
    limited = str(await place.house.keys.create("default", endpoints=("test/*",)))
    async with place.house.client(limited) as client:
        for path in (*PATHS, "jobs", "jobs/x"):
            assert (await client.get(f"/comfyui/{path}")).status_code == 403, path
        for path in ("history", "free", "jobs/cancel", "jobs/x/cancel"):
            answer = await client.post(f"/comfyui/{path}", json={"job_ids": []})
            assert answer.status_code == 403, path
