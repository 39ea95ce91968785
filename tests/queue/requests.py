"""Helpers to build requests, polls, reports and outcomes in tests of the queue."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import Any

from serve_app.domain.lease import Ask, Finish, Lease, LeaseKey, Report
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest

POOL = "studio"
LEASED_WITHIN_S = 60.0  # however slow the machine
TENANT = "ann"


def new_id() -> str:
    """A UUIDv7, which sorts by its creation time."""
    head = (
        time.time_ns() // 10_000
    )  # finer than a millisecond, so that the ids of one test are in order
    number = (head << 64) & ((1 << 128) - 1) | int.from_bytes(os.urandom(8), "big")
    return str(uuid.UUID(int=number))


def new(**changes: Any) -> NewRequest:
    fields = {
        "id": new_id(),
        "tenant": TENANT,
        "endpoint": "fal-ai/flux/schnell",
        "endpoint_digest": "0123456789abcdef",
        "pool": POOL,
        "input": {"prompt": "a red circle"},
    }
    return NewRequest(**{**fields, **changes})


def ask(
    slots: int = 1, *lease_key: LeaseKey, replica: str = "r1", pool: str = POOL, node: str = ""
) -> Ask:
    return Ask(replica, f"actor-{replica}", pool, slots, tuple(lease_key), node=node)


def report(*lease_key: LeaseKey, replica: str = "r1", progress: Any = ()) -> Report:
    return Report(replica_id=replica, renewals=tuple(lease_key), progress=tuple(progress))


def make_finish(lease_key: LeaseKey, outcome: Outcome | None = None, replica: str = "r1") -> Finish:
    return Finish(lease_key, replica, outcome or Outcome(output={"n": 1}, usage=Usage(1.5, 4, 1.0)))


def failure(code: str = "pipeline_failed", *, retryable: bool = False) -> Outcome:
    return Outcome(failure=Failure(code, f"It went wrong: {code}.", retryable=retryable))


async def lease(queue: Queue, replica: str = "r1", pool: str = POOL) -> Lease:
    """Lease one request and confirm it by a report. As a replica, it asks until it gets one."""
    async with asyncio.timeout(LEASED_WITHIN_S):
        while not (work := await queue.ask(ask(1, replica=replica, pool=pool))).leases:
            pass
    (granted,) = work.leases
    reply = await queue.report(report(granted.key, replica=replica))
    assert not reply.fenced
    return granted
