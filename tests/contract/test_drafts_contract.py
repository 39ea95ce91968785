"""Contract of ``DraftBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from serve_app.domain.artifact import Lifecycles
from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.draft import DraftOrigin, DraftSpace
from serve_app.domain.ports import Queue
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.deletion import PostgresLifecycles
from tests.contract.test_workflows_contract import DRAW, call, start_run
from tests.fakes.queue import FakeQueue
from tests.queue.requests import TENANT, lease, make_finish, new
from tests.queue.test_drafts import SEED, finish_with_drafts, key_of


@pytest.fixture
def lifecycles(queue: Queue) -> Lifecycles:
    if isinstance(queue, FakeQueue):
        return queue.lifecycles
    assert isinstance(queue, PostgresQueue)
    return PostgresLifecycles(queue._database)


async def test_the_drafts_of_a_request_are_found_with_its_input(queue: Queue) -> None:
    drafts = queue.drafts
    request = new(input={"prompt": "a dog", "seed": SEED})
    output = await finish_with_drafts(queue, request, "one", "two")
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
    assert await drafts.used_bytes(TENANT) == 14
    assert [listed.id for listed in await drafts.newest(TENANT, 10)] == ["two", "one"]
    (two,) = await drafts.newest(TENANT, 1)
    (first,) = await drafts.newest(TENANT, 1, before=(two.created_at, two.id))
    assert (two.id, first.id) == ("two", "one")
    assert await drafts.newest(TENANT, 1, before=(first.created_at, first.id)) == []


async def test_drafts_of_unfinished_requests_are_expected_to_take_space(queue: Queue) -> None:
    drafts, endpoint = queue.drafts, new().endpoint
    assert await drafts.space(TENANT, endpoint) == DraftSpace(0, 0, 0)
    await finish_with_drafts(queue, new(draft_bytes=100), "one", size=5)
    await finish_with_drafts(queue, new(draft_bytes=100), "two", "three", size=7)
    assert await drafts.space(TENANT, endpoint) == DraftSpace(19, 0, 7)
    assert await drafts.space(TENANT, "fal-ai/flux/dev") == DraftSpace(19, 0, 0)
    waiting, running = new(draft_bytes=100), new(draft_bytes=20)
    await queue.submit(running)
    key = (await lease(queue)).key
    for request in (new(), waiting, new(tenant="bob", draft_bytes=3)):
        await queue.submit(request)
    assert key.request_id == running.id
    assert await drafts.space(TENANT, endpoint) == DraftSpace(19, 120, 7)
    assert await drafts.space("bob", endpoint) == DraftSpace(0, 3, 0)
    await queue.cancel(TENANT, waiting.id)
    await queue.finish(make_finish(key))
    assert await drafts.space(TENANT, endpoint) == DraftSpace(19, 0, 7)


async def test_a_draft_belongs_to_its_tenant(queue: Queue) -> None:
    drafts = queue.drafts
    await finish_with_drafts(queue, new(), "one")
    assert await drafts.open("bob", "one") is None
    assert await drafts.look("bob", "one") is None
    assert await drafts.get("bob", "one") is None
    assert await drafts.newest("bob", 10) == []
    own = await drafts.get(TENANT, "one")
    assert own is not None
    later, like = (own.created_at + timedelta(seconds=1), "z"), [own.endpoint]
    for before in (None, later):
        assert await drafts.newest("bob", 10, before, endpoints=like) == []
        assert await drafts.newest("bob", 10, before) == []
    assert await drafts.newest("bob", 10, request_id=own.request_id) == []
    assert await drafts.newest("bob", 10, endpoints=like, request_id=own.request_id) == []
    assert await drafts.used_bytes("bob") == 0
    assert not await drafts.delete("bob", "one")
    assert await drafts.get(TENANT, "one") is not None


async def test_a_deleted_draft_is_not_found(queue: Queue) -> None:
    drafts = queue.drafts
    await finish_with_drafts(queue, new(), "one", "two")
    assert await drafts.delete(TENANT, "one", Actor("key-1", "192.0.2.1"))
    assert not await drafts.delete(TENANT, "one")
    assert await drafts.open(TENANT, "one") is None
    assert [draft.id for draft in await drafts.newest(TENANT, 10)] == ["two"]


async def test_the_drafts_of_a_deleted_request_are_not_found(queue: Queue) -> None:
    request = new()
    await finish_with_drafts(queue, request, "one")
    await queue.delete(TENANT, request.id)
    assert await queue.drafts.get(TENANT, "one") is None
    assert await queue.drafts.used_bytes(TENANT) == 0


async def test_a_request_keeps_the_draft_that_it_goes_on_from_when_the_draft_is_deleted(
    queue: Queue,
) -> None:
    drafts, dropped, deleted = queue.drafts, new(), new()
    await finish_with_drafts(queue, dropped, "one")
    await finish_with_drafts(queue, deleted, "two")
    for first in (dropped, deleted):
        await queue.submit(new(draft_key=key_of(first)))
    assert await drafts.delete(TENANT, "one", Actor("key-1", "192.0.2.1"))
    await queue.delete(TENANT, deleted.id)
    assert not await drafts.delete(TENANT, "one")
    assert await drafts.newest(TENANT, 10) == []
    assert await drafts.used_bytes(TENANT) == 0
    for id_ in ("one", "two"):
        assert await drafts.get(TENANT, id_) is None
        assert await drafts.look(TENANT, id_) is None
        assert await drafts.open(TENANT, id_) is None
    urls = [(await lease(queue)).draft_url for _ in range(2)]
    assert [url and url.partition("files/")[2] for url in urls] == [
        key_of(dropped),
        key_of(deleted),
    ]


async def test_a_draft_expires_with_the_files_of_its_request_if_their_time_is_shorter(
    queue: Queue, lifecycles: Lifecycles
) -> None:
    hasty, patient = new(), new()
    await lifecycles.keep(hasty.id, 3600.0)
    await lifecycles.keep(patient.id, 365 * 86_400.0)
    hour, day = timedelta(hours=1), timedelta(days=1)
    for request, id_, usual in ((hasty, "one", hour), (patient, "two", day)):
        output = await finish_with_drafts(queue, request, id_)
        draft = await queue.drafts.get(TENANT, id_)
        assert draft is not None
        assert draft.expires_at == datetime.fromisoformat(output["drafts"][0]["expires_at"])
        left = draft.expires_at - draft.created_at
        assert usual - timedelta(minutes=2) < left < usual + timedelta(minutes=2)


async def test_a_draft_of_a_step_outlasts_the_time_of_files_that_begins_with_its_workflows_end(
    queue: Queue, lifecycles: Lifecycles
) -> None:
    run, step = await start_run(queue), new()
    await lifecycles.keep(step.id, 60.0)
    await queue.workflows.runs.take(run, [call(DRAW, step.id)])
    await finish_with_drafts(queue, step, "one")
    draft = await queue.drafts.get(TENANT, "one")
    assert draft is not None
    assert draft.expires_at - draft.created_at > timedelta(hours=23)


async def test_drafts_are_found_by_patterns_of_endpoints_and_by_their_request(queue: Queue) -> None:
    names = ("a/b_c", "a/bxc", "a/b%c", "a\\b", "z")
    requests = [new(endpoint=name) for name in names]
    for request in requests:
        await finish_with_drafts(queue, request, f"of {request.endpoint}")

    async def found(*patterns: str, limit: int = 10) -> list[str]:
        listed = await queue.drafts.newest(TENANT, limit, endpoints=patterns)
        return [draft.endpoint for draft in reversed(listed)]

    assert await found() == [*names]
    assert await found("*") == [*names]
    assert await found("a/*") == [*names[:3]]
    assert await found("a/b_c", "z") == ["a/b_c", "z"]
    assert await found("a/b%c") == ["a/b%c"]
    assert await found("a\\*") == ["a\\b"]
    assert await found("*b*c*") == [*names[:3]]
    assert await found("a/*", limit=1) == ["a/b%c"]  # not a page that is filtered afterwards
    assert await found("no") == []
    (own,) = await queue.drafts.newest(TENANT, 10, request_id=requests[1].id)
    assert own.id == "of a/bxc"
    assert await queue.drafts.newest(TENANT, 10, request_id=new().id) == []
    assert (
        await queue.drafts.newest(TENANT, 10, endpoints=("a/b_c",), request_id=requests[1].id) == []
    )
    before = (own.created_at, own.id)
    (older,) = await queue.drafts.newest(TENANT, 10, before, endpoints=("a/*",))
    assert older.id == "of a/b_c"
