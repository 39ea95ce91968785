"""Replica behaviour: leases, signals, outages and shutdown."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from deployments.replica.config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import ReplicaStage, Signal, SignalKind
from serve_app.domain.progress import Stage
from tests.deployments.conftest import PROBE, MakeRig
from tests.deployments.waiting import until
from tests.fakes.lease_port import FakeLeasePort

pytestmark = pytest.mark.engine


async def test_a_request_runs_and_its_outcome_is_handed_in(rig: Any):
    outcome = await rig.outcome(rig.offer("one", steps=3, seed=5))
    assert outcome.succeeded
    assert outcome.output == {"steps": 3, "seed": 5}
    assert outcome.usage.steps == 3
    assert outcome.usage.run_s > 0


async def test_a_no_op_runs_without_a_step(rig: Any):
    outcome = await rig.outcome(rig.offer("one", steps=0))
    assert outcome.output["steps"] == 0
    assert outcome.usage.steps == 0


async def test_a_lease_to_run_alone_shares_no_forward(rig: Any):
    lease = replace(rig.lease("one", steps=3), alone=True)
    rig.port.offer(lease)
    assert (await rig.outcome(lease.key)).succeeded
    assert rig.resources.engine.counts()["not_merged"] == {"deterministic": 3}


async def test_reports_contain_what_the_engine_did(rig: Any):
    lease_key = rig.offer("one", steps=20, step_ms=20)
    await rig.outcome(lease_key)
    computed = [report.computed for _, report in rig.port.reports]
    steps = sum(work.steps for work in computed)
    forwards = sum(work.forwards.get(("denoiser", 1), 0) for work in computed)
    assert 0 < steps <= forwards <= 20
    assert forwards - steps <= 1  # the report came between a forward pass and the end of its step
    kinds = {key for work in computed for key in work.seconds}
    assert ("probe", "denoising") in kinds
    assert {family for family, _ in kinds} == {"probe"}
    assert {report.pool for _, report in rig.port.reports} == {"pool"}


async def test_without_a_seed_every_attempt_gets_the_same_and_each_request_its_own(rig: Any):
    seeds = []
    for name, attempt in [("one", 1), ("one", 2), ("two", 1)]:
        lease = rig.lease(name, attempt=attempt, steps=0)
        rig.port.offer(lease)
        seeds.append((await rig.outcome(lease.key)).output["seed"])
    assert seeds[0] == seeds[1] != seeds[2]
    assert all(0 <= seed < 2**53 for seed in seeds)


async def test_files_are_uploaded_before_the_outcome_names_them(rig: Any):
    outcome = await rig.outcome(rig.offer("one", steps=1, artifact_bytes=1000))
    (artifact,) = outcome.artifacts
    assert outcome.output["images"] == [{"artifact": artifact.key}]
    assert rig.storage.objects[artifact.key] == b"\x89" * 1000
    assert artifact.size == 1000
    assert len(artifact.sha256) == 64
    (put,) = rig.storage.requests
    assert put.headers["content-type"] == artifact.media_type == "image/png"
    assert put.headers["x-ticket"] == "signed"
    assert outcome.usage.units == 1.0


async def test_a_request_of_a_family_that_it_has_not_is_handed_back_and_not_taken_again(
    rig: Any,
):
    newer = replace(PROBE, id="test/newer", family="newer")
    lease = rig.lease("one", newer)
    rig.port.offer(lease)
    await rig.port.until(lambda: rig.port.handed_back == [lease.key])
    ((_, _, reason),) = rig.port.hand_backs
    assert "without the family newer" in reason
    await rig.port.until(lambda: rig.port.asks[-1].slots and newer.id in rig.port.asks[-1].coming)
    assert rig.port.asks[-1].lacking == ((newer.id, "newer"),)
    assert (await rig.outcome(rig.offer("two", steps=1))).succeeded
    assert not any(finish.lease_key == lease.key for finish in rig.port.finishes)


async def test_with_storage_away_the_lease_lives_and_the_attempt_is_handed_back(make_rig: MakeRig):
    rig = await make_rig(upload_give_up_s=3.0)
    rig.storage.problems.extend([503] * 10_000)
    key = rig.offer("one", steps=1, artifact_bytes=100)
    await rig.port.until(lambda: rig.port.handed_back == [key])
    ((_, _, reason),) = rig.port.hand_backs
    assert "503" in reason
    assert rig.port.finishes == []
    # During that time its lease was renewed, and the report said what it waits for.
    assert len(rig.port.renewals(key)) > 3
    last = [p for _, report in rig.port.reports for of, p in report.progress if of == key][-1]
    assert last.stage is Stage.UPLOADING
    failed = sum(r.computed.storage_calls.get(("write", "error"), 0) for _, r in rig.port.reports)
    assert 0 < failed <= len(rig.storage.requests)
    # A lease that may have arrived nevertheless is taken back.
    await until(lambda: rig.storage.requests[-1].method == "DELETE")


async def test_a_storage_that_hangs_is_given_up_too_and_the_next_attempt_succeeds(
    make_rig: MakeRig,
):
    rig = await make_rig(upload_give_up_s=0.5)
    rig.storage.closed = asyncio.Event()
    key = rig.offer("one", steps=1, artifact_bytes=100)
    await rig.port.until(lambda: rig.port.handed_back == [key])
    rig.storage.closed.set()
    again = rig.lease("one", attempt=2, steps=1, artifact_bytes=100)
    rig.port.offer(again)
    assert (await rig.outcome(again.key)).succeeded


async def test_a_refused_upload_is_a_failure_worth_another_try(rig: Any):
    rig.storage.problems.append(403)
    outcome = await rig.outcome(rig.offer("one", steps=1, artifact_bytes=100))
    assert outcome.failure.code == "storage_unavailable"
    assert outcome.failure.retryable
    assert rig.port.handed_back == []


async def test_a_request_can_be_cancelled_while_storage_is_away(rig: Any):
    rig.storage.problems.extend([503] * 10_000)
    key = rig.offer("one", steps=1, artifact_bytes=100)
    await rig.port.until(
        lambda: any(
            p.stage is Stage.UPLOADING for _, report in rig.port.reports for _, p in report.progress
        )
    )
    rig.port.cancelled.add(key)
    assert (await rig.outcome(key)).failure.code == "cancelled"


async def test_an_error_of_the_pipeline_is_final_and_shows_no_traceback(rig: Any):
    outcome = await rig.outcome(rig.offer("one", steps=2, fail="This cannot work."))
    assert outcome.failure.code == "pipeline_failed"
    assert outcome.failure.message == "ValueError: This cannot work."
    assert not outcome.failure.retryable
    assert outcome.output is None


async def test_weights_that_cannot_be_loaded_fail_their_requests_only(rig: Any):
    missing = Endpoint("gone", "probe", Weights("missing"), "probe")
    bad, good = rig.offer("bad", endpoint=missing), rig.offer("good", steps=1)
    assert (await rig.outcome(bad)).failure.code == "weights_unavailable"
    assert (await rig.outcome(good)).succeeded


async def test_loading_is_reported_and_two_endpoints_share_the_weights(rig: Any):
    slow = Endpoint("slow", "probe", Weights("slow"), "probe", options={"load_s": 0.4})
    same = Endpoint("same", "probe", Weights("slow"), "probe")
    first, second = rig.offer("one", endpoint=slow), rig.offer("two", endpoint=same)
    await rig.outcome(first)
    await rig.outcome(second)
    stages = {p.stage for _, report in rig.port.reports for _, p in report.progress}
    assert Stage.LOADING in stages
    await rig.outcome(rig.offer("three", endpoint=same))
    assert {"slow", "same"} <= set(rig.port.asks[-1].hot)


async def test_progress_is_reported_while_it_runs(rig: Any):
    key = rig.offer("one", steps=10_000, step_ms=25)

    def steps() -> list[int]:
        return [
            progress.step
            for _, report in rig.port.reports
            for of, progress in report.progress
            if of == key and progress.stage is Stage.DENOISING
        ]

    await rig.port.until(lambda: len(set(steps())) >= 3)
    assert steps() == sorted(steps())
    rig.port.cancelled.add(key)


async def test_a_cancel_signal_ends_it_at_the_next_step(rig: Any):
    doomed, other = rig.offer("doomed", steps=1000, step_ms=5), rig.offer("other", steps=5)
    await rig.wait_for_report(doomed)
    await rig.port.until(lambda: rig.port.outstanding)
    rig.port.signal(Signal(SignalKind.CANCEL, doomed))
    outcome = await rig.outcome(doomed)
    assert outcome.failure.code == "cancelled"
    assert 0 < outcome.usage.steps < 1000
    assert (await rig.outcome(other)).succeeded


async def test_a_cancel_in_the_reply_to_a_report_does_the_same(rig: Any):
    doomed = rig.offer("doomed", steps=1000, step_ms=5)
    await rig.wait_for_report(doomed)
    rig.port.cancelled.add(doomed)
    assert (await rig.outcome(doomed)).failure.code == "cancelled"


async def test_a_request_whose_time_is_over_ends_at_the_next_step_and_says_so(rig: Any):
    assert (await rig.outcome(rig.offer("loads", steps=1))).succeeded
    lease = replace(rig.lease("one", steps=10_000, step_ms=5), deadline_s=2.0)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure.code == "expired"
    assert "X-Darkroom-Deadline" in outcome.failure.message
    assert not outcome.failure.retryable
    assert 0 < outcome.usage.steps < 10_000


async def test_a_request_that_ends_within_its_time_is_not_disturbed(rig: Any):
    lease = replace(rig.lease("one", steps=2), deadline_s=60.0)
    rig.port.offer(lease)
    assert (await rig.outcome(lease.key)).succeeded


async def test_cancelling_while_weights_load_does_not_stop_the_loading_for_others(rig: Any):
    slow = Endpoint("slow", "probe", Weights("slow"), "probe", options={"load_s": 0.5})
    doomed, other = rig.offer("doomed", endpoint=slow), rig.offer("other", endpoint=slow, steps=1)
    rig.port.cancelled.add(doomed)
    assert (await rig.outcome(doomed)).failure.code == "cancelled"
    assert (await rig.outcome(other)).succeeded


async def test_a_fenced_attempt_is_dropped_and_its_upload_deleted(rig: Any):
    rig.storage.closed = asyncio.Event()
    key = rig.offer("one", steps=1, artifact_bytes=10)
    await rig.port.until(lambda: rig.storage.requests)
    rig.port.fenced.add(key)
    await rig.port.until(lambda: rig.port.renewals(key))
    rig.storage.closed.set()
    await until(lambda: rig.storage.requests[-1].method == "DELETE")
    assert rig.port.finishes == []
    assert rig.storage.objects == {}


async def test_a_finish_that_is_refused_by_the_fence_is_not_tried_again(make_rig: MakeRig):
    rig = await make_rig(report_interval_s=100, confirm_after_s=100)
    key = rig.offer("one", steps=1, artifact_bytes=10)
    rig.port.fenced.add(key)
    await until(lambda: [request.method for request in rig.storage.requests] == ["PUT", "DELETE"])
    assert rig.port.finishes == []


async def test_exactly_one_ask_is_outstanding_whatever_happens(rig: Any):
    for number in range(30):
        rig.offer(f"q{number}", steps=number % 4, step_ms=15)
    await rig.port.wait_for_finishes(30)
    assert rig.port.most_outstanding == 1
    # The last lease poll said that all slots were taken when several requests ended at once.
    await rig.port.until(lambda: any(ask.slots for ask in rig.port.outstanding))
    assert len(rig.port.outstanding) == 1


async def test_a_poll_has_the_memory_of_the_process_where_there_is_no_gpu(rig: Any):
    await rig.port.until(lambda: rig.port.asks)
    ask = rig.port.asks[-1]
    assert (ask.device_bytes, ask.free_bytes) == (0, 0)
    assert ask.memory == (ask.process_bytes, ask.host_bytes)
    assert 0 < ask.process_bytes < ask.host_bytes


async def test_a_full_replica_still_asks_for_signals_and_for_work_when_a_slot_is_free(rig: Any):
    one, two = rig.offer("one", steps=30, step_ms=10), rig.offer("two", steps=1000, step_ms=10)
    await rig.port.until(lambda: any(ask.slots == 0 for ask in rig.port.outstanding))
    (ask,) = rig.port.outstanding
    assert set(ask.leases) == {one, two}
    three = rig.offer("three", steps=1)
    await rig.outcome(one)
    assert (await rig.outcome(three)).succeeded
    rig.port.cancelled.add(two)


async def test_no_more_is_taken_than_there_are_slots(rig: Any):
    for number in range(6):
        rig.offer(f"q{number}", steps=10, step_ms=5)
    await rig.port.wait_for_finishes(6)
    assert max(len(report.renewals) for _, report in rig.port.reports) <= 4
    assert all(len(ask.leases) <= 4 for ask in rig.port.asks)


async def test_nothing_is_taken_while_a_generation_waits_for_memory(rig: Any):
    loop: Any = rig.resources.engine._loop
    admits, loop._runs.admit = loop._runs.admit, lambda turn: admits(turn) or True
    key = rig.offer("one", steps=1000, step_ms=10)
    await rig.port.until(lambda: any(ask.slots == 0 for ask in rig.port.outstanding))
    rig.offer("two", steps=1)
    await until(lambda: loop.turn > 20)
    assert rig.port.finishes == []
    loop._runs.admit = admits  # there is memory
    await rig.port.wait_for_finishes(1)
    rig.port.cancelled.add(key)


async def test_a_lease_is_confirmed_once_before_the_next_regular_report(make_rig: MakeRig):
    rig = await make_rig(report_interval_s=100, confirm_after_s=0.05)
    key = rig.offer("one", steps=100_000, step_ms=10)
    await rig.port.until(lambda: rig.port.renewals(key))
    await asyncio.sleep(0.3)
    assert len(rig.port.renewals(key)) == 1
    rig.port.cancelled.add(key)


async def test_what_nobody_follows_is_reported_as_rarely_as_the_ingress_allows(make_rig: MakeRig):
    rig = await make_rig(report_interval_s=0.02, confirm_after_s=0.01)
    rig.port.next_in_s = 1.0
    key = rig.offer("one", steps=100_000, step_ms=10)
    await rig.port.until(lambda: len(rig.port.renewals(key)) >= 3)
    _, first, second = rig.port.renewals(key)[:3]
    assert second - first >= 0.5
    rig.port.next_in_s = 0.0  # somebody follows it
    await rig.port.until(lambda: len(rig.port.renewals(key)) >= 5)
    other = rig.offer("two", steps=100_000, step_ms=10)
    rig.port.next_in_s = 1.0
    await rig.port.until(lambda: rig.port.renewals(other))
    rig.port.cancelled.update({key, other})


async def test_an_attempt_that_ends_soon_is_in_no_report(make_rig: MakeRig):
    rig = await make_rig(report_interval_s=0.01, confirm_after_s=100)
    # A tenth of the lease is longer than the attempt on any machine.
    lease = replace(rig.lease("one", steps=30, step_ms=10), expires_in_s=10_000.0)
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    assert rig.port.renewals(lease.key) == []
    assert all(report.progress == () for _, report in rig.port.reports)
    assert sum(report.computed.steps for _, report in rig.port.reports) > 0


async def test_a_short_first_lease_is_confirmed_before_it_runs_out(make_rig: MakeRig):
    rig = await make_rig(report_interval_s=100, confirm_after_s=100)
    lease = replace(rig.lease("one", steps=100_000, step_ms=10), expires_in_s=0.5)
    rig.port.offer(lease)
    await rig.port.until(lambda: rig.port.renewals(lease.key))
    rig.port.cancelled.add(lease.key)


async def test_leases_are_renewed_while_the_engine_is_stalled(rig: Any):
    key = rig.offer("one", steps=1, hang_s=3.0)
    other = rig.offer("two", steps=1)
    await rig.outcome(key)
    assert len(rig.port.renewals(key)) >= 4
    assert (await rig.outcome(other)).succeeded


async def test_while_the_ingress_is_away_it_keeps_stepping_and_finishes_later(rig: Any):
    key = rig.offer("one", steps=200, step_ms=10)
    await rig.wait_for_report(key)
    rig.port.away = True
    refused = rig.port.refused_calls
    await rig.port.until(lambda: rig.port.refused_calls > refused + 10)
    assert rig.port.finishes == []
    rig.port.away = False
    outcome = await rig.outcome(key)
    assert outcome.usage.steps == 200
    assert (await rig.outcome(rig.offer("two", steps=1))).succeeded
    rig.replica.check_health()


async def test_an_outcome_that_is_never_taken_is_dropped_in_the_end(make_rig: MakeRig):
    rig = await make_rig(finish_give_up_s=0.3)
    key = rig.offer("one", steps=200, step_ms=10)
    await rig.wait_for_report(key)
    rig.port.away = True
    await until(lambda: key not in rig.replica._attempts)
    rig.port.away = False
    assert (await rig.outcome(rig.offer("two", steps=0))).succeeded
    assert [finish.lease_key.request_id for finish in rig.port.finishes] == ["two"]


async def test_a_replica_that_closes_says_so_and_asks_for_no_more(rig: Any):
    await rig.port.until(lambda: rig.port.outstanding)
    ask_count = len(rig.port.asks)
    closing = asyncio.create_task(rig.replica.aclose())
    await rig.port.until(lambda: rig.port.presences[-1].stage is ReplicaStage.DRAINING)
    rig.offer("late", steps=1)
    await closing
    assert len(rig.port.asks) == ask_count


async def test_closing_hands_back_what_runs_and_finishes_what_is_made(make_rig: MakeRig):
    rig = await make_rig()
    rig.storage.closed = asyncio.Event()
    delivered = rig.offer("made", steps=1, artifact_bytes=10)
    await until(lambda: rig.storage.requests)
    running = rig.offer("running", steps=10_000, step_ms=5)
    await rig.wait_for_report(running)
    closing = asyncio.create_task(rig.replica.aclose())
    await rig.port.until(lambda: rig.port.handed_back)
    rig.storage.closed.set()
    await closing
    assert rig.port.handed_back == [running]
    assert [finish.lease_key for finish in rig.port.finishes] == [delivered]
    assert not rig.resources.engine.alive
    assert rig.port.outstanding == []


async def test_closing_does_not_wait_for_a_hung_engine(make_rig: MakeRig):
    rig = await make_rig(graceful_shutdown_timeout_s=6.5)
    key = rig.offer("one", steps=1, hang_s=30.0)
    await rig.port.until(lambda: rig.port.renewals(key))
    loop = asyncio.get_running_loop()
    started = loop.time()
    await rig.replica.aclose()
    assert loop.time() - started < 15.0
    assert rig.port.handed_back == [key]


async def test_closing_an_idle_replica_is_quick_and_may_be_repeated(make_rig: MakeRig):
    rig = await make_rig(port=FakeLeasePort(ask_wait_s=30), graceful_shutdown_timeout_s=60.0)
    await rig.port.until(lambda: rig.port.outstanding)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await rig.replica.aclose()
    await rig.replica.aclose()
    assert loop.time() - started < 10.0
    assert rig.port.outstanding == []


async def test_starting_is_announced_before_the_first_ask_and_loading_comes_between(
    make_rig: MakeRig,
):
    gone = Endpoint("gone", "probe", Weights("missing"), "probe")
    port = FakeLeasePort(keep=(((PROBE, "hot"), (gone, "hot")), "1"))
    rig = await make_rig(port=port)
    await rig.port.until(lambda: rig.port.asks)
    (presence,) = rig.port.presences
    assert presence.stage is ReplicaStage.STARTING
    assert (presence.replica_id, presence.pool) == ("replica-1", "pool")
    assert rig.port.asks[0].hot == ("probe",)


async def test_a_replica_starts_while_the_ingress_is_away(make_rig: MakeRig):
    rig = await make_rig(port=FakeLeasePort(away=True))
    await rig.port.until(lambda: rig.port.refused_calls > 3)
    rig.port.away = False
    assert (await rig.outcome(rig.offer("one", steps=1))).succeeded


async def test_a_replica_whose_engine_ended_is_not_healthy(rig: Any):
    rig.replica.check_health()
    rig.resources.engine.close(30)
    with pytest.raises(Misconfigured, match="engine"):
        rig.replica.check_health()


async def test_a_request_whose_engine_ends_under_it_may_be_tried_again(rig: Any):
    key = rig.offer("one", steps=1000, step_ms=5)
    await rig.wait_for_report(key)
    await asyncio.to_thread(rig.resources.engine.close, 30)
    failure = (await rig.outcome(key)).failure
    assert (failure.code, failure.retryable) == ("replica_died", True)


def test_the_time_to_close_in_leaves_serve_its_share():
    assert ReplicaConfig(graceful_shutdown_timeout_s=20).close_within_s == 15
    assert ReplicaConfig(graceful_shutdown_timeout_s=5).close_within_s > 0


async def test_a_replica_whose_term_has_ended_drops_what_it_holds_and_ends_its_process(rig: Any):
    key = rig.offer("one", steps=100_000, step_ms=5)
    await rig.wait_for_report(key)
    await rig.port.until(lambda: any(key in ask.leases for ask in rig.port.outstanding))
    rig.port.end_term("its node failed")
    await rig.process_ended.wait()
    assert not rig.port.finishes
    assert not rig.port.handed_back  # another replica has it already
    assert rig.port.presences[-1].stage is ReplicaStage.DRAINING
    assert not rig.resources.engine.alive


async def test_a_replica_that_is_given_up_while_it_starts_ends_its_process(make_rig: MakeRig):
    rig = await make_rig(FakeLeasePort(exit="its node failed"))
    await rig.process_ended.wait()
    assert not rig.port.asks
