"""The safety policy of a lease on its replica, with the demo models."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.media.marking import MarkPolicy, is_marked
from serve_app.domain.outcome import Outcome
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.deployments.replica.test_previews import FLUX as PREVIEWED
from tests.deployments.replica.test_previews import INPUT, previews
from tests.deployments.replica.test_thumbnails import with_thumbnails
from tests.fakes.image_checkers import AllIsUnsafe, Broken, rule
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


class Log:
    def __init__(self) -> None:
        self.decisions: list[dict[str, Any]] = []

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[dict[str, Any], ...]
    ) -> None:
        self.decisions += decisions


async def with_log(make_rig: MakeRig) -> tuple[Rig, Log]:
    rig, log = await make_rig(slots=1, call_timeout_s=20.0), Log()
    object.__setattr__(rig.resources, "safety_log", log)
    return rig, log


async def run_lease(rig: Rig, lease: Lease) -> Outcome:
    rig.port.offer(lease)
    return await rig.outcome(lease.key)


def under(lease: Lease, *rules: dict[str, Any]) -> Lease:
    return replace(lease, safety=rules, marking=MarkPolicy.REQUIRED.value)


async def test_a_blocked_file_is_never_stored_and_the_decision_is_recorded(
    make_rig: MakeRig,
) -> None:
    rig, log = await with_log(make_rig)
    outcome = await run_lease(rig, under(make_lease(rig, "one", FLUX), rule("block", AllIsUnsafe)))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.retryable) == ("content_policy_violation", False)
    assert rig.storage.objects == {}
    (decision,) = log.decisions
    assert decision["action"] == "block"


async def test_a_blurred_image_and_its_thumbnail_are_marked_and_show_no_edges(
    make_rig: MakeRig,
) -> None:
    rig, log = await with_log(make_rig)
    plain = make_lease(rig, "plain", FLUX, seed=7, output_format="png")
    lease = make_lease(rig, "one", FLUX, seed=7, output_format="png")
    await run_lease(rig, with_thumbnails(rig, plain))
    outcome = await run_lease(rig, with_thumbnails(rig, under(lease, rule("blur", AllIsUnsafe))))
    assert outcome.output is not None
    assert outcome.output["has_nsfw_concepts"] == [True]
    assert outcome.output["darkroom_safety"] == "checked: mine"
    for key in ("0", "0-small"):
        before, after = (edges(rig.storage.objects[f"{name}/{key}"]) for name in ("plain", "one"))
        assert after < before / 2
        assert is_marked(rig.storage.objects[f"one/{key}"])
    assert [decision["action"] for decision in log.decisions] == ["blur"]


def edges(body: bytes) -> float:
    """Largest difference of neighbouring pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("L")).astype(float)
    return float(np.abs(np.diff(pixels, axis=1)).max())


@pytest.mark.long
@pytest.mark.parametrize("endpoint_id", [WAN, AUDIO])
async def test_videos_are_checked_and_audio_passes_where_the_rule_says_so(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    rig, _ = await with_log(make_rig)
    tickets, more = make_lease(rig, "one", endpoint_id), make_lease(rig, "two", endpoint_id)
    if endpoint_id == AUDIO:  # without its waveform
        tickets = replace(tickets, upload_tickets=tickets.upload_tickets[:1])
    lax = rule("block", AllIsUnsafe) | {"audio": "pass"}
    outcome = await run_lease(rig, under(tickets, lax))
    assert (outcome.failure is None) is (endpoint_id == AUDIO)
    if endpoint_id == AUDIO:
        assert (outcome.output or {})["darkroom_safety"] == "not-checked"
        outcome = await run_lease(rig, under(more, rule("block", AllIsUnsafe)))
        assert outcome.failure is not None
        assert outcome.failure.code == "content_policy_violation"


@pytest.mark.long
async def test_a_broken_checker_ends_the_request_unless_the_rule_lets_it_pass(
    make_rig: MakeRig,
) -> None:
    rig, log = await with_log(make_rig)
    strict = await run_lease(rig, under(make_lease(rig, "one", FLUX), rule("flag", Broken)))
    assert strict.failure is not None
    assert "could not be checked" in strict.failure.message
    lax = await run_lease(rig, under(make_lease(rig, "two", FLUX), rule("flag", Broken, "pass")))
    assert lax.failure is None
    assert (lax.output or {})["darkroom_safety"] == "not-checked"
    assert [decision["action"] for decision in log.decisions] == ["block", "pass"]


@pytest.mark.long
@pytest.mark.parametrize("action", sample_params(["flag", "blur", "block"], "block"))
async def test_previews_show_nothing_that_a_rule_would_withhold(
    make_rig: MakeRig, action: str
) -> None:
    rig = await make_rig(report_interval_s=0.05)
    lease = under(rig.lease("a", PREVIEWED, **INPUT), rule(action))
    rig.port.watched.add(lease.key)
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    assert bool(previews(rig, lease.key)) is (action == "flag")


async def test_a_lora_is_refused_by_its_digest_before_anything_is_computed(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(slots=1)
    body = save({"weight": np.zeros((2, 2), np.float32)})
    lora = {"path": "data:;base64," + base64.b64encode(body).decode(), "scale": 1.0}
    lease = rig.lease("one", PREVIEWED, **INPUT, loras=[lora])
    digest = hashlib.sha256(body).hexdigest()
    outcome = await run_lease(rig, replace(lease, safety=({"loras": [digest]},)))
    failure = outcome.failure
    assert failure is not None
    assert (failure.field, failure.type) == ("loras", "content_policy_violation")
    assert outcome.usage.steps == 0
