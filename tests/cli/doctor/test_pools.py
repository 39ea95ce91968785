"""What the doctor says about pools whose requests no replica takes."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.cli.doctor.doctor import pool_without_replica

USUAL: dict[str, Any] = {"queued": 0, "max_replicas": 4, "overflow_of": None}


@pytest.mark.parametrize(
    ("pools", "hosted"),
    [
        ({"flux": {}}, set()),
        ({"flux": {"queued": 3}}, {"flux"}),
        ({"workflows": {"queued": 3, "max_replicas": None}}, set()),
        ({"flux": {"queued": 3}, "more": {"overflow_of": "flux"}}, {"more"}),
        ({"flux": {"queued": 3}, "next": {"canary_of": "flux"}}, {"next"}),
    ],
)
def test_a_pool_with_replicas_or_without_requests_is_no_problem(
    pools: dict[str, dict[str, Any]], hosted: set[str]
) -> None:
    assert pool_without_replica({name: USUAL | pool for name, pool in pools.items()}, hosted) == ""


def test_a_configured_pool_without_a_replica_starts_one_or_fails_to() -> None:
    message = pool_without_replica({"flux": USUAL | {"queued": 3}}, set())
    assert "Pool flux has 3 queued requests and no replica, although" in message


def test_a_pool_that_is_gone_is_not_said_to_start_a_replica() -> None:
    message = pool_without_replica({"studio": USUAL | {"queued": 3, "max_replicas": None}}, set())
    assert "Pool studio has 3 queued requests and is not configured" in message
    assert "starting" not in message
