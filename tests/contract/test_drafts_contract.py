"""Contract of ``DraftBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from serve_app.domain.artifact import Lifecycles
from serve_app.domain.media.draft import DraftOrigin
from serve_app.domain.operations import Actor
from serve_app.domain.ports import Queue
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.deletion import PostgresLifecycles
from tests.contract.test_workflows_contract import DRAW, call, started
from tests.fakes.queue import FakeQueue
from tests.queue.requests import TENANT, new
from tests.queue.test_drafts import SEED, drafted, key_of


@pytest.fixture
def lifecycles(queue: Queue) -> Lifecycles:
    if isinstance(queue, FakeQueue):
        return queue.lifecycles
    assert isinstance(queue, PostgresQueue)
    return PostgresLifecycles(queue._database)


async def test_the_drafts_of_a_request_are_found_with_its_input(queue: Queue) -> None:
    drafts = queue.drafts
    request = new(input={"prompt": "a dog", "seed": SEED})
    output = await drafted(queue, request, "one", "two")
    origin = await drafts.open(TENANT, "two")
    assert isinstance(origin, DraftOrigin)
    assert origin.input == {"prompt": "a dog", "seed": SEED}
    assert origin.endpoint_digest == request.endpoint_digest
    assert await drafts.look(TENANT, "two") == origin
    draft = origin.draft
    assert (draft.key, draft.seed, draft.step, draft.steps, draft.noise) == (
        key_of(request, 1),
        SEED,
        5,
        20,
        0.75,
    )
    assert output["drafts"][1]["expires_at"] == draft.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await drafts.used(TENANT) == 14
    assert [each.id for each in await drafts.newest(TENANT, 10)] == ["two", "one"]
    (two,) = await drafts.newest(TENANT, 1)
    (one,) = await drafts.newest(TENANT, 1, before=(two.created_at, two.id))
    assert (two.id, one.id) == ("two", "one")
    assert await drafts.newest(TENANT, 1, before=(one.created_at, one.id)) == []


async def test_a_draft_belongs_to_its_tenant(queue: Queue) -> None:
    drafts = queue.drafts
    await drafted(queue, new(), "one")
    assert await drafts.open("bob", "one") is None
    assert await drafts.look("bob", "one") is None
    assert await drafts.get("bob", "one") is None
    assert await drafts.newest("bob", 10) == []
    assert await drafts.used("bob") == 0
    assert not await drafts.delete("bob", "one")
    assert await drafts.get(TENANT, "one") is not None


async def test_a_deleted_draft_is_not_found(queue: Queue) -> None:
    drafts = queue.drafts
    await drafted(queue, new(), "one", "two")
    assert await drafts.delete(TENANT, "one", Actor("key-1", "192.0.2.1"))
    assert not await drafts.delete(TENANT, "one")
    assert await drafts.open(TENANT, "one") is None
    assert [each.id for each in await drafts.newest(TENANT, 10)] == ["two"]


async def test_the_drafts_of_a_deleted_request_are_not_found(queue: Queue) -> None:
    request = new()
    await drafted(queue, request, "one")
    await queue.delete(TENANT, request.id)
    assert await queue.drafts.get(TENANT, "one") is None
    assert await queue.drafts.used(TENANT) == 0


async def test_a_draft_expires_with_the_files_of_its_request_if_their_time_is_shorter(
    queue: Queue, lifecycles: Lifecycles
) -> None:
    hasty, patient = new(), new()
    await lifecycles.keep(hasty.id, 3600.0)
    await lifecycles.keep(patient.id, 365 * 86_400.0)
    hour, day = timedelta(hours=1), timedelta(days=1)
    for request, id_, usual in ((hasty, "one", hour), (patient, "two", day)):
        output = await drafted(queue, request, id_)
        draft = await queue.drafts.get(TENANT, id_)
        assert draft is not None
        assert draft.expires_at == datetime.fromisoformat(output["drafts"][0]["expires_at"])
        left = draft.expires_at - draft.created_at
        assert usual - timedelta(minutes=2) < left < usual + timedelta(minutes=2)


async def test_a_draft_of_a_step_outlasts_the_time_of_files_that_begins_with_its_workflows_end(
    queue: Queue, lifecycles: Lifecycles
) -> None:
    run, step = await started(queue), new()
    await lifecycles.keep(step.id, 60.0)
    await queue.workflows.runs.take(run, [call(DRAW, step.id)])
    await drafted(queue, step, "one")
    draft = await queue.drafts.get(TENANT, "one")
    assert draft is not None
    assert draft.expires_at - draft.created_at > timedelta(hours=23)
