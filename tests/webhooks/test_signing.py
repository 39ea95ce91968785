"""Signing keys: which one signs, and which ones are published."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.webhook import SigningSeed
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.signing import KEEP_S, SignedMessage, Signer
from tests.fakes.clock import FakeClock
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.webhooks.fals_verification import verify_webhook

PARCEL = SignedMessage("delivery-1", "request-1", "ann", b"{}")


class AwayAfter(FakeSigningSeeds):
    """Seeds that answer a limited number of times and then fail."""

    def __init__(self, clock: FakeClock, times: int) -> None:
        super().__init__(clock)
        self._left = times

    async def all(self) -> Sequence[SigningSeed]:
        if not self._left:
            raise DatabaseUnavailable("PostgreSQL is away.")
        self._left -= 1
        return await super().all()


async def test_while_the_database_is_away_the_keys_read_last_sign() -> None:
    clock = FakeClock()
    signer = Signer(AwayAfter(clock, 1), clock)
    jwks = await signer.jwks()
    clock.advance(KEEP_S + 1)
    assert await signer.jwks() == jwks
    assert (await signer.headers(PARCEL))["webhook-id"] == "delivery-1"
    with pytest.raises(DatabaseUnavailable):
        await Signer(AwayAfter(clock, 0), clock).keys()


async def test_a_rotation_by_another_process_is_seen_within_a_minute() -> None:
    clock = FakeClock()
    seeds = FakeSigningSeeds(clock)
    signer = Signer(seeds, clock)
    before = await signer.jwks()
    await seeds.rotate(Actor("key"), at_once=True)
    assert await signer.jwks() == before
    clock.advance(KEEP_S + 1)
    assert await signer.jwks() != before


@pytest.mark.long
async def test_the_time_of_the_try_is_signed() -> None:
    clock = FakeClock(SystemClock().now())
    signer = Signer(FakeSigningSeeds(clock), clock)
    first = await signer.headers(PARCEL)
    clock.advance(100)
    second = await signer.headers(PARCEL)
    later = int(second["x-fal-webhook-timestamp"]) - int(first["x-fal-webhook-timestamp"])
    assert later == 100
    assert first["webhook-signature"] != second["webhook-signature"]
    assert verify_webhook(second, PARCEL.body, await signer.jwks())
    stale = {**second, "x-fal-webhook-timestamp": first["x-fal-webhook-timestamp"]}
    assert not verify_webhook(stale, PARCEL.body, await signer.jwks())
