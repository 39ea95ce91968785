"""A realtime session on its replica: the real engine generates its frames."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from deployments.replica import leased_attempts
from deployments.replica.realtime import ReplicaSession
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Cancelled, Fenced
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.domain.outcome import FRAMES
from serve_app.domain.realtime import Frame, FrameResult
from serve_app.domain.request import Priority
from tests.deployments.conftest import PROBE, Rig
from tests.deployments.waiting import until

pytestmark = pytest.mark.engine


async def start_session(rig: Rig, name: str = "session", **changes: Any) -> LeaseKey:
    """A session that the replica holds."""
    lease = replace(rig.lease(name), priority=Priority.REALTIME, upload_tickets=(), **changes)
    rig.port.offer(lease)
    await until(lambda: isinstance(rig.replica._attempts.get(lease.key), ReplicaSession))
    return lease.key


def frame(name: str = "frame", files: int = 0, **input: Any) -> Frame:
    tickets = (UploadTicket(f"{name}/{number}", "", "image/png", 10**6) for number in range(files))
    return Frame(name, input, tuple(tickets))


async def draw_frames(rig: Rig, lease_key: LeaseKey, *frames: Frame) -> list[FrameResult]:
    return [
        await rig.replica.sessions.generate_frame(lease_key, input_frame) for input_frame in frames
    ]


async def test_frames_are_drawn_and_nothing_of_them_is_uploaded(rig: Rig) -> None:
    key = await start_session(rig)
    image = frame("a", files=1, artifacts=1, steps=2, content="abc")
    first, second = await draw_frames(rig, key, image, frame("b", steps=1, echo="x"))
    assert first.files == {"a/0": b"abc"}
    assert first.outcome.output is not None
    assert first.outcome.output["images"] == [{"artifact": "a/0"}]
    assert first.outcome.usage.steps == 2
    assert (second.outcome.output or {})["echo"] == "x"
    assert rig.storage.requests == []
    rig.replica.sessions.end(key)
    outcome = await rig.outcome(key)
    assert outcome.succeeded
    assert outcome.output == {"frames": 2}
    assert (outcome.usage.steps, outcome.usage.units) == (0, 0.0)


async def test_a_frame_that_comes_before_the_lease_waits_for_it(rig: Rig) -> None:
    lease = replace(rig.lease("session"), priority=Priority.REALTIME, upload_tickets=())
    early = asyncio.create_task(draw_frames(rig, lease.key, frame("a", steps=1)))
    await asyncio.sleep(0)
    rig.port.offer(lease)
    assert [result.outcome.succeeded for result in await early] == [True]


async def test_a_frame_after_the_end_is_refused_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased_attempts, "LEASED_WITHIN_S", 1e6)
    key = await start_session(rig)
    rig.replica.sessions.end(key)
    await rig.outcome(key)
    with pytest.raises(Fenced, match="has ended"):
        await draw_frames(rig, key, frame())


async def test_a_session_keeps_its_slot_and_the_weights(rig: Rig) -> None:
    key = await start_session(rig)
    await draw_frames(rig, key, frame(steps=0))
    await rig.port.until(lambda: rig.port.asks[-1].leases == (key,))
    assert rig.port.asks[-1].slots == 1
    assert rig.resources.loaded_endpoints == ("probe",)


async def test_frames_are_drawn_while_a_request_waits_for_the_session_s_memory(
    make_rig: Any,
) -> None:
    """A replica with room for one of two endpoints' weights."""
    rig = await make_rig(slots=2, weights_bytes=6)
    key = await start_session(rig)
    await draw_frames(rig, key, frame("first", steps=1))
    other = replace(PROBE, id="other", weights=Weights("other"))
    waiting = rig.offer("waiting", endpoint=other, steps=1)
    await until(lambda: rig.resources.residency._waits_for_memory)
    async with asyncio.timeout(60):
        (second,) = await draw_frames(rig, key, frame("second", steps=1, echo="x"))
    assert (second.outcome.output or {})["echo"] == "x"
    rig.replica.sessions.end(key)
    assert (await rig.outcome(waiting)).succeeded


async def test_a_frame_goes_before_what_others_wait_for(rig: Rig) -> None:
    key = await start_session(rig)
    await draw_frames(rig, key, frame(steps=1))
    long = rig.offer("long", steps=2000, step_ms=5)
    await rig.wait_for_report(long)
    await draw_frames(rig, key, frame(steps=4, step_ms=5))
    assert not any(finish.lease_key == long for finish in rig.port.finishes)


async def test_a_frame_that_fails_leaves_the_session_open(rig: Rig) -> None:
    key = await start_session(rig)
    failed, good = await draw_frames(rig, key, frame(message="No paint."), frame(echo=1))
    assert failed.outcome.failure is not None
    assert failed.outcome.failure.message == "No paint."
    assert good.outcome.succeeded


async def test_what_the_session_is_charged_for_is_the_time_between_frames(rig: Rig) -> None:
    key = await start_session(rig)
    (drawn_frame,) = await draw_frames(rig, key, frame(steps=20, step_ms=100))
    rig.replica.sessions.end(key)
    rest_s = (await rig.outcome(key)).usage.run_s
    assert drawn_frame.outcome.usage.run_s >= 2.0
    assert rest_s < 2.0


async def test_a_session_of_which_nothing_is_heard_ends(make_rig: Any) -> None:
    rig = await make_rig(session_silence_s=1.0)
    key = await start_session(rig)
    await draw_frames(rig, key, frame(steps=20, step_ms=75))  # longer than the silence limit
    assert (await rig.outcome(key)).succeeded


async def test_a_draw_that_is_cancelled_stops_its_generation(rig: Rig) -> None:
    key = await start_session(rig)
    drawing = asyncio.create_task(draw_frames(rig, key, frame(steps=100_000, step_ms=5)))
    await until(lambda: rig.resources.engine.counts()["steps"] > 2)
    drawing.cancel()
    await asyncio.gather(drawing, return_exceptions=True)
    (after,) = await draw_frames(rig, key, frame(steps=1))
    assert after.outcome.succeeded


async def test_a_cancelled_session_stops_the_frame_that_is_drawn_and_has_made_the_others(
    rig: Rig,
) -> None:
    key = await start_session(rig)
    await draw_frames(rig, key, frame(steps=1))
    drawing = asyncio.create_task(draw_frames(rig, key, frame(steps=100_000, step_ms=5)))
    await until(lambda: rig.resources.engine.counts()["steps"] > 3)
    rig.port.signal(Signal(SignalKind.CANCEL, key))
    ((stopped,), outcome) = await asyncio.gather(drawing, rig.outcome(key))
    assert stopped.outcome.failure is not None
    assert stopped.outcome.failure.code == Cancelled.code
    assert outcome.succeeded, "the first frame was delivered"
    assert outcome.output is not None
    assert outcome.output[FRAMES] >= 1
    with pytest.raises(Fenced):
        await draw_frames(rig, key, frame())


async def test_a_replica_that_closes_hands_its_sessions_back(make_rig: Any) -> None:
    rig = await make_rig()
    key = await start_session(rig)
    await draw_frames(rig, key, frame(steps=1))
    await rig.replica.aclose()
    assert rig.port.handed_back == [key]


async def test_a_session_whose_weights_are_missing_fails_with_the_reason(rig: Rig) -> None:
    endpoint = replace(PROBE, weights=Weights("missing"))
    lease = replace(rig.lease("session", endpoint), priority=Priority.REALTIME)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is not None
    assert "missing" in outcome.failure.message
    with pytest.raises(Fenced):
        await draw_frames(rig, lease.key, frame())


async def test_a_frame_that_waits_for_weights_in_vain_is_reported(make_rig: Any) -> None:
    rig = await make_rig()
    endpoint = replace(PROBE, weights=Weights("missing"), options={"load_s": 0.3})
    key = await start_session(rig, endpoint=endpoint)
    with pytest.raises(Fenced):
        await draw_frames(rig, key, frame())
