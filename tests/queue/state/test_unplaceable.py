"""A request for a pool that fits on no node says so, until a replica is there."""

from __future__ import annotations

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.request import WaitReason
from tests.queue.database import Ingress
from tests.queue.requests import POOL, new

SENTENCE = "Pool studio: a replica needs 1 GPU, but the most that one of 1 node has is 0 GPU."


async def test_a_request_says_that_no_node_can_run_its_pool(ingress: Ingress) -> None:
    queue = await ingress()
    request = await queue.submit(new())
    queue.parts.state.stats.unplaceable = {POOL: SENTENCE, "other": "no"}
    waiting = await queue.waiting(request)
    assert (waiting.reason, waiting.detail) == (WaitReason.NO_REPLICA, SENTENCE)
    await queue.announce(Presence("r1", "a1", POOL, ReplicaStage.STARTING, "loading"))
    assert (await queue.waiting(request)).detail == "loading"
