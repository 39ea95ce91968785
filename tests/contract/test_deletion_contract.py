"""Contract of deletion and of paging through the history, for every ``Queue``."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import RequestActive, RequestDeleted, RequestNotFound
from serve_app.domain.lease import Verdict
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, State
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.telemetry.clock import SystemClock
from tests.queue.requests import TENANT, lease, make_finish, new

new_id = RequestIds(SystemClock())
KEYED = {"idempotency_key": "k", "body_digest": bytes(32)}


def new_request(**changes: Any) -> NewRequest:
    return new(**{"id": new_id(), **changes})


def image(request_id: str) -> Outcome:
    artifact = Artifact(f"r/{request_id}/1/a.png", "image/png", 3, "ab" * 32)
    return Outcome(output={"images": [{"artifact": artifact.key}]}, artifacts=(artifact,))


def with_thumbnail(outcome: Outcome) -> Outcome:
    (artifact,) = outcome.artifacts
    small = Artifact(artifact.key.replace(".png", "-small.webp"), "image/webp", 2, "cd" * 32, 5, 4)
    return replace(outcome, artifacts=(replace(artifact, thumbnail=small),))


async def run_request(queue: Queue, **changes: Any) -> str:
    request = new_request(**changes)
    await queue.submit(request)
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key, image(request.id)))
    return request.id


@pytest.mark.parametrize("keyed", [{}, KEYED])
async def test_a_deleted_request_is_nowhere_and_its_files_are_unwanted(
    queue: Queue, keyed: dict[str, Any]
) -> None:
    kept, gone = await run_request(queue), await run_request(queue, **keyed)
    assert (await queue.get(TENANT, gone)).state is State.SUCCEEDED
    assert await queue.delete(TENANT, gone) == [f"r/{gone}/1/a.png"]
    for call in (queue.get, queue.lines, queue.delete, queue.cancel):
        with pytest.raises(RequestNotFound):
            await call(TENANT, gone)
    assert [listed.id for listed in await queue.page(TENANT)] == [kept]


async def test_the_thumbnails_of_a_request_are_stored_and_deleted_with_its_files(
    queue: Queue,
) -> None:
    request = new_request()
    await queue.submit(request)
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key, with_thumbnail(image(request.id))))
    assert (await queue.current(TENANT, request.id)).outcome == with_thumbnail(image(request.id))
    keys = [f"r/{request.id}/1/a-small.webp", f"r/{request.id}/1/a.png"]
    assert await queue.delete(TENANT, request.id) == keys


async def test_what_has_not_ended_is_not_deleted(queue: Queue) -> None:
    request = new_request()
    await queue.submit(request)
    with pytest.raises(RequestActive, match="queued"):
        await queue.delete(TENANT, request.id)
    granted = await lease(queue)
    with pytest.raises(RequestActive, match="running"):
        await queue.delete(TENANT, request.id)
    assert await queue.finish(make_finish(granted.key)) is Verdict.ACCEPTED
    assert await queue.delete(TENANT, request.id) == []


async def test_what_was_cancelled_is_deleted_too(queue: Queue) -> None:
    request = new_request()
    await queue.submit(request)
    await queue.cancel(TENANT, request.id)
    assert await queue.delete(TENANT, request.id) == []


@pytest.mark.long
@pytest.mark.parametrize("id_", ["nonsense", "01890000-0000-7000-8000-000000000000"])
async def test_only_ones_own_can_be_deleted(queue: Queue, id_: str) -> None:
    own = await run_request(queue)
    for tenant, named in (("bob", own), (TENANT, id_)):
        with pytest.raises(RequestNotFound):
            await queue.delete(tenant, named)
    assert (await queue.get(TENANT, own)).state is State.SUCCEEDED


async def test_a_repeat_of_a_deleted_request_is_refused_and_not_made_again(queue: Queue) -> None:
    gone = await run_request(queue, **KEYED)
    await queue.delete(TENANT, gone)
    with pytest.raises(RequestDeleted):
        await queue.find_earlier(new_request(**KEYED))
    with pytest.raises(RequestDeleted):
        await queue.submit(new_request(**KEYED))
    assert await queue.page(TENANT) == []


async def test_a_finish_that_comes_again_after_the_deletion_changes_nothing(queue: Queue) -> None:
    request = new_request()
    await queue.submit(request)
    key = (await lease(queue)).key
    await queue.finish(make_finish(key, image(request.id)))
    await queue.delete(TENANT, request.id)
    assert await queue.finish(make_finish(key, image(request.id))) is Verdict.FENCED
    with pytest.raises(RequestNotFound):
        await queue.get(TENANT, request.id)


async def test_an_outcome_that_was_deleted_is_not_shared_any_more(queue: Queue) -> None:
    shared = {"reuse_digest": bytes(32)}
    first = await run_request(queue, **shared)
    second = await queue.submit(new_request(**shared))
    assert second.reuses == first
    assert await queue.delete(TENANT, second.id) == []
    await queue.delete(TENANT, first)
    assert (await queue.submit(new_request(**shared))).state is State.QUEUED


async def test_history_is_narrowed_by_endpoint_and_time(queue: Queue) -> None:
    old = await queue.submit(new_request())
    other = await queue.submit(new_request(endpoint="fal-ai/fast-sdxl"))
    young = await queue.submit(new_request())

    async def ids(**narrowed: Any) -> list[str]:
        return [request.id for request in await queue.page(TENANT, **narrowed)]

    assert await ids(endpoints=[other.endpoint]) == [other.id]
    assert await ids(endpoints=[old.endpoint], limit=1) == [young.id]
    assert await ids(endpoints=[old.endpoint], before=young.id) == [old.id]
    assert await ids(since=other.created_at) == [young.id, other.id]
    assert await ids(until=other.created_at) == [old.id]
    assert await ids(until=other.created_at, before=old.id) == []
    assert await ids(since=young.created_at + timedelta(hours=1)) == []
    assert await ids(until=old.created_at - timedelta(days=40000)) == []
    assert await ids(since=old.created_at - timedelta(days=40000), states=[State.FAILED]) == []


async def test_history_is_of_one_tenant_or_of_all(queue: Queue) -> None:
    own = await queue.submit(new_request())
    await queue.cancel(TENANT, own.id)
    bobs = await run_request(queue, tenant="bob")
    late = await queue.submit(new_request(tenant="bob"))
    other = await queue.submit(new_request(tenant="cat", endpoint="fal-ai/fast-sdxl"))

    async def ids(tenant: str | None = None, **narrowed: Any) -> list[str]:
        return [request.id for request in await queue.page(tenant, **narrowed)]

    assert await ids() == [other.id, late.id, bobs, own.id]
    assert await ids(limit=2) == [other.id, late.id]
    assert await ids(before=late.id) == [bobs, own.id]
    assert await ids(endpoints=[own.endpoint]) == [late.id, bobs, own.id]
    assert await ids(endpoints=[own.endpoint], before=late.id, limit=1) == [bobs]
    assert await ids(states=[State.CANCELLED]) == [own.id]
    assert await ids(states=[State.CANCELLED, State.SUCCEEDED]) == [bobs, own.id]
    assert await ids(states=[State.FAILED], endpoints=[own.endpoint]) == []
    assert await ids("bob") == await ids("bob", endpoints=[own.endpoint]) == [late.id, bobs]
    assert await ids(TENANT, states=[State.CANCELLED], endpoints=[own.endpoint]) == [own.id]
    assert await ids("bob", states=[State.CANCELLED]) == []
    assert await ids("bob", states=[State.QUEUED], endpoints=[own.endpoint]) == [late.id]
