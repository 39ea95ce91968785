"""Answers of providers that are not what their documentation says: a job that is paid is neither
lost nor sent again, and no request hangs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployments.executors.hosted.test_providers_protocols import Bench, bench
from tests.fakes.provider_server import Call, Reply

__all__ = ["bench"]

DEEP = b'{"a":' * 100_000
PAGE = b"<html>Back in a minute</html>"


@pytest.mark.parametrize("odd", [PAGE, DEEP, b""])
async def test_a_result_that_cannot_be_read_is_read_again(bench: Bench, odd: bytes) -> None:
    odd_replies = [Reply(200, odd)]
    bench.fal.outputs = lambda _: odd_replies.pop() if odd_replies else None
    outcome = await bench.desk.outcome(bench.endpoint("fal"), prompt="a lighthouse")
    assert outcome.failure is None, outcome.failure
    assert len(bench.fal.jobs) == 1


@pytest.mark.parametrize("body", [PAGE, DEEP, {"request_id": "a\0b"}, {"request_id": "\ud800"}])
async def test_an_acceptance_that_cannot_be_kept_is_a_call_of_unknown_fate(
    bench: Bench, body: Any
) -> None:
    bench.fal.faults = [Reply(200, body)]
    outcome = await bench.desk.outcome(bench.endpoint("fal", grace_s=0.0), prompt="a lighthouse")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_unconfirmed"
    assert [state for state, _ in await bench.desk.calls()] == ["unconfirmed"]


@pytest.mark.parametrize("logs", [7, "text", {"a": 1}, [7, None, {"level": 5, "message": {}}]])
async def test_logs_of_another_form_do_not_lose_a_result(bench: Bench, logs: Any) -> None:
    answer = bench.fal.answer

    async def with_logs(call: Call) -> Reply:
        reply = await answer(call)
        if call.path.endswith("/status"):
            reply.body["logs"] = logs
        return reply

    bench.fal.answer = with_logs  # type: ignore[method-assign]
    outcome = await bench.desk.outcome(bench.endpoint("fal"), prompt="a lighthouse")
    assert outcome.failure is None, outcome.failure
