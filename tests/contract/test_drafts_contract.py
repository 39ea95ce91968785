"""Contract of ``DraftBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

from serve_app.domain.media.draft import DraftOrigin
from serve_app.domain.operations import Actor
from serve_app.domain.ports import Queue
from tests.queue.requests import TENANT, new
from tests.queue.test_drafts import SEED, drafted, key_of


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
