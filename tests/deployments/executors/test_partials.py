"""Partial results of generators, from the worker process to the ingress."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from darkroom.serving import MAX_UNTAKEN
from deployments.executors.partials import MAX_WAITING, PartialSender
from deployments.transfer.uploader import Backoff
from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.progress import MAX_PARTIAL_BYTES
from tests.deployments.executors.rig import ExecutorRig

HELD = LeaseKey("request", 1, "nonce")
RULE = {"name": "all", "action": "flag", "on_error": "block", "checker": {}}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ExecutorRig]:
    executor_rig = ExecutorRig(tmp_path)
    await executor_rig.replica.start()
    yield executor_rig
    await executor_rig.replica.aclose()


def noted_in(file: Path) -> int:
    """Number of values that the app has begun to make."""
    return len(file.read_text()) if file.exists() else 0


async def until_noted(file: Path, values: int) -> None:
    async with asyncio.timeout(120):
        while noted_in(file) < values:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.05)


async def test_every_value_of_a_generator_arrives_in_its_order_before_the_outcome(
    rig: ExecutorRig,
) -> None:
    key = rig.offer("one", "/count", to=200)
    outcome = await rig.outcome(key)
    assert outcome.output == {"number": 199}
    assert [json.loads(partial.value)["number"] for partial in rig.source.partials] == [*range(200)]
    assert [partial.position for partial in rig.source.partials] == [
        (1, number) for number in range(200)
    ]


async def test_the_values_before_an_error_are_sent_before_it(rig: ExecutorRig) -> None:
    outcome = await rig.outcome(rig.offer("one", "/count", to=5, then_fail=True))
    assert outcome.failure is not None
    assert [json.loads(partial.value)["number"] for partial in rig.source.partials] == [*range(5)]


async def test_files_of_partial_results_are_data_uris_and_leave_nothing_in_storage(
    rig: ExecutorRig,
) -> None:
    key = rig.offer("one", "/draw", sizes=[3, 5])
    outcome = await rig.outcome(key)
    assert outcome.failure is None
    images = [json.loads(partial.value)["image"] for partial in rig.source.partials]
    assert [image["content_type"] for image in images] == ["image/png"] * 2
    assert [base64.b64decode(image["url"].partition(",")[2]) for image in images] == [
        b"aaa",
        b"aaaaa",
    ]
    assert len(rig.storage.objects) == 1


@pytest.mark.parametrize("why", ["large", "checked", "marked"])
async def test_a_partial_result_that_cannot_be_shown_is_left_out_and_the_log_says_so(
    rig: ExecutorRig, why: str
) -> None:
    more = {
        "large": {},
        "checked": {"lease_safety": (RULE,)},
        "marked": {"lease_marking": MarkPolicy.REQUIRED},
    }[why]
    key = rig.offer("one", "/draw", sizes=[MAX_PARTIAL_BYTES + 1, 3], **more)
    outcome = await rig.outcome(key)
    assert (outcome.failure is None) == (why == "large")
    assert len(rig.source.partials) == (1 if why == "large" else 0)
    printed = await rig.lines(key)
    assert any("A partial result was left out" in text for _, text in printed)


@pytest.mark.long
async def test_a_generator_waits_while_its_values_are_not_taken(
    rig: ExecutorRig, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    rig.source.taking.clear()
    key = rig.offer("one", "/noted", to=10_000, file=str(noted))
    most = MAX_WAITING + MAX_UNTAKEN + 2  # one that is made, and one that has been asked for
    least = MAX_WAITING + MAX_UNTAKEN
    await until_noted(noted, least)
    await asyncio.sleep(0.5)  # in which it would make some hundred more
    assert noted_in(noted) <= most
    rig.source.taking.set()
    assert (await rig.outcome(key)).output == {"output": 9_999}
    assert len(rig.source.partials) == 10_000
    assert rig.source.firsts[-1] == 9_000


async def test_a_waiting_generator_can_be_cancelled(rig: ExecutorRig, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    rig.source.taking.clear()
    key = rig.offer("one", "/noted", to=10_000, file=str(noted))
    await until_noted(noted, MAX_UNTAKEN)
    rig.port.cancelled.add(key)
    outcome = await rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"


async def test_the_app_does_not_go_on_with_a_request_that_failed_outside_of_it(
    rig: ExecutorRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def broken(_: PartialSender, __: object) -> None:
        raise OSError("No space left on device.")

    monkeypatch.setattr(PartialSender, "add", broken)
    noted = tmp_path / "noted"
    outcome = await rig.outcome(rig.offer("one", "/noted", to=10_000, file=str(noted)))
    assert outcome.failure is not None
    await until_noted(tmp_path / "noted.over", 1)


async def test_a_request_does_not_fail_because_its_values_are_not_taken(rig: ExecutorRig) -> None:
    rig.source.refuses = Unavailable("The database is away.")
    outcome = await rig.outcome(rig.offer("one", "/count", to=3))
    assert outcome.output == {"number": 2}


async def test_values_after_one_that_was_dropped_are_not_kept_in_memory(rig: ExecutorRig) -> None:
    rig.source.fenced.add(HELD)
    sender = PartialSender(HELD, rig.source, Backoff(Random(1)))  # noqa: S311
    await sender.add({"number": 0})
    await sender.flush()
    for number in range(1, 100):
        await sender.add({"number": number})
    assert len(sender._waiting) == 0  # memory is the question
    await sender.aclose()
