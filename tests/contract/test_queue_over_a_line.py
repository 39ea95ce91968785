"""The contract of every ``Queue``, for replicas that call over a local connection. The queue is the
fake.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest

from serve_app.domain.ports import Queue
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from tests.contract.queues import Make
from tests.contract.test_cancelling_contract import *  # noqa: F403
from tests.contract.test_finishing_contract import *  # noqa: F403
from tests.contract.test_queue_contract import *  # noqa: F403
from tests.contract.test_recovery_contract import *  # noqa: F403
from tests.contract.test_snapshots_contract import *  # noqa: F403
from tests.contract.test_standing_contract import *  # noqa: F403
from tests.fakes.lined import LinedQueue
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES


@pytest.fixture
async def make(terms: FakeTerms, liveness: FakeLiveness) -> AsyncIterator[Make]:
    with TemporaryDirectory(prefix="dk") as directory:  # a socket's path must be short
        async with AsyncExitStack() as stack:

            async def over_a_line(limits: QueueLimits = LONG_LEASES) -> Queue:
                fake = FakeQueue(SystemClock(), terms, limits, liveness)
                lined = LinedQueue(fake, Path(directory))
                stack.push_async_callback(lined.aclose)
                await lined.start()
                return cast("Queue", lined)

            yield over_a_line
