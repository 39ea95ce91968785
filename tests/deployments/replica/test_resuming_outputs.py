"""A request in parts that another attempt resumes: finished parts stay unchanged."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from deployments.engine.engine import Engine
from deployments.engine.loop.generation import Generation
from deployments.replica import resume
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Progress
from tests.captured_logs import CapturedLogs
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.deployments.waiting import until
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SEEDS, STEPS = [11, 5, 3], 12
LONG: dict[str, dict[str, Any]] = {
    FLUX: {"num_inference_steps": STEPS},
    WAN: {"num_inference_steps": STEPS},
    AUDIO: {"steps": STEPS},
}


def steps_of(endpoint_id: str) -> int:
    (steps,) = LONG[endpoint_id].values()
    return steps


def several(rig: Rig, name: str, endpoint_id: str) -> Lease:
    return make_lease(rig, name, endpoint_id, alone=True, seeds=SEEDS, **LONG[endpoint_id])


def files(rig: Rig, outcome: Outcome) -> list[bytes]:
    assert outcome.failure is None
    return [rig.storage.objects[artifact.key] for artifact in outcome.artifacts]


async def run_lease(rig: Rig, lease: Lease) -> Outcome:
    rig.port.offer(lease)
    return await rig.outcome(lease.key)


def pausing(engine: Engine, when: Callable[[Generation], bool]) -> None:
    """Pause a generation when it reports a step and ``when``, on the engine's thread, is true. It
    cannot end before another thread looks at it."""
    submit = engine.submit

    def submitted(**arguments: Any) -> Generation:
        report, future = arguments.pop("on_progress", None), Future[Generation]()

        def on_progress(progress: Progress) -> None:
            if report is not None:
                report(progress)
            generation = future.result(60)
            if when(generation):
                generation.pause()

        generation = submit(**arguments, on_progress=on_progress)
        future.set_result(generation)
        return generation

    engine.submit = submitted  # type: ignore[method-assign]


async def handed_back(make_rig: MakeRig, endpoint_id: str, finished: int) -> tuple[Rig, LeaseKey]:
    """A lease handed back by a replica that closed after ``finished`` parts."""
    rig: Rig = await make_rig(call_timeout_s=20.0, snapshot_interval_s=0.0, snapshot_worth_s=0.0)
    lease = several(rig, "first", endpoint_id)
    attempts = rig.replica._attempts

    def begun(generation: Generation) -> bool:
        attempt = attempts.get(lease.key)
        parts = 0 if attempt is None else len(attempt.state.finished_outputs)
        return parts == finished and generation.steps_done > 0

    pausing(rig.resources.engine, begun)

    def in_it() -> bool:
        attempt = attempts.get(lease.key)
        generation = None if attempt is None else attempt.state.generation
        return generation is not None and generation.paused

    rig.port.offer(lease)
    await until(in_it)
    await rig.replica.aclose()
    assert rig.port.handed_back == [lease.key]
    return rig, lease.key


def again(rig: Rig, before: Rig, lease_key: LeaseKey, endpoint_id: str) -> Lease:
    """The next attempt of the lease, with its own tickets."""
    kept = before.port.snapshots[lease_key]
    rig.storage.objects[kept.key] = before.storage.objects[kept.key]
    return replace(
        several(rig, "second", endpoint_id),
        attempt=2,
        snapshot_url=f"http://storage/files/{kept.key}",
        files_url="http://storage",
    )


@pytest.mark.parametrize("endpoint_id", sample_params(LONG, FLUX))
async def test_another_replica_goes_on_in_the_third_and_all_are_the_same_bit_for_bit(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    first, key = await handed_back(make_rig, endpoint_id, finished=2)
    assert first.port.snapshots[key].step > 2 * steps_of(endpoint_id)
    other: Rig = await make_rig(call_timeout_s=20.0)
    outcome = await run_lease(other, again(other, first, key, endpoint_id))
    steps = other.resources.engine.counts()["steps"]
    assert steps == 3 * steps_of(endpoint_id) - first.port.snapshots[key].step
    whole = await run_lease(other, several(other, "whole", endpoint_id))
    assert files(other, outcome) == files(other, whole)
    assert outcome.output is not None
    assert whole.output is not None
    assert {"second/0"} <= {artifact.key for artifact in outcome.artifacts}
    assert outcome.output.keys() == whole.output.keys()
    assert outcome.output["seeds"] == SEEDS
    assert outcome.usage.steps == whole.usage.steps
    assert outcome.usage.units == pytest.approx(whole.usage.units)


@pytest.mark.long
async def test_images_of_seeds_that_were_in_their_first_are_not_taken_for_one_call(
    make_rig: MakeRig,
) -> None:
    first, key = await handed_back(make_rig, FLUX, finished=0)
    assert first.port.snapshots[key].step < STEPS
    other: Rig = await make_rig(call_timeout_s=20.0)
    outcome = await run_lease(other, again(other, first, key, FLUX))
    assert other.resources.engine.counts()["steps"] == 3 * STEPS - first.port.snapshots[key].step
    assert files(other, outcome) == files(
        other, await run_lease(other, several(other, "whole", FLUX))
    )


@pytest.mark.long
async def test_the_interval_is_counted_from_the_first_so_that_short_ones_are_kept_too(
    make_rig: MakeRig,
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0, snapshot_interval_s=0.1)
    lease = several(rig, "one", WAN)
    rig.port.offer(lease)
    attempts = rig.replica._attempts
    await until(lambda: lease.key in attempts and attempts[lease.key].state.generation is not None)
    began = attempts[lease.key].state.in_engine_since
    await until(lambda: len(attempts[lease.key].state.finished_outputs) == 1)
    await until(lambda: attempts[lease.key].state.generation is not None)
    assert attempts[lease.key].state.in_engine_since == began
    await rig.port.until(
        lambda: (kept := rig.port.snapshots.get(lease.key)) is not None and kept.step > STEPS
    )
    body = rig.storage.objects[rig.port.snapshots[lease.key].key]
    finished, _ = resume.from_bytes(body, [lease.upload_tickets[:2]] * 3)
    assert finished
    files(rig, await rig.outcome(lease.key))


@pytest.mark.long
async def test_beyond_the_limit_the_last_snapshot_stays_and_the_request_goes_on(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, caplog: CapturedLogs
) -> None:
    monkeypatch.setattr(resume, "MAX_BYTES", 0)
    rig: Rig = await make_rig(call_timeout_s=20.0, snapshot_interval_s=0.1)
    outcome = await run_lease(rig, lease := several(rig, "one", WAN))
    assert len(files(rig, outcome)) == 6
    assert rig.port.snapshots[lease.key].step <= STEPS  # of the first part, which needs no file


@pytest.mark.long
async def test_what_cannot_be_used_is_made_anew(make_rig: MakeRig) -> None:
    first, key = await handed_back(make_rig, WAN, finished=1)
    other: Rig = await make_rig(call_timeout_s=20.0)
    lease = again(other, first, key, WAN)
    kept = first.port.snapshots[key].key
    other.storage.objects[kept] = other.storage.objects[kept][:-5]
    outcome = await run_lease(other, lease)
    assert len(files(other, outcome)) == 6
    assert other.resources.engine.counts()["steps"] == 3 * STEPS
