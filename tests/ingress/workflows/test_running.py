"""Requests to workflows: steps, files, fan-out, conditions, failures, cancels and deadlines."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import read
from serve_app.domain.audit.acts import Actor
from serve_app.domain.request import Priority, Request, State
from serve_app.ingress.workflows.worker import ADVANCED_AT_ONCE, WorkflowWorker
from serve_app.settings import BudgetConfig, TenantLimits
from tests.captured_logs import CapturedLogs
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.openai.batches.test_worker import Killed, Mortal

IMAGES, PROBE = "test/images", "test/probe"
ROUNDS = 600
ACTOR = Actor("operator", "127.0.0.1")
POSTER: Mapping[str, Any] = {
    "name": "poster",
    "contents": {
        "name": "poster",
        "version": "0.1",
        "schema": {"input": {"idea": {"type": "string"}}, "output": {"picture": {}}},
        "nodes": {
            "draw": {
                "id": "draw",
                "type": "run",
                "app": IMAGES,
                "depends": ["input"],
                "input": {"prompt": "$input.idea", "num_images": 2},
            },
            "big": {
                "id": "big",
                "type": "run",
                "app": PROBE,
                "depends": ["draw"],
                "input": {"echo": "$draw.images.1.url", "steps": 1},
            },
        },
        "output": {"picture": "$draw.images.1", "url": "$draw.images.0.url", "said": "$big.echo"},
    },
}


def make_catalog(*names: str) -> Catalog:
    """Catalogue with these workflows, with which answers are compared."""
    definition = definition_of(read(POSTER))
    entries = [
        workflow_entry("default", name, definition, public=True, catalog=None) for name in names
    ]
    return OTHERS.with_private(entries).of_tenant("default")


DOCUMENTED = make_catalog("poster", "flow")


def house_with(**settings: Any) -> Any:
    return build_house(catalog=OTHERS, documented=DOCUMENTED, **settings)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with house_with() as house:
        yield house


@pytest.fixture
async def idle() -> AsyncIterator[House]:
    async with house_with(replica=False) as house:
        yield house


async def register_workflow(
    house: House, workflow: Mapping[str, Any], key: str | None = None
) -> str:
    """Id of the endpoint of a workflow, which is registered."""
    async with house.client(key or house.weak_key) as client:
        answer = await client.post("/v1/workflows", json=workflow)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["endpoint_id"])


def steps_form(steps: Mapping[str, Any], output: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    fields = more.pop("input", {})
    return {"name": "flow", "input": fields, "steps": steps, "output": output, **more}


async def submit_request(
    house: House,
    endpoint: str,
    body: Mapping[str, Any],
    headers: Any = None,
    key: str | None = None,
) -> str:
    async with house.client(key or house.weak_key) as client:
        answer = await client.post(f"/queue/{endpoint}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])


async def status(house: House, endpoint: str, request_id: str, key: str | None = None) -> Any:
    async with house.client(key or house.weak_key) as client:
        url = f"/queue/{endpoint}/requests/{request_id}/status?logs=1"
        return (await client.get(url)).raise_for_status().json()


async def run_until_ended(
    house: House, endpoint: str, request_id: str, worker: WorkflowWorker | None = None
) -> Any:
    """Rounds until the request has ended; its last status."""
    worker = worker or WorkflowWorker(house.services)
    for _ in range(ROUNDS):
        await worker.advance()
        if house.queue._rows[request_id].request.state.final:
            return await status(house, endpoint, request_id)
        await asyncio.sleep(0.01)
    raise AssertionError(await status(house, endpoint, request_id))


async def result(house: House, endpoint: str, request_id: str) -> httpx.Response:
    async with house.client(house.weak_key) as client:
        return await client.get(f"/queue/{endpoint}/requests/{request_id}")


def steps_of(house: House, endpoint: str) -> Sequence[Request]:
    """Requests of steps to an endpoint."""
    requests = (row.request for row in house.queue._rows.values())
    return [request for request in requests if request.endpoint == endpoint]


async def test_steps_run_one_after_the_other_and_files_are_passed_along(house: House) -> None:
    endpoint = await register_workflow(house, POSTER)
    assert endpoint == "workflows/default/poster"
    request_id = await submit_request(house, endpoint, {"idea": "a red circle"})
    done = await run_until_ended(house, endpoint, request_id)
    assert (done["status"], done["darkroom"]["state"]) == ("COMPLETED", "succeeded")
    output = (await result(house, endpoint, request_id)).raise_for_status().json()
    assert output["picture"]["content_type"] == "image/png"
    assert output["picture"]["file_size"] == len(b"image")
    assert urlsplit(output["said"]).path == urlsplit(output["picture"]["url"]).path
    assert output["picture"]["url"] != output["url"]
    async with house.client() as client:
        assert (await client.get(output["url"])).content == b"image"
    (draw,), (big,) = steps_of(house, IMAGES), steps_of(house, PROBE)
    assert draw.input["prompt"] == "a red circle"
    assert big.input["echo"] == output["said"]
    steps = {step["node_id"]: step for step in done["darkroom"]["workflow"]["steps"]}
    assert [steps["draw"]["request_id"], steps["big"]["request_id"]] == [draw.id, big.id]
    assert {step["state"] for step in steps.values()} == {"succeeded"}
    assert done["metrics"]["inference_time"] == done["darkroom"]["workflow"]["run_s"] == 0.5
    messages = [log["message"] for log in done["logs"]]
    assert f"Step draw is request {draw.id} to test/images." in messages
    assert "Step big succeeded." in messages


async def test_a_step_at_a_drained_or_paused_endpoint_says_why_it_waits(house: House) -> None:
    endpoint = await register_workflow(house, POSTER)
    request_id = await submit_request(house, endpoint, {"idea": "x"})
    worker, operations = WorkflowWorker(house.services), house.queue.operations
    await operations.drain(IMAGES, ACTOR)
    for _ in range(3):
        await worker.advance()
    shown = await status(house, endpoint, request_id)
    draw, big = shown["darkroom"]["workflow"]["steps"]
    assert (draw["state"], draw["reason"]) == ("waiting", "not_accepted")
    assert "accepts no new requests" in draw["detail"]
    assert (big["reason"], big["detail"]) == (None, "")
    assert [log["message"] for log in shown["logs"] if "waits" in log["message"]] == [
        f"Step draw waits: {draw['detail']}"
    ]
    await operations.pause(IMAGES, ACTOR)
    await worker.advance()
    draw, _ = (await status(house, endpoint, request_id))["darkroom"]["workflow"]["steps"]
    assert (draw["state"], draw["queue_position"], draw["reason"]) == ("queued", 0, "paused")
    await operations.resume(IMAGES, ACTOR)
    done = await run_until_ended(house, endpoint, request_id, worker)
    assert done["darkroom"]["state"] == "succeeded"
    assert {step["reason"] for step in done["darkroom"]["workflow"]["steps"]} == {None}


async def test_a_workflow_costs_what_its_steps_cost_and_is_counted_once() -> None:
    prices = {IMAGES: {"unit": "image", "amount": 0.25, "currency": "EUR"}}
    async with house_with(prices=prices) as house:
        endpoint = await register_workflow(house, POSTER)
        request_id = await submit_request(house, endpoint, {"idea": "x"})
        done = await run_until_ended(house, endpoint, request_id)
        assert done["darkroom"]["workflow"]["cost"] == [{"amount": "0.50", "currency": "EUR"}]
        assert house.queue.ledger.cost("default") == 0.5
        own = [line for line in house.queue.ledger.lines if line.id == request_id]
        assert [(line.usage.run_s, line.made.images) for line in own] == [(0.0, 0)]


async def test_a_run_that_may_cost_more_than_the_budget_has_left_does_not_start() -> None:
    price = {"unit": "image", "amount": 1, "currency": "USD"}
    own = TenantLimits(budget=BudgetConfig(amount=Decimal("2.5")))
    settings = {"prices": {IMAGES: price, PROBE: price}, "tenant_limits": {"default": own}}
    single = copy.deepcopy(dict(POSTER))
    single["contents"]["nodes"]["draw"]["input"]["num_images"] = 1
    single["contents"]["nodes"]["big"]["input"]["echo"] = "$draw.images.0.url"
    single["contents"]["output"] = {"url": "$draw.images.0.url"}
    async with house_with(workflows=True, **settings) as house:
        async with house.client() as client:
            await client.post("/v1/workflows", json=POSTER)
            path = "/queue/workflows/default/poster"
            refused = await client.post(path, json={"idea": "a fox"})
            assert "2.5 USD are left, and this request may cost 3 USD" in refused.text
            assert (refused.status_code, await house.queue.page("default")) == (403, [])
            await client.post("/v1/workflows", json=single)
            answer = await client.post("/run/workflows/default/poster", json={"idea": "a fox"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-darkroom-budget-remaining"] == "2.5 USD"


async def test_a_step_runs_for_each_element_of_a_list(house: House) -> None:
    form = steps_form(
        {
            "draw": {"app": IMAGES, "input": {"prompt": "x", "num_images": "$input.count"}},
            "each": {
                "app": PROBE,
                "for_each": "$draw.images",
                "input": {"echo": {"url": "$item.url", "nth": "$index"}},
            },
        },
        {"urls": "$each.*.echo.url", "second": "$each.1.echo.nth"},
        input={"count": {"type": "integer", "minimum": 0, "maximum": 4}},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {"count": 3})
    done = await run_until_ended(house, endpoint, request_id)
    output = (await result(house, endpoint, request_id)).raise_for_status().json()
    assert len({*output["urls"]}) == 3
    assert output["second"] == 1
    listed = [step for step in done["darkroom"]["workflow"]["steps"] if step["node_id"] == "each"]
    assert [step["item"] for step in listed] == [0, 1, 2]
    empty = await submit_request(house, endpoint, {"count": 0})
    await run_until_ended(house, endpoint, empty)
    answer = await result(house, endpoint, empty)
    assert answer.json()["urls"] == []


async def test_a_step_whose_condition_is_false_is_skipped_with_those_that_need_it(
    house: House,
) -> None:
    form = steps_form(
        {
            "draw": {"app": IMAGES, "input": {"prompt": "x"}},
            "big": {
                "app": PROBE,
                "if": {"value": "$input.size", "equals": "big"},
                "input": {"echo": "large"},
            },
            "after": {"app": PROBE, "input": {"echo": "$big.echo"}},
            "any": {"app": PROBE, "input": {"echo": {"$first": ["$big.echo", "small"]}}},
        },
        {"big": "$after.echo", "any": "$any.echo"},
        input={"size": {"type": "string"}},
    )
    endpoint = await register_workflow(house, form)
    answers = []
    for size in ("big", "other"):
        request_id = await submit_request(house, endpoint, {"size": size})
        done = await run_until_ended(house, endpoint, request_id)
        answers.append((await result(house, endpoint, request_id)).json())
    assert answers == [{"big": "large", "any": "large"}, {"big": None, "any": "small"}]
    states = {e["node_id"]: e["state"] for e in done["darkroom"]["workflow"]["steps"]}
    assert states == {
        "draw": "succeeded", "big": "skipped", "after": "skipped", "any": "succeeded"
    }  # fmt: skip


async def test_a_failed_step_ends_the_workflow_and_cancels_the_others(house: House) -> None:
    form = steps_form(
        {
            "bad": {"app": PROBE, "input": {"fail": "pipeline_failed", "message": "No paint."}},
            "slow": {"app": PROBE, "input": {"sleep_s": 60}},
        },
        {"x": "$slow.echo"},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {})
    done = await run_until_ended(house, endpoint, request_id)
    assert "The step `bad` (test/probe" in done["error"]
    assert "failed: No paint." in done["error"]
    answer = await result(house, endpoint, request_id)
    assert answer.status_code == 500
    slow = next(step for step in steps_of(house, PROBE) if "sleep_s" in step.input)
    assert (await house.queue.wait("default", slow.id, 30)).state is State.CANCELLED


async def test_a_step_that_its_endpoint_refuses_is_named(house: House) -> None:
    form = steps_form(
        {
            "ask": {"app": PROBE, "input": {"echo": "$input.size"}},
            "draw": {
                "app": "fal-ai/fast-sdxl",
                "input": {"prompt": "x", "num_images": "$ask.echo"},
            },
        },
        {"x": "$draw.images"},
        input={"size": {"type": "integer"}},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {"size": 99})
    done = await run_until_ended(house, endpoint, request_id)
    assert "The step `draw` (fal-ai/fast-sdxl) was refused: " in done["error"]
    assert "num_images" in done["error"]
    _, draw = done["darkroom"]["workflow"]["steps"]
    assert (draw["state"], draw["request_id"]) == ("failed", None)
    assert "num_images" in draw["error"]


async def test_a_step_whose_input_is_nested_too_deeply_is_refused(house: House) -> None:
    def nested(value: Any, levels: int) -> Any:
        return nested([value], levels - 1) if levels else value

    steps = {
        f"s{number}": {
            "app": PROBE,
            "input": {"echo": nested(f"$s{number - 1}.echo" if number else "$input.deep", 30)},
        }
        for number in range(4)
    }
    form = steps_form(steps, {"x": "$s3.echo"}, input={"deep": {"type": "integer"}})
    endpoint = await register_workflow(house, form)
    done = await run_until_ended(
        house, endpoint, await submit_request(house, endpoint, {"deep": 1})
    )
    assert "The step `s3`" in done["error"]
    assert "more than 100 lists and objects in each other" in done["error"]


async def test_a_step_whose_input_is_larger_than_a_call_may_be_is_refused(house: House) -> None:
    """It was written as gigabytes of JSON, again and again, and the request never ended."""
    form = steps_form(
        {"say": {"app": PROBE, "input": {"echo": ["$input.text"] * 5}}},
        {"x": "$say.seed"},
        input={"text": {"type": "string"}},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {"text": "x" * 250_000})
    done = await run_until_ended(house, endpoint, request_id)
    assert done["error"].startswith("The step `say` cannot start: its input has more than 1048576")


async def test_steps_whose_inputs_are_large_together_all_start_at_once(house: House) -> None:
    form = steps_form(
        {"say": {"app": PROBE, "for_each": [*range(9)], "input": {"echo": "$input.text"}}},
        {"x": "$say.*.seed"},
        input={"text": {"type": "string"}},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {"text": "x" * 250_000})
    worker = WorkflowWorker(house.services)
    await worker.advance()
    assert len(steps_of(house, PROBE)) == 9
    done = await run_until_ended(house, endpoint, request_id, worker)
    assert done["darkroom"]["state"] == "succeeded"


async def test_a_reference_that_leads_nowhere_is_named(house: House) -> None:
    form = steps_form(
        {
            "draw": {"app": IMAGES, "input": {"prompt": "x"}},
            "next": {"app": PROBE, "input": {"echo": "$draw.images.5.url"}},
        },
        {"x": "$next.echo"},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {})
    done = await run_until_ended(house, endpoint, request_id)
    assert done["error"] == (
        "The step `next` cannot start: input: `$draw.images.5.url`: the list has 1 elements."
    )


async def test_what_a_client_sends_never_becomes_a_file(house: House) -> None:
    form = steps_form(
        {"say": {"app": PROBE, "input": {"echo": "$input.it"}}},
        {"it": "$input.it", "url": "$input.it.url", "said": "$say.echo.x"},
        input={"it": {}},
    )
    endpoint = await register_workflow(house, form)
    stolen = {"artifact": "p/abc/r/1/1/secret.png", "x": {"artifact_url": "p/abc/r/1/1/s.png"}}
    request_id = await submit_request(house, endpoint, {"it": stolen})
    await run_until_ended(house, endpoint, request_id)
    output = (await result(house, endpoint, request_id)).raise_for_status().json()
    assert "/files/" not in json.dumps(output)


async def test_a_cancel_ends_the_steps_too(idle: House) -> None:
    endpoint = await register_workflow(idle, POSTER)
    request_id = await submit_request(idle, endpoint, {"idea": "x"})
    worker = WorkflowWorker(idle.services)
    await worker.advance()
    (draw,) = steps_of(idle, IMAGES)
    running = await status(idle, endpoint, request_id)
    assert running["status"] == "IN_PROGRESS"
    first, second = running["darkroom"]["workflow"]["steps"]
    assert (first["state"], first["queue_position"]) == ("queued", 0)
    assert (second["state"], second["request_id"]) == ("waiting", None)
    async with idle.client(idle.weak_key) as client:
        url = f"/queue/{endpoint}/requests/{request_id}/cancel"
        assert (await client.put(url)).json() == {"status": "CANCELLATION_REQUESTED"}
    done = await run_until_ended(idle, endpoint, request_id, worker)
    assert done["darkroom"]["state"] == "cancelled"
    assert idle.queue._rows[draw.id].request.state is State.CANCELLED
    assert len(steps_of(idle, PROBE)) == 0


async def test_priority_deadline_and_lifetimes_are_those_of_the_steps_too(idle: House) -> None:
    endpoint = await register_workflow(idle, POSTER)
    headers = {
        "X-Fal-Queue-Priority": "low",
        "X-Darkroom-Deadline": "3600",
        "X-Fal-Store-IO": "0",
    }
    request_id = await submit_request(idle, endpoint, {"idea": "x"}, headers)
    await WorkflowWorker(idle.services).advance()
    (draw,) = steps_of(idle, IMAGES)
    assert draw.priority is Priority.LOW
    parent = idle.queue._rows[request_id].request
    assert draw.end_by is not None
    assert parent.end_by is not None
    assert abs((draw.end_by - parent.end_by).total_seconds()) < 60
    assert draw.forgetting is not None


async def test_a_workflow_expires_with_its_steps(idle: House) -> None:
    endpoint = await register_workflow(idle, POSTER)
    request_id = await submit_request(idle, endpoint, {"idea": "x"}, {"X-Darkroom-Deadline": "0.2"})
    done = await run_until_ended(idle, endpoint, request_id)
    assert done["darkroom"]["state"] == "expired"
    await WorkflowWorker(idle.services).tidy()
    assert all(step.state.final for step in steps_of(idle, IMAGES))


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_call_runs_no_step_twice(house: House, after: bool) -> None:
    endpoint = await register_workflow(house, POSTER)
    dies_at = deaths = 0
    while True:
        dies_at += 1
        before = {step.id for step in (*steps_of(house, IMAGES), *steps_of(house, PROBE))}
        request_id = await submit_request(house, endpoint, {"idea": "x"})
        calls: list[str] = []
        mortal = Mortal(house.queue, calls, dies_at, after=after)
        doomed = WorkflowWorker(replace(house.services, queue=mortal))
        doomed._book = _MortalBook(Mortal(house.queue.workflows.runs, calls, dies_at, after=after))
        try:
            done = await run_until_ended(house, endpoint, request_id, doomed)
        except Killed:
            deaths += 1
            done = await run_until_ended(house, endpoint, request_id)
        steps = (*steps_of(house, IMAGES), *steps_of(house, PROBE))
        what = f"died {'after' if after else 'before'} call {dies_at}, {calls[-1:]}"
        assert done["darkroom"]["state"] == "succeeded", what
        assert len([step for step in steps if step.id not in before]) == 2, what
        if len(calls) < dies_at:  # it lived to the end
            break
    assert deaths > 12


class _MortalBook:
    def __init__(self, runs: Any) -> None:
        self.runs = runs


async def test_two_workers_at_once_run_no_step_twice(house: House) -> None:
    endpoint = await register_workflow(house, POSTER)
    ids = [await submit_request(house, endpoint, {"idea": f"{n}"}) for n in range(8)]
    workers = [WorkflowWorker(house.services) for _ in range(3)]
    for request_id in ids:
        ends = (run_until_ended(house, endpoint, request_id, worker) for worker in workers)
        states = {ending["darkroom"]["state"] for ending in await asyncio.gather(*ends)}
        assert states == {"succeeded"}
    assert len(steps_of(house, IMAGES)) == len(steps_of(house, PROBE)) == len(ids)


async def test_a_limit_of_one_running_request_is_enough() -> None:
    async with house_with(tenant_limits={"default": {"max_running": 1}}) as house:
        endpoint = await register_workflow(house, POSTER)
        request_id = await submit_request(house, endpoint, {"idea": "x"})
        done = await run_until_ended(house, endpoint, request_id)
        assert done["darkroom"]["state"] == "succeeded"


async def test_a_step_that_the_queue_has_no_room_for_waits(caplog: CapturedLogs) -> None:
    limits = {"default": {"requests_per_minute": 600, "requests_burst": 2}}
    caplog.set_level("INFO", "serve_app.ingress.workflows.worker")
    async with house_with(tenant_limits=limits) as house:
        endpoint = await register_workflow(house, POSTER)
        request_id = await submit_request(house, endpoint, {"idea": "x"})
        done = await run_until_ended(house, endpoint, request_id)
        assert done["darkroom"]["state"] == "succeeded"
    assert any(" waits: " in record.getMessage() for record in caplog.records)


async def test_the_workflows_of_a_full_tenant_do_not_all_try_again_in_each_look(
    caplog: CapturedLogs,
) -> None:
    """Each try is a call of the database, before those of others."""
    count = 5 * ADVANCED_AT_ONCE
    limits = {"default": {"max_waiting": count}}
    said = {"n": "$input.n", "item": "$item"}  # differs, or requests would share one outcome
    steps = {"say": {"app": PROBE, "for_each": [1, 2, 3], "input": {"echo": said}}}
    form = steps_form(steps, {"x": "$say"}, input={"n": {"type": "integer"}})
    async with house_with(replica=False, tenant_limits=limits) as house:
        endpoint = await register_workflow(house, form)
        for number in range(count):
            await submit_request(house, endpoint, {"n": number})
        worker = WorkflowWorker(house.services)
        for _ in range(3):
            caplog.clear()
            with caplog.at_level("INFO", "serve_app.ingress.workflows.worker"):
                await worker.advance()
        waits = [record for record in caplog.records if " waits: " in record.getMessage()]
        assert 0 < len(waits) <= ADVANCED_AT_ONCE


async def test_private_files_go_from_step_to_step() -> None:
    async with house_with(files="private") as house:
        endpoint = await register_workflow(house, POSTER)
        request_id = await submit_request(house, endpoint, {"idea": "x"})
        await run_until_ended(house, endpoint, request_id)
        output = (await result(house, endpoint, request_id)).raise_for_status().json()
        assert "/files/p/" in output["url"]
        async with house.client(house.weak_key) as client:
            assert (await client.get(output["url"])).content == b"image"
        stranger = str(await house.keys.create("stranger"))
        async with house.client(stranger) as client:
            assert (await client.get(output["url"].partition("?")[0])).status_code in (403, 404)


async def test_a_step_is_deleted_after_its_workflow_only_and_with_it(house: House) -> None:
    form = steps_form(
        {
            "draw": {"app": IMAGES, "input": {"prompt": "x"}},
            "slow": {"app": PROBE, "depends": ["draw"], "input": {"sleep_s": 60}},
        },
        {"x": "$draw.images", "y": "$slow.echo"},
    )
    endpoint = await register_workflow(house, form)
    request_id = await submit_request(house, endpoint, {})
    worker = WorkflowWorker(house.services)
    while not steps_of(house, PROBE):
        await worker.advance()
        await asyncio.sleep(0.01)
    (draw,) = steps_of(house, IMAGES)
    async with house.client(house.weak_key) as client:
        refused = await client.delete(f"/v1/requests/{draw.id}")
        assert "a step of the workflow request" in refused.json()["message"]
        await client.put(f"/queue/{endpoint}/requests/{request_id}/cancel")
        await run_until_ended(house, endpoint, request_id, worker)
        url = f"/v1/requests/{request_id}"
        assert (await client.delete(url)).is_success
        assert (await client.get(f"/v1/requests/{draw.id}")).status_code == 404


async def test_a_request_whose_workflow_was_deleted_before_it_started_fails(house: House) -> None:
    endpoint = await register_workflow(house, POSTER)
    request_id = await submit_request(house, endpoint, {"idea": "x"})
    async with house.client(house.weak_key) as client:
        (await client.delete("/v1/workflows/poster")).raise_for_status()
    done = await run_until_ended(house, endpoint, request_id)
    assert done["error"].startswith("The workflow was deleted before the request started.")


async def test_a_request_that_has_started_keeps_its_definition(house: House) -> None:
    endpoint = await register_workflow(house, POSTER)
    request_id = await submit_request(house, endpoint, {"idea": "x"})
    worker = WorkflowWorker(house.services)
    await worker.advance()
    async with house.client(house.weak_key) as client:
        (await client.delete("/v1/workflows/poster")).raise_for_status()
    done = await run_until_ended(house, endpoint, request_id, worker)
    assert done["darkroom"]["state"] == "succeeded"


async def test_a_public_workflow_runs_for_the_tenant_that_calls_it(house: House) -> None:
    endpoint = await register_workflow(house, {**POSTER, "public": True}, house.key)
    request_id = await submit_request(house, endpoint, {"idea": "x"}, key=house.other_key)
    worker = WorkflowWorker(house.services)
    while not house.queue._rows[request_id].request.state.final:
        await worker.advance()
        await asyncio.sleep(0.01)
    assert {step.tenant for step in steps_of(house, IMAGES)} == {"other"}
    done = await status(house, endpoint, request_id, house.other_key)
    assert done["darkroom"]["state"] == "succeeded"
