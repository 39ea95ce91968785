"""Timings of attempts: what is measured, and that the ingress gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployments.replica.timeline import Timeline
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Lease
from serve_app.domain.request import Priority
from serve_app.telemetry.attempt_trace import AttemptTrace, StageTiming, from_plain
from tests.deployments.conftest import Rig
from tests.fakes.clock import FakeClock

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LEASE = Lease(
    "0190", 2, 5.0, Endpoint("probe", "probe", Weights("probe"), "probe"), {}, (), Priority.NORMAL,
    nonce=7, tenant="ann", trace=TRACE,
)  # fmt: skip


def spans(trace: AttemptTrace) -> list[tuple[str, float, float]]:
    return [(stage.name, stage.after_s, stage.took_s) for stage in trace.stages]


def test_a_stage_that_is_entered_by_turns_is_one_span_per_part() -> None:
    clock = FakeClock()
    timeline = Timeline(clock, clock.monotonic())
    for name, part in [("decoding", 0), ("encoding_media", 0)] * 2 + [("decoding", 1)]:
        timeline.enter(name, part)
        clock.advance(1.0)
        timeline.enter(name, part)  # goes on
    timeline.enter(None)
    clock.advance(1.0)
    ended = timeline.end(LEASE, "")
    assert spans(ended) == [
        ("decoding", 0.0, 3.0),
        ("encoding_media", 1.0, 3.0),
        ("decoding", 4.0, 1.0),
    ]
    assert ended.took_s == 6.0


def test_an_attempt_that_had_its_slot_at_once_did_not_wait() -> None:
    clock = FakeClock()
    for wait_s, waited in [(0.0, []), (2.0, [("waiting_for_slot", 0.0, 2.0)])]:
        timeline = Timeline(clock, clock.monotonic())
        timeline.enter("waiting_for_slot")
        clock.advance(wait_s)
        assert spans(timeline.end(LEASE, "")) == waited


def test_attributes_belong_to_the_last_denoising() -> None:
    clock = FakeClock()
    timeline = Timeline(clock, clock.monotonic())
    timeline.note(steps=1)  # none yet
    for part, steps in enumerate([4, 5]):
        timeline.enter("denoising", part)
        timeline.note(steps=steps)
        timeline.enter("decoding", part)
    noted = [stage.attributes for stage in timeline.end(LEASE, "").stages]
    assert noted == [{"darkroom.steps": 4}, {}, {"darkroom.steps": 5}, {}]


def test_what_is_sent_can_be_read() -> None:
    stages = [StageTiming("denoising", 0.5, 1.0, {"darkroom.steps": 4})]
    trace = AttemptTrace(TRACE, LEASE.key, "probe", "ann", 2.0, 0.25, "lost", stages)
    plain = trace.to_plain()
    assert from_plain(plain) == trace
    assert from_plain({**plain, "of a newer version": 1}) == trace


async def wait_for_traces(rig: Rig, count: int) -> Sequence[AttemptTrace]:
    def sent() -> list[AttemptTrace]:
        return [from_plain(trace) for _, report in rig.port.reports for trace in report.traces]

    await rig.port.until(lambda: len(sent()) >= count)
    return sent()


async def test_ended_attempts_are_reported_once_with_their_error(make_rig) -> None:
    rig = await make_rig()
    for lease in (rig.lease("good", steps=3, artifacts=1), rig.lease("bad", fail="No.")):
        rig.port.offer(replace(lease, trace=TRACE, tenant="ann"))
    rig.port.offer(rig.lease("quiet", steps=1))
    await rig.port.wait_for_finishes(3)
    sent = {trace.lease_key.request_id: trace for trace in await wait_for_traces(rig, 2)}
    assert {name: trace.error for name, trace in sent.items()} == {
        "good": "",
        "bad": "pipeline_failed",
    }
    good = sent["good"]
    assert (good.trace, good.tenant, good.endpoint) == (TRACE, "ann", "probe")
    stages = {stage.name: stage for stage in good.stages}
    denoising = stages["denoising"].attributes
    assert denoising["darkroom.steps"] == 3
    assert 1 <= float(denoising["darkroom.batch_size"]) <= 2  # with the one that is not traced
    assert {"uploading", "finish"} <= stages.keys()
    assert all(0 <= stage.after_s <= good.took_s for stage in good.stages)
    assert all(not report.renewals for _, report in rig.port.reports if report.traces)


async def test_timings_that_the_ingress_did_not_take_are_sent_again(make_rig) -> None:
    rig = await make_rig()
    rig.port.offer(replace(rig.lease("good", steps=1), trace=TRACE))
    await rig.port.wait_for_finishes(1)
    rig.port.away = True
    refused = rig.port.refused_calls
    await rig.port.until(lambda: rig.port.refused_calls > refused + 3)
    rig.port.away = False
    (sent,) = await wait_for_traces(rig, 1)
    assert sent.lease_key.request_id == "good"


async def test_an_attempt_that_lost_its_lease_is_not_reported(make_rig) -> None:
    rig = await make_rig()
    lost = replace(rig.lease("lost", steps=100_000, step_ms=5), trace=TRACE)
    rig.port.offer(lost)
    await rig.wait_for_report(lost.key)
    rig.port.fenced.add(lost.key)
    rig.port.offer(replace(rig.lease("good", steps=1), trace=TRACE))
    await rig.port.wait_for_finishes(1)
    assert [trace.lease_key.request_id for trace in await wait_for_traces(rig, 1)] == ["good"]
