"""Repeated submits across ingress processes, and after their time."""

from __future__ import annotations

from serve_app.postgres.database import Database
from serve_app.queue.transactions.idempotency import UNDELIVERED_S, IdempotencyKeys
from tests.queue.database import Ingress
from tests.queue.requests import new

BODY = bytes(32)


async def test_an_answer_that_was_lost_here_is_given_again_there(ingress: Ingress) -> None:
    here, there = await ingress(), await ingress()
    lost = new(replay_key="dk_1", body_digest=BODY)
    await here.submit(lost)
    await here.record_undelivered(lost, lost.id)
    again = await there.find_earlier(new(replay_key="dk_1", body_digest=BODY))
    assert again is not None
    assert again.id == lost.id


async def test_after_its_time_a_lost_answer_is_not_given_again_and_is_forgotten(
    ingress: Ingress, database: Database
) -> None:
    queue, repeats = await ingress(), IdempotencyKeys(database)
    old, young = (new(replay_key=f"dk_{n}", body_digest=BODY) for n in (1, 2))
    for request in (old, young):
        await queue.submit(request)
        await repeats.record_undelivered(request, request.id)
    await database.rows(
        "UPDATE undelivered SET at = at - make_interval(secs => %(s)s) WHERE api_key = 'dk_1'",
        {"s": UNDELIVERED_S + 1},
    )
    assert await repeats.take_undelivered(old) is None
    await repeats.forget_undelivered()
    assert await database.rows("SELECT api_key FROM undelivered") == [("dk_2",)]
    assert await repeats.take_undelivered(young) is not None


async def test_a_lost_answer_is_of_the_tenant_whose_key_it_was(
    ingress: Ingress, database: Database
) -> None:
    queue, repeats = await ingress(), IdempotencyKeys(database)
    lost = new(replay_key="dk_1", body_digest=BODY)
    await queue.submit(lost)
    await repeats.record_undelivered(lost, lost.id)
    stranger = new(replay_key="dk_1", body_digest=BODY, tenant="bob")
    assert await repeats.take_undelivered(stranger) is None
