"""Copies as a worker makes them from what clients submit, over the fake queue and PostgreSQL's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from serve_app.catalog.catalog import load
from serve_app.catalog.workflows.reader import read
from serve_app.domain.batches.batch import BatchLine, BatchStatus, StoredBatch
from serve_app.domain.executors.shadow import LINGER_S, SHADOW_TENANT, ShadowState
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, Request, State
from serve_app.domain.workflows.plan import StepId
from serve_app.domain.workflows.runs import Step, StepState, WorkflowRun
from serve_app.ingress.openai.batches import requests
from serve_app.ingress.openai.batches.requests import LineCall
from serve_app.ingress.submission import shadows, submission
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.shadows import CopyDeletion, ShadowWorker
from serve_app.ingress.workflows import steps
from serve_app.settings import PoolConfig
from serve_app.tenants.scopes import SUBMIT, Caller
from tests.contract.test_shadows_contract import PEEK, jobs_of
from tests.fakes.queue import FakeQueue
from tests.ingress.house import MODELS, House, build_house
from tests.queue.requests import ask, failure, lease, make_finish, new_id

OWN, OTHER = "test/own", "test/other"
PRICES = {
    OWN: {"unit": "request", "amount": "0.01", "currency": "EUR"},
    OTHER: {"unit": "request", "amount": "0.5", "currency": "EUR"},
}
POOLS = {
    "own": PoolConfig(families=("probe",), endpoints=(OWN,)),
    "other": PoolConfig(families=("probe",), endpoints=(OTHER,)),
}
PROBE = {"family": "probe", "schema": "open"}
TENANT = "default"


@asynccontextmanager
async def shadowed_house(
    tmp_path: Path, queue: Queue, *, other: Any = PROBE, settings: Any = None, **shadow: Any
) -> AsyncIterator[House]:
    """House over ``queue``, whose first endpoint has the second one as its shadow."""
    entries = {OWN: PROBE | {"shadow": {"endpoint": OTHER, "share": 1} | shadow}, OTHER: other}
    models = tmp_path / "models.yaml"
    text = yaml.safe_dump({"built_in": False, "endpoints": entries})
    await asyncio.to_thread(models.write_text, text)
    catalog = await asyncio.to_thread(load, models, demo=True, demo_dir=MODELS.parent)
    options = {"pools": POOLS, "replica": False, "catalog": catalog, "prices": PRICES}
    async with build_house(**options | (settings or {})) as house:
        house.services.queue = queue
        house.queue = cast("FakeQueue", queue)
        yield house


async def submit_request(
    house: House, path: str = OWN, key: str | None = None, **headers: str
) -> str:
    async with house.client(key) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await client.post(f"/queue/{path}", json={"echo": "hello"}, headers=named)
    assert answer.status_code == 200, answer.text
    return answer.json()["request_id"]


async def copies(house: House) -> list[Request]:
    return [*await house.queue.page(SHADOW_TENANT)]


async def delete_request(house: House, request_id: str) -> None:
    async with house.client() as client:
        answer = await client.delete(f"/v1/requests/{request_id}")
    assert answer.status_code == 200, answer.text


async def delete_copies(house: House) -> None:
    """Make one attempt of each job that deletes a copy."""
    jobs = jobs_of(house.queue)
    for job in await jobs.take(PEEK, 5):
        if not await CopyDeletion(house.services).run([job]):
            await jobs.finish([job])


async def test_a_copy_runs_beside_its_original_and_is_billed_to_nobody(
    tmp_path: Path, queue: Queue
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        worker = ShadowWorker(house.services)
        request_id = await submit_request(house)
        await worker.advance()
        await worker.advance()
        (copy,) = await copies(house)
        assert (copy.endpoint, copy.pool, copy.input["echo"]) == (OTHER, "other", "hello")
        await queue.finish(make_finish((await lease(queue, pool="own")).key))
        await queue.finish(make_finish((await lease(queue, pool="other")).key))
        async with house.client() as client:
            own = (await client.get("/v1/requests")).json()["requests"]
            usage = (await client.get("/v1/usage?by=tenant&tenants=*")).json()
            pairs = (await client.get("/v1/shadows")).json()
        async with house.client(house.weak_key) as client:
            refused = await client.get("/v1/shadows")
    assert [entry["request_id"] for entry in own] == [request_id]
    assert refused.status_code == 403
    costs = {result["tenant"]: result["cost"] for result in usage["results"]}
    assert costs == {TENANT: 0.01, SHADOW_TENANT: 0.5}
    (pair,) = pairs["pairs"]
    assert (pair["endpoint_id"], pair["shadow"], pair["state"]) == (OWN, OTHER, "sent")
    assert pair["original"]["request_id"] == request_id
    assert pair["copy"]["request_id"] == copy.id
    assert [pair[side]["cost"] for side in ("original", "copy")] == [0.01, 0.5]
    assert [pair[side]["run_s"] for side in ("original", "copy")] == [1.5, 1.5]
    assert [pair[side]["output"] for side in ("original", "copy")] == [{"n": 1}, {"n": 1}]
    (sums,) = pairs["comparisons"]
    assert (sums["pairs"], sums["originals"]["cost"], sums["copies"]["cost"]) == (1, 0.01, 0.5)


@pytest.mark.long
async def test_a_failed_copy_changes_nothing_of_its_original(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        request_id = await submit_request(house)
        await ShadowWorker(house.services).advance()
        leased = await lease(queue, pool="other")
        await queue.finish(make_finish(leased.key, failure("pipeline_failed")))
        assert (await queue.current(TENANT, request_id)).state is State.QUEUED
        async with house.client() as client:
            (pair,) = (await client.get(f"/v1/shadows?endpoint_id={OWN}")).json()["pairs"]
            nothing = (await client.get("/v1/shadows?endpoint_id=test/none")).json()
    assert pair["copy"]["error"]["code"] == "pipeline_failed"
    assert (pair["original"]["error"], pair["original"]["output"]) == (None, None)
    assert (nothing["pairs"], nothing["next_before"]) == ([], None)


@pytest.mark.long
@pytest.mark.parametrize(
    "headers",
    [
        {"x_app_fal_disable_fallback": "true"},
        {"x_fal_store_io": "0"},
        {"x_fal_object_lifecycle_preference": '{"expiration_duration_seconds": 60}'},
        {"x_fal_object_lifecycle_preference": '{"initial_acl": {"default": "forbid"}}'},
    ],
)
async def test_what_its_client_keeps_to_itself_is_not_copied(
    tmp_path: Path, queue: Queue, headers: dict[str, str]
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        await submit_request(house, **headers)
        assert not await queue.shadows.candidates(5)


@pytest.mark.long
async def test_requests_of_left_out_tenants_are_not_copied(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue, except_tenants=["other"]) as house:
        await submit_request(house, key=house.other_key)
        own = await submit_request(house)
        (candidate,) = await queue.shadows.candidates(5)
        assert candidate.original == own


async def test_requests_of_tenants_with_their_own_storage_are_not_copied(
    tmp_path: Path, queue: Queue
) -> None:
    own = {"tenant_limits": {"other": {"storage": "acme"}}}
    async with shadowed_house(tmp_path, queue, settings=own) as house:
        await submit_request(house, key=house.other_key)
        assert not await queue.shadows.candidates(5)


@pytest.mark.long
async def test_requests_of_tenants_with_private_files_are_not_copied(
    tmp_path: Path, queue: Queue
) -> None:
    private = {"tenant_limits": {"other": {"files": "private"}}}
    async with shadowed_house(tmp_path, queue, settings=private) as house:
        await submit_request(house, key=house.other_key)
        assert not await queue.shadows.candidates(5)
    async with shadowed_house(tmp_path, queue, settings={"files": "private"}) as house:
        await submit_request(house)  # the files of its copy are private too
        await ShadowWorker(house.services).advance()
        (copy,) = await copies(house)
        assert copy.file_access


@pytest.mark.long
async def test_a_copy_that_cannot_run_there_says_why(tmp_path: Path, queue: Queue) -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    options = {"input_schema": schema, "output_schema": {"type": "object", "properties": {}}}
    other = {"family": "probe", "schema": "json", "options": options}
    async with shadowed_house(tmp_path, queue, other=other) as house:
        await submit_request(house)
        await ShadowWorker(house.services).advance()
        (pair,) = await queue.shadows.page(None, None, 5)
        assert pair.state is ShadowState.SKIPPED
        assert pair.reason.startswith(f"It cannot run at {OTHER}: that endpoint has no field `ech")
        assert not await copies(house)


@pytest.mark.long
async def test_fields_have_the_names_of_the_shadow(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue, fields={"echo": "text"}) as house:
        await submit_request(house)
        await ShadowWorker(house.services).advance()
        (copy,) = await copies(house)
        assert copy.input["text"] == "hello"
        assert "echo" not in copy.input


@pytest.mark.long
async def test_a_shadow_without_its_secret_is_skipped(tmp_path: Path, queue: Queue) -> None:
    hosted = {
        "family": "fal",
        "schema": "open",
        "options": {"secrets": ["FAL_KEY"], "hosted": {"endpoint": "fal-ai/veo3"}},
    }
    pools = {"own": PoolConfig(families=("probe", "fal"))}
    settings = {"pools": pools, "prices": {}}
    async with shadowed_house(tmp_path, queue, other=hosted, settings=settings) as house:
        # A tenant's own key is for its own requests.
        async with house.client() as client:
            answer = await client.put("/v1/secrets/FAL_KEY", json={"value": "of the tenant"})
            assert answer.status_code in (200, 201), answer.text
        await submit_request(house)
        await ShadowWorker(house.services).advance()
        (pair,) = await queue.shadows.page(None, None, 5)
        assert "needs the secret FAL_KEY" in pair.reason


@pytest.mark.long
async def test_a_budget_bounds_what_copies_cost_in_a_day(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue, budget="1.2 EUR/day") as house:
        worker = ShadowWorker(house.services)
        for _ in range(3):
            await submit_request(house)
        for _ in range(3):
            await worker.advance()
            work = await queue.ask(ask(4, pool="other"))
            for grant in work.leases:
                await queue.finish(make_finish(grant.key))
        states = [pair.state for pair in await queue.shadows.page(None, None, 5)]
    assert sorted(states) == [ShadowState.SENT, ShadowState.SENT, ShadowState.SKIPPED]


@pytest.mark.long
async def test_copies_wait_while_anything_is_queued_in_their_pool(
    tmp_path: Path, queue: Queue
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        worker = ShadowWorker(house.services)
        waiting = await submit_request(house, OTHER)
        await submit_request(house)
        await worker.advance()
        assert not await copies(house)
        leased = await lease(queue, pool="other")
        assert leased.request_id == waiting
        await worker.advance()
        assert len(await copies(house)) == 1


@pytest.mark.long
async def test_a_target_has_a_most_of_running_copies(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadows, "MOST_RUNNING", 1)
    async with shadowed_house(tmp_path, queue) as house:
        worker = ShadowWorker(house.services)
        await submit_request(house)
        await worker.advance()
        await lease(queue, pool="other")
        await submit_request(house)
        await worker.advance()
        assert len(await copies(house)) == 1


@pytest.mark.long
async def test_a_changed_entry_ends_the_copying_of_what_waits(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        await submit_request(house)
        entries = {OWN: PROBE, OTHER: PROBE}
        models = tmp_path / "later.yaml"
        text = yaml.safe_dump({"built_in": False, "endpoints": entries})
        await asyncio.to_thread(models.write_text, text)
        later = await asyncio.to_thread(load, models, demo=True, demo_dir=MODELS.parent)
        house.services.catalog.become(later)
        await ShadowWorker(house.services).advance()
        (pair,) = await queue.shadows.page(None, None, 5)
        assert "does not name it as its shadow any more" in pair.reason


@pytest.mark.long
async def test_the_copy_of_a_deleted_request_is_ended_and_deleted(
    tmp_path: Path, queue: Queue
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        worker = ShadowWorker(house.services)
        request_id = await submit_request(house)
        await worker.advance()
        await queue.finish(make_finish((await lease(queue, pool="own")).key))
        running = await lease(queue, pool="other")
        await delete_request(house, request_id)
        await delete_copies(house)
        (copy,) = await copies(house)
        assert copy.cancel_requested
        await queue.finish(make_finish(running.key))  # it had ended before it knew
        await delete_copies(house)
        assert not await copies(house)
        assert not await jobs_of(queue).due_kinds(["copy"])


@pytest.mark.long
async def test_a_copy_that_may_still_be_stored_is_looked_for_later(
    tmp_path: Path, queue: Queue
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        request_id = await submit_request(house)
        assert await queue.shadows.take(request_id, None, Decimal(0))
        await queue.finish(make_finish((await lease(queue, pool="own")).key))
        await delete_request(house, request_id)
        await delete_copies(house)
        (job,) = await jobs_of(queue).take(PEEK, 5)
        late = replace(job, age_s=LINGER_S + 1.0)
        assert await CopyDeletion(house.services).run([job])
        assert not await CopyDeletion(house.services).run([late])


async def test_two_workers_make_one_copy(tmp_path: Path, queue: Queue) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        request_id = await submit_request(house)
        workers = [ShadowWorker(house.services) for _ in range(3)]
        await asyncio.gather(*(worker.advance() for worker in workers))
        assert len(await copies(house)) == 1
        (pair,) = await queue.shadows.page(None, None, 5)
        assert (pair.original, pair.state) == (request_id, ShadowState.SENT)


@pytest.mark.long
async def test_steps_of_workflows_and_lines_of_batches_are_not_copied(
    tmp_path: Path, queue: Queue
) -> None:
    async with shadowed_house(tmp_path, queue) as house:
        services, fields = house.services, {"echo": "hello"}
        drawn = {"draw": {"app": OWN, "input": fields}}
        workflow = read({"name": "x", "steps": drawn, "output": {"n": "$draw.n"}}).workflow
        key = LeaseKey(new_id(), 1, 1)
        run = WorkflowRun(
            *(key, TENANT, "workflows/default/x", "", {}, None, Priority.NORMAL),
            *(False, None, True, None, "", True, "", "", False, False, services.clock.now()),
        )
        step = Step(StepId("draw"), OWN, services.new_id(), StepState.SENDING, fields)
        assert not (await steps.request_of(services, run, workflow, step)).shadow
        now = services.clock.now()
        batch = StoredBatch(
            *("batch-1", TENANT, "", "", OWN, "file-1", "u/1", BatchStatus.IN_PROGRESS),
            created_at=now,
            expires_at=now + timedelta(hours=1),
            read_at=now,
        )
        caller = Caller("", TENANT, frozenset({SUBMIT}))
        line = BatchLine(1, "a", 0, 1, services.new_id())
        call = LineCall(services.catalog.get(OWN), fields, {}, None)
        assert not (await requests.request_of(services, caller, batch, line, call)).shadow
        usual = services, caller, OWN, fields, SubmitOptions()
        assert (await submission.validate(*usual, request_id=services.new_id())).shadow == OTHER
