"""Contract of what requests are billed: over the fake queue and over PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from decimal import Decimal

import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.billing.sums import SumsQuery, UsageGroup
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State
from serve_app.domain.usage import UsageTotals
from serve_app.telemetry.clock import SystemClock
from tests.queue.requests import TENANT, failure, lease, make_finish, new, new_id

CENT = Decimal("0.01")
IMAGE = Price(PriceUnit.IMAGE, CENT)
DAY = timedelta(days=1)
KEY = b"d" * 32


def image(number: int = 0, width: int = 1024, height: int = 1024) -> Artifact:
    return Artifact(f"a/{new_id()}/{number}.png", "image/png", 9, "0" * 64, width, height)


def images(*sizes: tuple[int, int]) -> Outcome:
    files = tuple(image(number, *size) for number, size in enumerate(sizes))
    return Outcome(output={}, artifacts=files, usage=Usage(1.5, 4, 2.0))


SQUARE = (1024, 1024)


async def bill(queue: Queue, tenant: str = TENANT) -> Sequence[UsageTotals]:
    now = SystemClock().now()
    return await queue.ledger.usage_totals(tenant, [now - DAY, now + DAY])


async def amount(queue: Queue) -> Decimal:
    return sum((line.amount for line in await bill(queue)), Decimal(0))


async def run_request(queue: Queue, outcome: Outcome, **changes: object) -> str:
    request = await queue.submit(new(**changes))
    await queue.finish(make_finish((await lease(queue)).key, outcome))
    return request.id


@pytest.mark.parametrize(
    ("unit", "units"),
    [
        (PriceUnit.IMAGE, "2"),
        (PriceUnit.MEGAPIXEL, "3"),  # 1 and 1.98, each rounded up
        (PriceUnit.SECOND, "0"),  # images have none
        (PriceUnit.GPU_SECOND, "1.5"),
        (PriceUnit.REQUEST, "1"),
    ],
)
async def test_a_success_is_billed_by_the_unit_of_its_price(
    queue: Queue, unit: PriceUnit, units: str
) -> None:
    price = Price(unit, CENT, "EUR")
    await run_request(queue, images(SQUARE, (1920, 1080)), price=price)
    (line,) = await bill(queue)
    assert (line.price, line.billed, line.amount) == (price, Decimal(units), Decimal(units) * CENT)


@pytest.mark.long
@pytest.mark.parametrize(
    ("unit", "units"),
    [(PriceUnit.IMAGE, "0.5"), (PriceUnit.MEGAPIXEL, "0.5"), (PriceUnit.REQUEST, "1")],
)
async def test_drafts_are_billed_by_their_share_of_the_steps(
    queue: Queue, unit: PriceUnit, units: str
) -> None:
    previews = images(SQUARE, SQUARE)
    drafted = replace(previews, usage=replace(previews.usage, share=0.25))
    request_id = await run_request(queue, drafted, price=Price(unit, CENT))
    (line,) = await bill(queue)
    assert (line.billed, line.amount) == (Decimal(units), Decimal(units) * CENT)
    stored = await queue.get(TENANT, request_id)
    assert stored is not None
    assert stored.outcome is not None
    assert stored.outcome.usage.share == 0.25


async def test_drafts_of_several_seeds_cost_what_they_reserved(queue: Queue) -> None:
    """The mean of their shares is a binary number, of which the last digits were billed."""
    previews = images(SQUARE, SQUARE, SQUARE)
    share = (0.4 + 0.4 + 0.4) / 3
    assert share != 0.4
    drafted = replace(previews, usage=replace(previews.usage, share=share))
    await run_request(queue, drafted, price=Price(PriceUnit.IMAGE, CENT))
    (line,) = await bill(queue)
    assert (line.billed, line.amount) == (Decimal("1.2"), Decimal("1.2") * CENT)


async def test_videos_are_billed_by_their_seconds(queue: Queue) -> None:
    clip = Artifact(f"a/{new_id()}/0.mp4", "video/mp4", 9, "0" * 64, 640, 480)
    outcome = Outcome(output={}, artifacts=(clip,), usage=Usage(9.0, 4, 5.0625))
    await run_request(queue, outcome, price=Price(PriceUnit.SECOND, Decimal("0.1")))
    (line,) = await bill(queue)
    assert (line.billed, line.amount) == (Decimal("5.0625"), Decimal("0.50625"))


async def test_without_a_price_nothing_is_billed(queue: Queue) -> None:
    await run_request(queue, images(SQUARE))
    (line,) = await bill(queue)
    assert (line.requests, line.price, line.amount) == (1, None, 0)


async def test_each_request_pays_the_price_of_its_submit(queue: Queue) -> None:
    dearer = Price(PriceUnit.IMAGE, 2 * CENT)
    await run_request(queue, images(SQUARE), price=IMAGE)
    await run_request(queue, images(SQUARE), price=dearer)
    assert {(line.price, line.amount) for line in await bill(queue)} == {
        (IMAGE, CENT),
        (dearer, 2 * CENT),
    }


async def test_failures_and_cancelled_requests_are_recorded_and_not_billed(queue: Queue) -> None:
    await run_request(queue, failure(), price=IMAGE)
    queued = await queue.submit(new(price=IMAGE))
    await queue.cancel(TENANT, queued.id)
    (line,) = await bill(queue)
    assert (line.requests, line.billed, line.amount) == (2, 0, 0)


async def test_a_shared_outcome_is_billed_once(queue: Queue) -> None:
    same = {"price": IMAGE, "reuse_digest": KEY}
    leader = await queue.submit(new(**same))
    follower = await queue.submit(new(**same))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    await queue.wait(TENANT, follower.id, 5.0)
    later = await queue.submit(new(**same))
    assert (await queue.get(TENANT, leader.id)).state is State.SUCCEEDED
    assert later.reuses
    (line,) = await bill(queue)
    assert (line.requests, line.billed, line.amount) == (3, 1, CENT)


async def test_a_repeated_finish_is_billed_once(queue: Queue) -> None:
    await queue.submit(new(price=IMAGE))
    key = (await lease(queue)).key
    for _ in range(3):
        await queue.finish(make_finish(key, images(SQUARE)))
    assert await amount(queue) == CENT


async def test_frames_of_a_realtime_session_are_billed_one_by_one(queue: Queue) -> None:
    await queue.submit(new(price=Price(PriceUnit.MEGAPIXEL, CENT), priority=Priority.REALTIME))
    key = (await lease(queue)).key
    frame = new_id()
    for _ in range(2):
        await queue.record_frame(key, frame, State.SUCCEEDED, Usage(0.1, 1, 0.25))
    await queue.record_frame(key, new_id(), State.FAILED, Usage(0.1, 1, 0.25))
    assert await amount(queue) == CENT


@pytest.mark.parametrize(("output", "requests"), [({"frames": 1}, 1), ({}, 1)])
async def test_a_session_is_a_request_only_if_none_of_its_frames_is_one(
    queue: Queue, output: dict[str, int], requests: int
) -> None:
    await queue.submit(new(price=Price(PriceUnit.REQUEST, CENT), priority=Priority.REALTIME))
    key = (await lease(queue)).key
    for _ in range(output.get("frames", 0)):
        await queue.record_frame(key, new_id(), State.SUCCEEDED, Usage(0.1, 1, 0.25))
    await queue.finish(make_finish(key, Outcome(output=output, usage=Usage(2.0))))
    assert await amount(queue) == requests * CENT


async def test_a_deleted_request_stays_billed(queue: Queue) -> None:
    request_id = await run_request(queue, images(SQUARE), price=IMAGE)
    await queue.delete(TENANT, request_id)
    assert await amount(queue) == CENT


async def test_usage_is_summed_by_what_is_asked_for(queue: Queue) -> None:
    await run_request(queue, images(SQUARE), price=IMAGE, key_id="k1")
    await run_request(queue, images(SQUARE, SQUARE), price=IMAGE, key_id="k2")
    await run_request(queue, failure(), price=IMAGE, key_id="k2")
    await run_request(queue, images(SQUARE), key_id="k2", tenant="bob", endpoint="acme/free")
    now = SystemClock().now()

    async def sums(*by: UsageGroup, tenant: str | None = TENANT) -> list[tuple[object, ...]]:
        query = SumsQuery(tenant, now - DAY, now + DAY, by)
        return [
            (
                total.tenant,
                total.key_id,
                total.endpoint,
                total.requests,
                total.successes,
                total.amount,
            )
            for total in await queue.ledger.sums(query)
        ]

    schnell = "fal-ai/flux/schnell"
    assert await sums() == [(None, None, None, 3, 2, 3 * CENT)]
    assert await sums(UsageGroup.KEY) == [
        (None, "k1", None, 1, 1, CENT),
        (None, "k2", None, 2, 1, 2 * CENT),
    ]
    assert await sums(UsageGroup.TENANT, UsageGroup.ENDPOINT, tenant=None) == [
        (TENANT, None, schnell, 3, 2, 3 * CENT),
        ("bob", None, "acme/free", 1, 1, Decimal(0)),
    ]
    (today,) = await queue.ledger.sums(
        SumsQuery(TENANT, now - DAY, now + DAY, [UsageGroup.DAY], "Pacific/Kiritimati")
    )
    assert today.day in {(now + timedelta(hours=14)).date(), (now + timedelta(hours=15)).date()}


@pytest.mark.parametrize(
    ("zone", "offset"), [("UTC", timedelta()), ("Asia/Kolkata", timedelta(hours=5, minutes=30))]
)
async def test_usage_is_summed_by_the_hours_of_a_zone_and_by_minutes(
    queue: Queue, zone: str, offset: timedelta
) -> None:
    before = SystemClock().now()
    await run_request(queue, images(SQUARE), price=IMAGE)
    after = SystemClock().now()
    by = [UsageGroup.HOUR, UsageGroup.MINUTE]
    (total,) = await queue.ledger.sums(SumsQuery(TENANT, before - DAY, after + DAY, by, zone))
    assert total.day is None
    assert total.hour is not None
    assert total.minute is not None
    assert (total.hour.astimezone(UTC) + offset).minute == 0
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    for start, length in ((total.hour, hour), (total.minute, minute)):
        assert before - length < start <= after
        assert start.astimezone(UTC).second == 0
