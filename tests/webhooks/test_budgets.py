"""Webhooks about budgets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from serve_app.domain.billing.budgets import BudgetWarning
from serve_app.domain.name_resolution import NameResolver
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.budgets import BudgetNotifier
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import Signer
from tests.fakes.quotas import FakeBudgetWarnings
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.webhooks.receiver import Receiver, Reply, always

CLOCK = SystemClock()
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
USED, BUDGET = Decimal("8.10"), Decimal(10)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    signer = Signer(FakeSigningSeeds(CLOCK), CLOCK)
    sender = Sender(NameResolver(), signer, CLOCK, allow_private=True)
    await sender.start()
    yield sender
    await sender.aclose()


def warning(url: str, tries: int = 1) -> BudgetWarning:
    return BudgetWarning("ann", NOVEMBER, 0.8, NOVEMBER, USED, BUDGET, "EUR", url, tries)


async def test_a_warning_is_a_signed_call(sender: Sender) -> None:
    warnings = FakeBudgetWarnings()
    async with Receiver() as receiver:
        warnings.due.append(warning(receiver.url()))
        await BudgetNotifier(warnings, sender, (5.0,)).look()
        (received,) = receiver.received
    body = json.loads(received.body)
    assert body["type"] == "budget.warning"
    assert (body["tenant"], body["threshold"], body["used"]) == ("ann", 0.8, "8.10")
    assert "x-fal-webhook-signature" in received.headers
    assert [again for _, again in warnings.settled] == [None]


@pytest.mark.parametrize(("tries", "again_s"), [(1, 5.0), (2, 15.0), (3, None)])
async def test_a_call_that_fails_is_repeated_until_it_is_given_up(
    sender: Sender, tries: int, again_s: float | None
) -> None:
    warnings = FakeBudgetWarnings()
    async with Receiver(always(Reply(500))) as receiver:
        warnings.due.append(replace(warning(receiver.url()), tries=tries))
        await BudgetNotifier(warnings, sender, (5.0, 15.0)).look()
    assert [again for _, again in warnings.settled] == [again_s]
