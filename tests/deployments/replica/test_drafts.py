"""Drafts of a request with their previews, and requests that go on from one."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.engine.drafting import fork
from deployments.engine.drafting.draft import Draft, DraftPoint
from deployments.replica.attempt_state import AttemptState
from deployments.replica.resume import GenerationStart
from serve_app.catalog.fields.drafts import beneath
from serve_app.domain.lease import Lease
from serve_app.domain.media.draft import DRAFT_TYPE, StoredDraft
from serve_app.domain.media.file_metadata import find
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Progress, Stage
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, CATALOG, FLUX, WAN, make_lease
from tests.deployments.replica.test_resuming_outputs import pausing
from tests.deployments.waiting import until
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

STEPS = 8
LONG: dict[str, dict[str, Any]] = {
    FLUX: {"num_inference_steps": STEPS},
    WAN: {"num_inference_steps": STEPS},
    AUDIO: {"steps": STEPS},
}
MEDIA = {FLUX: 1, WAN: 2, AUDIO: 2}  # files of one output


async def run_lease(rig: Rig, lease: Lease) -> Outcome:
    rig.port.offer(lease)
    return await rig.outcome(lease.key)


def drafting(rig: Rig, name: str, endpoint_id: str, **fields: Any) -> Lease:
    fields = {"draft": {"count": 2, "until": 0.25}, "seed": 7, **LONG[endpoint_id], **fields}
    return make_lease(rig, name, endpoint_id, alone=True, **fields)


def continuing(
    rig: Rig, name: str, lease: Lease, drafted: Outcome, number: int = 0, **changes: Any
) -> Lease:
    """Lease of a request that goes on from a draft of an earlier one, as the ingress makes it."""
    assert drafted.output is not None
    facts, key = drafted.output["drafts"][number], drafted.drafts[number].key
    known = {field: facts[field] for field in ("id", "seed", "step", "steps", "noise")}
    now = rig.resources.clock.now()
    stored = StoredDraft(
        **known, tenant="", request_id="", endpoint="", key=key, size=0, created_at=now,
        expires_at=now,
    )  # fmt: skip
    endpoint_id = lease.endpoint.id
    body = {"from_draft": facts["id"], **changes}
    checked = CATALOG.validate(endpoint_id, body, beneath(lease.input, stored)).input
    types = CATALOG.get(endpoint_id).schema.media_types(checked)
    tickets = (
        rig.storage.ticket(f"{name}/{n}", media_type, 10**8) for n, media_type in enumerate(types)
    )
    return replace(
        rig.lease(name, lease.endpoint, **checked),
        upload_tickets=tuple(tickets),
        alone=True,
        draft_url=f"http://storage/files/{key}",
        files_url="http://storage",
    )


def files(rig: Rig, outcome: Outcome) -> list[bytes]:
    assert outcome.failure is None, outcome.failure
    return [rig.storage.objects[artifact.key] for artifact in outcome.artifacts]


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(body)), dtype=float)


@pytest.mark.parametrize("endpoint_id", sample_params(LONG, FLUX))
async def test_each_draft_has_a_preview_and_goes_on_to_the_same_bits(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", endpoint_id)
    drafted = await run_lease(rig, lease)
    assert drafted.failure is None, drafted.failure
    assert drafted.output is not None
    facts = drafted.output["drafts"]
    assert [(fact["seed"], fact["step"], fact["steps"]) for fact in facts] == [
        (7, 2, STEPS),
        (8, 2, STEPS),
    ]
    assert len({fact["id"] for fact in facts}) == 2
    assert 0 < facts[0]["noise"] < 1
    assert len(drafted.artifacts) == 2 * MEDIA[endpoint_id]
    assert all(artifact.media_type != DRAFT_TYPE for artifact in drafted.artifacts)
    for draft in drafted.drafts:
        assert draft.media_type == DRAFT_TYPE
        assert Draft.of_bytes(rig.storage.objects[draft.key]).step == 2
    assert drafted.usage.steps == 4
    assert rig.resources.engine.counts()["steps"] == 4

    whole = make_lease(rig, "whole", endpoint_id, alone=True, seed=8, **LONG[endpoint_id])
    expected = files(rig, await run_lease(rig, whole))
    before = rig.resources.engine.counts()["steps"]
    outcome = await run_lease(rig, continuing(rig, "fork", lease, drafted, 1))
    assert files(rig, outcome) == expected
    assert outcome.usage.steps == STEPS - 2
    assert rig.resources.engine.counts()["steps"] == before + STEPS - 2


@pytest.mark.long
async def test_a_preview_is_nearer_to_the_finished_image_than_the_noise_of_the_draft(
    make_rig: MakeRig,
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", FLUX, draft={"count": 1, "until": 0.5})
    drafted = await run_lease(rig, lease)
    (preview,) = map(pixels, files(rig, drafted))
    (finished,) = map(
        pixels, files(rig, await run_lease(rig, continuing(rig, "f", lease, drafted)))
    )
    other = drafting(rig, "other", FLUX, draft={"count": 1, "until": 0.5}, seed=100)
    (stranger,) = map(pixels, files(rig, await run_lease(rig, other)))
    assert np.abs(preview - finished).mean() < np.abs(stranger - finished).mean()


@pytest.mark.long
async def test_a_draft_goes_on_with_another_prompt_and_new_noise(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", FLUX, draft={"count": 1})
    drafted = await run_lease(rig, lease)
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "a blue square"},
        {"new_noise": 0.5, "noise_seed": 1},
        {"new_noise": 0.5, "noise_seed": 2},
    ]
    videos = [
        files(rig, await run_lease(rig, continuing(rig, f"f{n}", lease, drafted, **change)))[0]
        for n, change in enumerate(changes)
    ]
    assert len(set(videos)) == len(videos)


@pytest.mark.long
async def test_a_draft_stops_where_a_share_of_the_noise_is_left(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", FLUX, draft={"count": 1, "noise": 0.5})
    drafted = await run_lease(rig, lease)
    assert drafted.output is not None
    (facts,) = drafted.output["drafts"]
    assert facts["noise"] <= 0.5
    assert 1 < facts["step"] < STEPS


@pytest.mark.long
async def test_what_only_the_replica_can_refuse_names_the_field(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", FLUX, draft={"count": 1})
    drafted = await run_lease(rig, lease)
    other = continuing(rig, "other", lease, drafted)
    fewer = replace(other, input={**other.input, "num_inference_steps": 4})
    failure = (await run_lease(rig, fewer)).failure
    assert failure is not None
    assert (failure.field, failure.type) == ("from_draft", "unprocessable_draft")
    assert "number of steps" in failure.message
    rig.storage.objects[drafted.drafts[0].key] = b"nonsense"
    failure = (await run_lease(rig, continuing(rig, "broken", lease, drafted))).failure
    assert failure is not None
    assert failure.field == "from_draft"
    del rig.storage.objects[drafted.drafts[0].key]
    failure = (await run_lease(rig, continuing(rig, "gone", lease, drafted))).failure
    assert failure is not None
    assert failure.field == "from_draft"


@pytest.mark.long
async def test_another_replica_keeps_the_drafts_that_were_made(make_rig: MakeRig) -> None:
    first_rig: Rig = await make_rig(
        call_timeout_s=20.0, snapshot_interval_s=0.0, snapshot_worth_s=0.0
    )
    lease = drafting(first_rig, "first", WAN, draft={"count": 3, "until": 0.5})
    attempts = first_rig.replica._attempts

    def begun(generation: Any) -> bool:
        attempt = attempts.get(lease.key)
        parts = 0 if attempt is None else len(attempt.state.finished_outputs or ())
        return parts == 2 and generation.steps_done > 0

    pausing(first_rig.resources.engine, begun)
    first_rig.port.offer(lease)
    await until(
        lambda: (
            (attempt := attempts.get(lease.key)) is not None
            and attempt.state.generation is not None
            and attempt.state.generation.paused
        )
    )
    await first_rig.replica.aclose()
    kept = first_rig.port.snapshots[lease.key]
    other: Rig = await make_rig(call_timeout_s=20.0)
    other.storage.objects[kept.key] = first_rig.storage.objects[kept.key]
    again = replace(
        drafting(other, "second", WAN, draft={"count": 3, "until": 0.5}),
        attempt=2,
        snapshot_url=f"http://storage/files/{kept.key}",
        files_url="http://storage",
    )
    drafted = await run_lease(other, again)
    assert drafted.failure is None
    assert drafted.output is not None
    assert kept.step > 8  # the third had begun
    assert other.resources.engine.counts()["steps"] == 12 - kept.step
    assert [draft["seed"] for draft in drafted.output["drafts"]] == [7, 8, 9]
    assert drafted.usage.steps == 12
    assert [draft.key for draft in drafted.drafts] == ["second/2", "second/5", "second/8"]
    await run_lease(other, continuing(other, "fork", again, drafted))


@pytest.mark.long
async def test_another_replica_resumes_what_went_on_from_a_draft(make_rig: MakeRig) -> None:
    steps = 12
    first_rig: Rig = await make_rig(
        call_timeout_s=20.0, snapshot_interval_s=0.0, snapshot_worth_s=0.0
    )
    lease = drafting(first_rig, "drafts", WAN, draft={"count": 1}, num_inference_steps=steps)
    drafted = await run_lease(first_rig, lease)
    forked = continuing(first_rig, "fork", lease, drafted)
    attempts = first_rig.replica._attempts
    pausing(first_rig.resources.engine, lambda generation: generation.steps_done >= 6)
    first_rig.port.offer(forked)
    await until(
        lambda: (
            (attempt := attempts.get(forked.key)) is not None
            and attempt.state.generation is not None
            and attempt.state.generation.paused
        )
    )
    await first_rig.replica.aclose()
    kept = first_rig.port.snapshots[forked.key]
    other: Rig = await make_rig(call_timeout_s=20.0)
    for key in (kept.key, drafted.drafts[0].key):
        other.storage.objects[key] = first_rig.storage.objects[key]
    again = replace(
        continuing(other, "again", lease, drafted),
        attempt=2,
        snapshot_url=f"http://storage/files/{kept.key}",
    )
    outcome = await run_lease(other, again)
    assert other.resources.engine.counts()["steps"] == steps - kept.step
    assert outcome.usage.steps == steps - 3
    fields = {"seed": 7, "num_inference_steps": steps}
    whole = await run_lease(other, make_lease(other, "whole", WAN, alone=True, **fields))
    assert files(other, outcome) == files(other, whole)


@pytest.mark.long
async def test_the_file_of_a_preview_says_that_it_is_one(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = replace(drafting(rig, "drafts", FLUX), describe_files=True)
    for number, body in enumerate(files(rig, await run_lease(rig, lease))):
        metadata = find(body)
        assert metadata is not None
        assert metadata.settings["draft"] == {"count": 1, "until": 0.25}
        assert metadata.seed == 7 + number


@pytest.mark.long
async def test_units_are_those_of_the_steps_that_were_computed(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = drafting(rig, "drafts", FLUX, draft={"count": 1})
    drafted = await run_lease(rig, lease)
    forked = await run_lease(rig, continuing(rig, "fork", lease, drafted))
    whole = await run_lease(rig, make_lease(rig, "whole", FLUX, alone=True, seed=7, **LONG[FLUX]))
    assert drafted.usage.units == pytest.approx(whole.usage.units / 4)
    assert drafted.usage.units + forked.usage.units == pytest.approx(whole.usage.units)
    assert (drafted.usage.share, forked.usage.share, whole.usage.share) == (0.25, 0.75, 1.0)


async def test_progress_counts_the_steps_of_the_drafts(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    state = AttemptState(rig.resources.clock, lambda: None)
    state.parts = 3
    planned = GenerationStart(point=DraftPoint(share=0.25)).planned_steps()
    state.set_step(1, planned, Progress(Stage.DENOISING, 1, STEPS))
    assert state.progress is not None
    assert (state.progress.step, state.progress.steps) == (2 + 1, 3 * 2)


async def test_a_pipeline_that_makes_no_drafts_says_so_at_the_field(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "REFUSALS", {"FluxPipeline": "it is tired"})
    rig: Rig = await make_rig(call_timeout_s=20.0)
    outcome = await run_lease(rig, drafting(rig, "drafts", FLUX))
    assert outcome.failure is not None
    assert (outcome.failure.field, outcome.failure.retryable) == ("draft", False)
    assert "FluxPipeline cannot make drafts: it is tired." in outcome.failure.message
    assert outcome.drafts == ()
