"""A replica takes snapshots, and resumes from the snapshots of others."""

from dataclasses import replace

import pytest

from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.lease import LeaseKey
from tests.deployments.conftest import Rig

pytestmark = pytest.mark.engine

STEPS, STEP_MS = 120, 25
ENDLESS = 10_000  # steps of what a test ends itself


def long_one(rig: Rig, steps: int = ENDLESS) -> LeaseKey:
    return rig.offer("long", steps=steps, step_ms=STEP_MS)


def read_snapshot(rig: Rig, lease_key: LeaseKey) -> Snapshot:
    return Snapshot.of_bytes(rig.storage.objects[rig.port.snapshots[lease_key].key])


def forwards(rig: Rig) -> int:
    return int(rig.resources.engine.counts()["forwards"])


async def test_what_runs_long_is_kept_again_and_again(make_rig):
    rig = await make_rig(snapshot_interval_s=0.1)
    key = long_one(rig)
    await rig.port.until(lambda: key in rig.port.snapshots)
    first = rig.port.snapshots[key]
    await rig.port.until(lambda: rig.port.snapshots[key] != first)
    second = rig.port.snapshots[key]
    assert second.key != first.key
    assert 0 <= first.step < second.step < ENDLESS
    assert read_snapshot(rig, key).step == rig.port.snapshots[key].step
    rig.port.cancelled.add(key)
    kept_too = rig.offer("to its end", steps=STEPS // 4, step_ms=STEP_MS)
    assert (await rig.outcome(kept_too)).output["steps"] == STEPS // 4


async def test_each_snapshot_is_reported_once(make_rig):
    rig = await make_rig(snapshot_interval_s=0.2)
    key = long_one(rig)

    def keys() -> list[str]:
        return [snapshot.key for _, report in rig.port.reports for _, snapshot in report.snapshots]

    await rig.port.until(lambda: len(keys()) >= 3)
    rig.port.cancelled.add(key)
    await rig.outcome(key)
    assert len(set(keys())) == len(keys())


async def test_what_is_short_is_not_kept(make_rig):
    rig = await make_rig(snapshot_interval_s=10.0)
    key = rig.offer("short", steps=4, step_ms=STEP_MS)
    await rig.outcome(key)
    assert rig.port.tickets == 0


async def test_a_closing_replica_hands_back_what_was_done(make_rig):
    rig = await make_rig(snapshot_interval_s=0.0, snapshot_worth_s=0.0)
    key = long_one(rig)
    await rig.wait_for_report(key, step=3)
    await rig.replica.aclose()
    assert rig.port.handed_back == [key]
    assert rig.port.snapshots[key].step >= 3
    assert read_snapshot(rig, key).step == rig.port.snapshots[key].step


async def test_another_replica_goes_on_from_there(make_rig):
    first_rig = await make_rig(snapshot_interval_s=0.0, snapshot_worth_s=0.0)
    key = long_one(first_rig, STEPS)
    await first_rig.wait_for_report(key, step=STEPS // 6)
    await first_rig.replica.aclose()
    kept = first_rig.port.snapshots[key]
    other = await make_rig()
    other.storage.objects.update(first_rig.storage.objects)
    again = replace(
        other.lease("long", attempt=2, steps=STEPS, step_ms=STEP_MS),
        snapshot_url=f"http://storage/files/{kept.key}",
        files_url="http://storage",
    )
    other.port.offer(again)
    outcome = await other.outcome(again.key)
    assert outcome.output["steps"] == STEPS
    assert forwards(other) == STEPS - kept.step


@pytest.mark.parametrize("trouble", ["gone", "broken", "of_another_call"])
async def test_without_a_snapshot_that_fits_it_starts_anew(make_rig, trouble):
    first_rig = await make_rig(snapshot_interval_s=0.0, snapshot_worth_s=0.0)
    key = long_one(first_rig)
    await first_rig.wait_for_report(key, step=3)
    await first_rig.replica.aclose()
    kept = first_rig.port.snapshots[key]
    other = await make_rig()
    if trouble != "gone":
        body = first_rig.storage.objects[kept.key]
        other.storage.objects[kept.key] = body if trouble == "of_another_call" else body[:100]
    steps = STEPS // 12
    again = replace(
        other.lease("long", attempt=2, steps=steps, step_ms=STEP_MS),
        snapshot_url=f"http://storage/files/{kept.key}",
        files_url="http://storage",
    )
    other.port.offer(again)
    outcome = await other.outcome(again.key)
    assert outcome.failure is None
    assert outcome.output["steps"] == steps
    assert forwards(other) == steps


async def test_a_cancelled_attempt_is_cancelled_though_a_snapshot_is_under_way(make_rig):
    rig = await make_rig(snapshot_interval_s=0.05)
    key = long_one(rig)
    await rig.port.until(lambda: rig.port.tickets > 0)
    rig.port.cancelled.add(key)
    outcome = await rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
