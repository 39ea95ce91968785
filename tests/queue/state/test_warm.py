"""Warm targets over PostgreSQL: what replicas are told to hold, and by whom it is decided."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.operations import WarmTarget, WeightsLevel
from serve_app.queue.queue import PostgresQueue
from tests.contract.waiting import eventually
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import POOL, ask

ENDPOINT = "fal-ai/flux/dev"
KEEP = ((ENDPOINT, WeightsLevel.HOT),)


def starting(replica: str = "r1", pool: str = POOL) -> Presence:
    return Presence(replica, f"actor-{replica}", pool, ReplicaStage.STARTING, node="10.0.0.1")


async def decide(queue: PostgresQueue, *replicas: str) -> None:
    """Decide that these replicas hold the endpoint, and read it."""
    await queue.parts.state.kept_weights.write(dict.fromkeys(replicas, KEEP))
    await queue.parts.state.kept_weights.refresh([POOL])


async def test_a_starting_replica_waits_for_the_decision_only_where_targets_stand(
    ingress: Ingress,
) -> None:
    queue = await ingress()
    assert await queue.announce(starting()) is None
    await queue.parts.state.kept_weights.refresh([POOL])
    assert await queue.announce(starting("r9", "other")) is None
    undecided = await queue.announce(starting())
    assert undecided is not None
    assert undecided.keep is None
    await decide(queue, "r1")
    decided = await queue.announce(starting())
    assert decided is not None
    assert [(endpoint.id, level) for endpoint, level in decided.keep or ()] == [(ENDPOINT, "hot")]


async def test_a_running_replica_is_told_once_by_any_ingress(ingress: Ingress) -> None:
    here, there = await ingress(), await ingress()
    await here.announce(starting())
    await decide(here, "r1")
    await there.parts.state.kept_weights.refresh([POOL])
    for queue in (here, there):
        told = await queue.ask(ask(1))
        assert [level for _, level in told.keep or ()] == ["hot"]
        version = told.keep_version
    knows = replace(ask(1), kept_version=version)
    for queue in (here, there):
        assert (await queue.ask(knows)).keep is None
    await here.parts.state.kept_weights.write({"r1": ()})
    await here.parts.state.kept_weights.refresh([])
    told = await here.ask(knows)
    assert (told.keep, told.keep_version) == ((), "")


async def test_an_endpoint_that_the_catalogue_no_longer_has_is_not_held(
    ingress: Ingress, terms: FakeTerms
) -> None:
    queue = await ingress()
    await queue.announce(starting())
    terms.gone.add(ENDPOINT)
    await decide(queue, "r1")
    assert (await queue.ask(ask(1))).keep is None


@pytest.mark.long
async def test_what_a_replica_holds_is_read_by_every_ingress(ingress: Ingress) -> None:
    here, there = await ingress(), await ingress()
    holds = {"hot": ("a",), "warm": ("b",), "on_disk": ("c",), "not_kept": (("d", "Full: \0."),)}
    poll = replace(ask(1), **holds)
    polling = asyncio.create_task(here.ask(poll))

    async def seen() -> bool:
        return bool(await there.parts.state.kept_weights.refresh([]))

    await eventually(seen)
    await polling
    (weights,) = await there.parts.state.kept_weights.refresh([])
    assert (weights.hot, weights.host, weights.disk) == ({"a"}, {"b"}, {"c"})
    assert weights.not_kept["d"].startswith("Full")
    assert weights.keep is None


async def test_targets_end_by_themselves(ingress: Ingress) -> None:
    queue = await ingress()
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    actor = Actor("key")
    await queue.operations.set_warm(WarmTarget(ENDPOINT, 1, WeightsLevel.HOT, soon), actor)

    async def over() -> bool:
        return not await queue.operations.warm_targets()

    await eventually(over)
    assert not await queue.operations.end_warm(ENDPOINT, actor)
