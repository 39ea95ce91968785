"""Fallbacks as clients see them: one id, one outcome, and where it ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.catalog.catalog import load
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import read
from serve_app.domain.executors.fallback import FallbackMove, FallbackReason
from serve_app.domain.media.safety import SafetyPolicy, SafetyRule
from serve_app.domain.request import Request
from serve_app.ingress.workflows.worker import WorkflowWorker
from serve_app.settings import PoolConfig
from tests.fakes.image_checkers import rule
from tests.ingress.house import MODELS, House, build_house
from tests.ingress.replica import ScriptedReplica
from tests.ingress.workflows.test_running import register_workflow, steps_of, submit_request

OWN, OTHER = "test/own", "test/other"
PRICES = {
    OWN: {"unit": "request", "amount": "0.01", "currency": "EUR"},
    OTHER: {"unit": "request", "amount": "0.5", "currency": "EUR"},
}
FLOW = {
    "name": "flow",
    "input": {},
    "steps": {"draw": {"app": OWN, "input": {"echo": "hello"}}},
    "output": {"said": "$draw.echo"},
}
APP = {
    "family": "python",
    "schema": "json",
    "options": {
        "secrets": ["HF_TOKEN"],
        "app": {"bundle": "aa", "class": "a:A", "path": "/"},
        "input_schema": {"type": "object", "additionalProperties": True},
        "output_schema": {"type": "object"},
    },
}
POOLS = {
    "own": PoolConfig(families=("probe",), endpoints=(OWN,)),
    "hosted": PoolConfig(families=("probe", "python"), endpoints=(OTHER,)),
    "rest": PoolConfig(families=("probe", "flux")),
}


@asynccontextmanager
async def house_with(tmp_path: Path, *, replicas: bool = True, **more: Any) -> AsyncIterator[House]:
    """House whose first endpoint falls back to the second, in another pool."""
    prices = more.pop("prices", PRICES)
    probe = {"family": "probe", "schema": "open"}
    other = more.pop("other", probe)
    fallback = {"endpoint": OTHER, "max_wait_s": 5, "errors": ["out_of_memory"]} | more
    models = tmp_path / "models.yaml"
    entries = {OWN: probe | {"fallback": fallback}, OTHER: other}
    await asyncio.to_thread(
        models.write_text, yaml.safe_dump({"built_in": False, "endpoints": entries})
    )
    catalog = await asyncio.to_thread(load, models, demo=True, demo_dir=MODELS.parent)
    flow = workflow_entry("default", "flow", definition_of(read(FLOW)), public=True, catalog=None)
    documented = catalog.with_private([flow]).of_tenant("default")
    options = {"catalog": catalog, "documented": documented, "prices": prices}
    async with build_house(pools=POOLS, replica=False, **options) as house:
        scripted = [ScriptedReplica(house.queue, house.storage, pool) for pool in ("own", "hosted")]
        for replica in scripted if replicas else ():
            await replica.start()
        try:
            yield house
        finally:
            for replica in scripted:
                await replica.aclose()


async def run_to_end(
    house: House, body: Any, headers: Any = None, path: str = OWN
) -> dict[str, Any]:
    """Status of a request after its end."""
    async with house.client() as client:
        answer = await client.post(f"/queue/{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        request_id = answer.json()["request_id"]
        await house.queue.wait("default", request_id, 20)
        status = await client.get(f"/queue/{path}/requests/{request_id}/status?logs=1")
        return status.json()


def log_text(status: dict[str, Any]) -> str:
    return "\n".join(log["message"] for log in status["logs"])


async def fetch_request(house: House, status: dict[str, Any]) -> Request:
    return await house.queue.current("default", status["request_id"])


async def test_status_result_and_list_say_where_a_request_ran(tmp_path: Path) -> None:
    async with house_with(tmp_path, errors=["pipeline_failed"]) as house:
        status = await run_to_end(house, {"fail": "pipeline_failed"})
        request_id = status["request_id"]
        async with house.client() as client:
            result = await client.get(f"/queue/{OWN}/requests/{request_id}")
            listed = (await client.get("/v1/requests")).json()["requests"]
            prediction = await client.get(f"/replicate/v1/predictions/{request_id}")
    fallback = {"endpoint": OTHER, "reason": "pipeline_failed"}
    assert status["darkroom"]["fallback"] == fallback
    assert (status["status"], "It failed" in status["error"]) == ("COMPLETED", False)
    assert f"It falls back to {OTHER} (pipeline_failed)." in log_text(status)
    assert result.headers["x-darkroom-endpoint"] == OTHER  # it failed there too
    assert [(request["endpoint_id"], request["fallback"]) for request in listed] == [
        (OWN, fallback)
    ]
    assert prediction.json()["darkroom_fallback"] == fallback


async def test_a_request_that_waits_is_billed_where_it_ran(tmp_path: Path) -> None:
    async with house_with(tmp_path, replicas=False) as house, house.client() as client:
        answer = await client.post(f"/queue/{OWN}", json={"echo": "hello"})
        request_id = answer.json()["request_id"]
        await house.queue.fallbacks.move([FallbackMove(request_id, FallbackReason.DEADLINE)])
        waiting = await client.get(f"/queue/{OWN}/requests/{request_id}/status")
        replica = ScriptedReplica(house.queue, house.storage, "hosted")
        await replica.start()
        await house.queue.wait("default", request_id, 20)
        await replica.aclose()
        result = await client.get(f"/queue/{OWN}/requests/{request_id}")
        usage = await client.get("/v1/usage?by=endpoint")
    assert waiting.json()["darkroom"]["fallback"] == {"endpoint": OTHER, "reason": "deadline"}
    assert (result.status_code, result.json()["echo"]) == (200, "hello")
    costs = {row["endpoint_id"]: row["cost"] for row in usage.json()["results"]}
    assert costs == {OTHER: 0.5}


async def test_a_request_that_ran_at_its_own_endpoint_has_no_fallback(tmp_path: Path) -> None:
    async with house_with(tmp_path) as house:
        status = await run_to_end(house, {"echo": "hello"})
        request = await fetch_request(house, status)
    assert "fallback" not in status["darkroom"]
    assert (request.fell_back_to, request.fallback is not None) == ("", True)


async def test_fals_header_disables_it(tmp_path: Path) -> None:
    async with house_with(tmp_path) as house:
        header = {"X-App-Fal-Disable-Fallback": "true"}
        status = await run_to_end(house, {"fail": "out_of_memory"}, header)
        assert (await fetch_request(house, status)).fallback is None
    assert status["error_type"]
    assert "fallback" not in status["darkroom"]


@pytest.mark.parametrize(
    ("more", "headers", "words"),
    [
        ({}, {"X-Darkroom-Max-Cost": "0.1"}, "and there this request costs 0.5 EUR.\n"),
        ({"budget": "9 USD/day"}, {}, "the budget is in USD, its price in EUR"),
        ({"other": APP}, {}, f"{OTHER} needs the secret HF_TOKEN, which is not set"),
        ({"prices": {}, "budget": "9 EUR/day"}, {}, "needs a price of that endpoint"),
        ({"prices": {**PRICES, OTHER: {**PRICES[OTHER], "currency": "USD"}}}, {}, "in USD"),
    ],
)
async def test_a_request_that_cannot_fall_back_says_why_in_its_log(
    tmp_path: Path, more: Any, headers: Any, words: str
) -> None:
    async with house_with(tmp_path, **more) as house:
        status = await run_to_end(house, {}, headers)
    assert words in log_text(status)
    assert f"The request cannot fall back to {OTHER}: " in log_text(status)


async def test_a_request_cannot_fall_back_to_files_that_the_policy_withholds(
    tmp_path: Path,
) -> None:
    audio = {
        "family": "probe",
        "schema": "open",
        "options": {"artifacts_field": "audios", "media_type": "audio/wav"},
        "defaults": {"audios": 1},
    }
    async with house_with(tmp_path, other=audio) as house:
        house.services.safety = SafetyPolicy((SafetyRule(outputs=rule("block")),))
        status = await run_to_end(house, {})
    assert f"cannot fall back to {OTHER}: " in log_text(status)
    assert "it makes audio, which no checker of this installation hears" in log_text(status)


async def test_low_priority_waits(tmp_path: Path) -> None:
    async with house_with(tmp_path) as house:
        status = await run_to_end(house, {}, {"X-Fal-Queue-Priority": "low"})
        fallback = (await fetch_request(house, status)).fallback
    assert fallback is not None
    assert fallback.max_wait_s is None


@pytest.mark.parametrize(
    ("headers", "may_fall_back"),
    [
        ({}, True),
        ({"X-Darkroom-Max-Cost": "0.1"}, False),
        ({"X-App-Fal-Disable-Fallback": "true"}, False),
    ],
)
async def test_steps_stay_at_their_endpoints_if_their_workflow_may_not_cost_more(
    tmp_path: Path, headers: dict[str, str], may_fall_back: bool
) -> None:
    async with house_with(tmp_path, replicas=False) as house:
        endpoint = await register_workflow(house, FLOW)
        await submit_request(house, endpoint, {}, headers)
        await WorkflowWorker(house.services).advance()
        (step,) = steps_of(house, OWN)
    assert (step.fallback is not None) == may_fall_back
