"""Contract of realtime sessions on a replica: the scripted one of the ingress's tests, and the real
one, without Serve.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.replica.engine_replica import EngineReplica
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Fenced
from serve_app.domain.lease import LeaseKey, lease_of
from serve_app.domain.realtime import Frame, FrameResult, ReplicaSlot, Sessions
from serve_app.domain.request import Priority, State
from tests.deployments.conftest import MakeRig, make_rig
from tests.deployments.replica.test_realtime import start_session
from tests.ingress.house import build_house
from tests.ingress.replica import REPLICA
from tests.queue.requests import new

__all__ = ["make_rig"]

pytestmark = pytest.mark.engine


class CoreSessions:
    """The port over a replica in this process, as in its deployment class."""

    def __init__(self, core: EngineReplica) -> None:
        self._core = core

    async def generate_frame(self, seat: ReplicaSlot, frame: Frame) -> FrameResult:
        return await self._core.sessions.generate_frame(seat.lease_key, frame)

    async def end(self, seat: ReplicaSlot) -> None:
        self._core.sessions.end(seat.lease_key)


Open = tuple[Sessions, ReplicaSlot]


@pytest.fixture(params=["scripted", "real"])
async def open_session(request: pytest.FixtureRequest, make_rig: MakeRig) -> AsyncIterator[Open]:
    if request.param == "real":
        rig = await make_rig()
        yield CoreSessions(rig.replica), ReplicaSlot("pool", "replica-1", await start_session(rig))
        return
    async with build_house() as house:
        session = new(tenant="default", endpoint="test/probe", priority=Priority.REALTIME, work=0.0)
        stored = await house.queue.submit(session)
        while stored.state is not State.RUNNING:
            stored = await house.queue.wait_for_change("default", stored.id, 5.0)
        yield house.replica, ReplicaSlot("studio", REPLICA, lease_of(stored))


def frame(files: int = 0, **input: Any) -> Frame:
    tickets = (UploadTicket(f"f/{number}", "", "image/png", 10**6) for number in range(files))
    return Frame("frame", input, tuple(tickets))


async def test_a_frame_comes_back_with_its_files(open_session: Open) -> None:
    sessions, seat = open_session
    drawn = await sessions.generate_frame(seat, frame(files=2, artifacts=2, content="abc", echo=1))
    output = drawn.outcome.output or {}
    assert output["echo"] == 1
    assert [entry["artifact"] for entry in output["images"]] == ["f/0", "f/1"]
    assert [artifact.key for artifact in drawn.outcome.artifacts] == ["f/0", "f/1"]
    assert drawn.files == {"f/0": b"abc", "f/1": b"abc"}


async def test_a_frame_that_fails_is_no_end_of_the_session(open_session: Open) -> None:
    sessions, seat = open_session
    failed = await sessions.generate_frame(seat, frame(fail="pipeline_failed", message="No paint."))
    assert failed.outcome.failure is not None
    assert failed.outcome.failure.message == "No paint."
    assert (await sessions.generate_frame(seat, frame(echo=1))).outcome.succeeded


async def test_a_draw_that_is_cancelled_ends_soon(open_session: Open) -> None:
    sessions, seat = open_session
    drawing = asyncio.ensure_future(sessions.generate_frame(seat, frame(sleep_s=60)))
    _, waiting = await asyncio.wait((drawing,), timeout=0.2)
    assert waiting
    drawing.cancel()
    async with asyncio.timeout(120):
        await asyncio.gather(drawing, return_exceptions=True)


async def test_after_its_end_nothing_is_drawn(open_session: Open) -> None:
    sessions, seat = open_session
    await sessions.end(seat)
    async with asyncio.timeout(120):
        while True:
            try:
                await sessions.generate_frame(seat, frame())
            except Fenced:
                break
    await sessions.end(seat)


async def test_a_session_that_never_was_draws_nothing(open_session: Open) -> None:
    sessions, seat = open_session
    with pytest.raises(Fenced):
        await sessions.generate_frame(
            ReplicaSlot(seat.pool, seat.replica_id, LeaseKey("other", 1)), frame()
        )
