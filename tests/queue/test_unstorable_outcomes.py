"""Outcomes that PostgreSQL cannot store are refused, and others in their batch are not. Long
messages are cut."""

from __future__ import annotations

import asyncio
import math

import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import PipelineFailed
from serve_app.domain.lease import Verdict
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.request import State
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, failure, lease, make_finish, new


def in_the_context(number: float) -> Outcome:
    failure = Failure("invalid_input", "It is bad.", False, "seed", "value_error", {"le": number})
    return Outcome(failure=failure)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(output={"loss": [math.nan]}),
        Outcome(output={"loss": math.inf}),
        Outcome(output={}, artifacts=(Artifact("r/a/1/x.png", "image/png", 1, "00", 2**40, 1),)),
        in_the_context(math.nan),
    ],
)
async def test_an_outcome_that_cannot_be_stored_is_refused_and_no_other(
    ingress: Ingress, outcome: Outcome
) -> None:
    queue = await ingress()
    bad, good = await queue.submit(new()), await queue.submit(new())
    first, second = await lease(queue), await lease(queue)
    refused, accepted = await asyncio.gather(
        queue.finish(make_finish(first.key, outcome)),
        queue.finish(make_finish(second.key)),
        return_exceptions=True,
    )
    assert isinstance(refused, PipelineFailed)
    assert "cannot be stored" in refused.message
    assert accepted is Verdict.ACCEPTED
    assert (await queue.get(TENANT, good.id)).state is State.SUCCEEDED
    assert (await queue.get(TENANT, bad.id)).state is State.RUNNING  # until its replica says more


async def test_a_long_message_of_a_failure_is_cut(ingress: Ingress) -> None:
    queue = await ingress()
    request = await queue.submit(new())
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key, failure("x" * 10**6)))
    ended = await queue.get(TENANT, request.id)
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert len(ended.outcome.failure.message) < 10_100
    assert ended.outcome.failure.message.endswith("x …")
