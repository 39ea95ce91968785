"""Contract of the keys that sign webhooks: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.webhook import SigningSeed, SigningSeeds
from serve_app.postgres.database import Database
from serve_app.queue.transactions.signing_keys import NOTICE_S, PostgresSigningSeeds
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.signing import OVERLAP_S, published_keys
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.queue.connections import LastingDatabase


@pytest.fixture
async def seeds(at: str | None) -> AsyncIterator[SigningSeeds]:
    if at is None:
        yield FakeSigningSeeds(SystemClock())
        return
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresSigningSeeds(database)
    await database.aclose()


async def test_many_who_ask_first_get_the_same_key(seeds: SigningSeeds) -> None:
    answers = await asyncio.gather(*(seeds.all() for _ in range(10)))
    assert {tuple(key.kid for key in some) for some in answers} == {(answers[0][0].kid,)}
    (seed,) = answers[0]
    assert (len(seed.seed), seed.signs) == (32, True)


async def test_a_rotation_announces_one_key_however_often_it_is_asked_for(
    seeds: SigningSeeds,
) -> None:
    (first,) = await seeds.all()
    await asyncio.gather(*(seeds.rotate(Actor("key"), at_once=False) for _ in range(5)))
    old, fresh = await seeds.all()
    assert (old.kid, old.seed, old.signs) == (first.kid, first.seed, True)
    assert not fresh.signs
    assert NOTICE_S - 60 < -fresh.age_s <= NOTICE_S


async def test_at_once_there_is_one_other_key(seeds: SigningSeeds) -> None:
    (first,) = await seeds.all()
    await seeds.rotate(Actor("key"), at_once=False)
    await seeds.rotate(Actor("key"), at_once=True)
    (seed,) = await seeds.all()
    assert seed.signs
    assert seed.kid != first.kid


async def test_a_rotation_is_in_the_audit(database: Database) -> None:
    await PostgresSigningSeeds(database).rotate(Actor("key-1"), at_once=True)
    ((actor, action, detail),) = await database.rows("SELECT actor, action, detail FROM audit")
    assert (actor, action, detail) == ("key-1", "webhook.rotate", {"at_once": True})


async def test_what_was_replaced_long_ago_goes_at_the_next_rotation(database: Database) -> None:
    seeds = PostgresSigningSeeds(database)
    (first,) = await seeds.all()
    for days in (40, 20):
        await database.rows(
            f"UPDATE webhook_keys SET signs_from = signs_from - interval '{days} days'"
        )
        await seeds.rotate(Actor("key"), at_once=False)
    assert first.kid not in {seed.kid for seed in await seeds.all()}
    assert [seed.signs for seed in await seeds.all()] == [True, False]


def test_receivers_learn_the_next_key_and_the_last_one_for_a_day() -> None:
    def seed(kid: str, age_s: float) -> SigningSeed:
        return SigningSeed(kid, bytes(32), age_s >= 0, age_s)

    def kids(*seeds: SigningSeed) -> list[str]:
        return [key.kid for key in published_keys(seeds)]

    assert kids(seed("now", 9e9)) == ["now"]
    assert kids(seed("now", 9e9), seed("next", -100.0)) == ["now", "next"]
    assert kids(seed("last", 9e9), seed("now", OVERLAP_S - 1)) == ["last", "now"]
    assert kids(seed("last", 9e9), seed("now", OVERLAP_S + 1)) == ["now"]
