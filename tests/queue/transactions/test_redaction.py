"""Rows left in PostgreSQL of a redacted request."""

from __future__ import annotations

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import OutcomeForgotten
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.request import Redacted
from serve_app.domain.webhook import DeliveryChannel, DeliveryState, ReceiverResponse, Webhook
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.transactions.redaction import Redaction
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from tests.contract.test_deletion_contract import image, new_request
from tests.contract.test_forgetting_contract import INPUT, forgot
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, lease, make_finish

QUOTING = Outcome(
    failure=Failure("pipeline_failed", "No image of a secret.", False, "secret"),
    usage=Usage(1.5, 4, 1.0),
)


@pytest.mark.parametrize("outcome", ["image", "failure"])
async def test_an_hour_later_nothing_is_there_but_that_it_was(
    ingress: Ingress, database: Database, outcome: str
) -> None:
    queue = await ingress()
    request = new_request(input=INPUT, store_io=False, warnings=("Of a secret.",))
    await queue.submit(request)
    result = image(request.id) if outcome == "image" else QUOTING
    await queue.finish(make_finish((await lease(queue)).key, result))
    before = await forgot(queue, request.id, Redacted.OUTCOME)
    assert await Redaction(database).redact_due() == []
    await database.rows("UPDATE requests SET finished_at = now() - interval '61 minutes'")
    await forgot(queue, request.id, Redacted.DONE)
    there = await (await ingress()).get(TENANT, request.id)
    assert there.outcome is not None
    assert there.state is before.state
    assert there.outcome.output is None
    assert there.outcome.usage == result.usage
    assert there.outcome.succeeded is result.succeeded
    assert not await queue.lines(TENANT, request.id)
    for table in ("requests", "events", "attempts", "usage"):
        rows = await database.rows(f"SELECT row_to_json(t)::text FROM {table} t")
        assert "secret" not in str(rows)
        assert '"images":[' not in str(rows).replace(" ", "")  # only the count of the bill is left


async def test_its_webhook_is_forgotten_with_the_outcome(
    ingress: Ingress, database: Database
) -> None:
    queue, outbox = await ingress(), PostgresOutbox(database)
    ids: list[str] = []
    for path in ("delivered", "undelivered"):
        request = new_request(store_io=False, webhook=Webhook(f"https://{path}.example/", ""))
        await queue.submit(request)
        await queue.cancel(TENANT, request.id)
        await forgot(queue, request.id, Redacted.OUTCOME)
        (claimed,) = await outbox.claim({DeliveryChannel(TENANT, f"{path}.example"): 1})
        assert await outbox.keep_body(claimed, b"a secret") == b"a secret"
        if path == "delivered":
            assert await outbox.record_success(claimed, ReceiverResponse(0.1, 200))
        ids.append(request.id)
    delivered, undelivered = ids
    await database.rows("UPDATE requests SET finished_at = now() - interval '61 minutes'")
    for request_id in ids:
        await forgot(queue, request_id, Redacted.DONE)
    rows = await database.rows("SELECT body FROM webhook_deliveries")
    assert rows == [(None,), (None,)]
    assert (await outbox.get(TENANT, delivered)).state is DeliveryState.DELIVERED
    dead = await outbox.get(TENANT, undelivered)
    assert dead.state is DeliveryState.DEAD
    assert dead.error.startswith(messages.UNDELIVERED)
    with pytest.raises(OutcomeForgotten):
        await outbox.redeliver(TENANT, delivered, Actor("key"))


async def test_many_are_forgotten_at_once_and_each_once(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    requests = [new_request(store_io=False) for _ in range(5)]
    for request in requests:
        await queue.submit(request)
        await queue.cancel(TENANT, request.id)
    for request in requests:
        await forgot(queue, request.id, Redacted.OUTCOME)
    assert await Redaction(database).redact_due() == []
