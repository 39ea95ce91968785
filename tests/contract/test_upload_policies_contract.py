"""Contract of requests whose files go to a bucket of their client, for every ``Queue``."""

from __future__ import annotations

from serve_app.domain.artifact import Artifact
from serve_app.domain.audit.acts import Actor
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import State
from tests.fakes.upload_policies import BUCKET, SIGNATURE, upload_policy
from tests.queue.requests import TENANT, ask, lease, make_finish, new


async def test_every_attempt_gets_a_form_for_the_same_file(queue: Queue) -> None:
    policy = upload_policy()
    request = await queue.submit(new(upload_policy=policy))
    first = await lease(queue)
    await queue.hand_back(first.key, "r1", "draining")
    second = await lease(queue, "r2")
    (ticket,) = first.upload_tickets
    assert second.upload_tickets == first.upload_tickets
    assert ticket.key == f"{BUCKET}out/{request.id}-0.bin"
    assert dict(ticket.form)["x-amz-signature"] == SIGNATURE
    assert SIGNATURE not in repr(second)
    stored = await queue.get(TENANT, request.id)
    assert stored.upload_policy == policy
    assert SIGNATURE not in repr(stored)


async def test_the_signature_is_forgotten_at_the_end_and_the_file_is_not_ours_to_delete(
    queue: Queue,
) -> None:
    request = await queue.submit(new(upload_policy=upload_policy()))
    granted = await lease(queue)
    (ticket,) = granted.upload_tickets
    artifact = Artifact(ticket.key, "image/png", 3, "00" * 32)
    output = {"images": [{"artifact": ticket.key}]}
    await queue.finish(make_finish(granted.key, Outcome(output=output, artifacts=(artifact,))))
    ended = await queue.current(TENANT, request.id)
    assert ended.state is State.SUCCEEDED
    assert ended.upload_policy is None
    assert ended.outcome is not None
    assert ended.outcome.artifacts == (artifact,)
    assert await queue.delete(TENANT, request.id, Actor("key-1")) == []


async def test_a_cancel_forgets_the_signature_too(queue: Queue) -> None:
    request = await queue.submit(new(upload_policy=upload_policy()))
    await queue.cancel(TENANT, request.id)
    assert (await queue.current(TENANT, request.id)).upload_policy is None


async def test_a_policy_that_expired_while_the_request_waited_fails_it_before_it_runs(
    queue: Queue,
) -> None:
    request = await queue.submit(new(upload_policy=upload_policy(valid_s=-60)))
    assert (await queue.ask(ask(1))).leases == ()
    ended = await queue.wait(TENANT, request.id, 30.0)
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "upload_policy_failed"
    assert "expired at" in ended.outcome.failure.message
