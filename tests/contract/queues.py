"""Fixtures that run a test over the fake queue and over PostgreSQL's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from serve_app.domain.ports import Queue
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress

Make = Callable[..., Awaitable[Queue]]


@pytest.fixture(params=["fake", "postgres"])
def at(request: pytest.FixtureRequest) -> str | None:
    """Connection string of the database; None for the fake."""
    return request.getfixturevalue("conninfo") if request.param == "postgres" else None


@pytest.fixture
async def make(at: str | None, terms: FakeTerms, liveness: FakeLiveness) -> AsyncIterator[Make]:
    async def fake(limits: QueueLimits = LONG_LEASES) -> Queue:
        return FakeQueue(SystemClock(), terms, limits, liveness)

    if at is None:
        yield fake
        return
    ingress = Ingress(at, terms, liveness)
    yield ingress
    await ingress.aclose()


@pytest.fixture
async def queue(make: Make) -> Queue:
    return await make()
