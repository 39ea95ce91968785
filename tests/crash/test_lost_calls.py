"""Calls and answers that get lost between an ingress and PostgreSQL, at the worst moments."""

from __future__ import annotations

import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.request import State
from tests.chaos.proxy import Lose
from tests.crash.scene import Scene
from tests.queue.requests import TENANT, ask, lease, make_finish, new

BODY = b"d" * 32


@pytest.mark.parametrize("what", Lose)
async def test_a_submit_that_broke_off_around_its_commit_is_one_request_under_its_key(
    scene: Scene, what: Lose
) -> None:
    far, near = await scene.ingresses(scene.far, scene.near)
    first = new(idempotency_key="k", body_digest=BODY)
    scene.proxy.lose(first.id.encode(), what)
    with pytest.raises(DatabaseUnavailable):
        await far.submit(first)
    assert scene.proxy.lost
    again = await scene.submit(near, idempotency_key="k", body_digest=BODY)
    assert (again.id == first.id) is (what is Lose.ANSWER)
    assert [request.id for request in await near.page(TENANT)] == [again.id]
    async with scene.replicas(1):
        await scene.check()


async def test_a_lease_that_was_given_and_never_arrived_runs_out_without_a_failure(
    scene: Scene,
) -> None:
    far, near = await scene.ingresses(scene.far, scene.near)
    request = await scene.submit(near)
    scene.proxy.lose(b'"n":1,"replica":"r0"', Lose.ANSWER)
    granted = await far.ask(ask(1, replica="r0"))
    # Nothing; or, where the call took longer than a lease lasts, the next one.
    assert all(next_lease.attempt > 1 for next_lease in granted.leases)
    assert scene.proxy.lost
    async with scene.replicas(1):
        ended = await scene.final(request.id)
    assert (ended.state, ended.failures) == (State.SUCCEEDED, 0)
    assert ended.attempt >= 2  # a machine that stands still loses further leases
    await scene.check()


@pytest.mark.parametrize("what", Lose)
async def test_a_finish_that_broke_off_around_its_commit_is_handed_in_again_and_counts_once(
    scene: Scene, what: Lose
) -> None:
    far, near = await scene.ingresses(scene.far, scene.near)
    request = await scene.submit(near)
    granted = await lease(near)
    scene.proxy.lose(request.id.encode(), what)
    with pytest.raises(DatabaseUnavailable):
        await far.finish(make_finish(granted.key))
    assert scene.proxy.lost
    assert await near.finish(make_finish(granted.key)) == "accepted"
    assert await far.finish(make_finish(granted.key)) == "accepted"
    await scene.check()
