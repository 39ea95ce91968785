"""Files of a replica are signed before they are delivered, if the lease says so."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import c2pa
import pytest
from PIL import Image

from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import Lease
from serve_app.domain.media.marking import GENERATION, MarkPolicy, is_marked
from serve_app.domain.outcome import Outcome
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.fakes.file_signer import FakeFileSigner

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


async def signing(make_rig: MakeRig) -> tuple[Rig, FakeFileSigner]:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    signer = FakeFileSigner()
    object.__setattr__(rig.resources, "signer", signer)
    return rig, signer


def to_sign(lease: Lease, signer: FakeFileSigner, policy: MarkPolicy = MarkPolicy.ON) -> Lease:
    return replace(lease, certificates=signer.chain, marking=policy.value)


async def run_lease(rig: Rig, lease: Lease) -> Outcome:
    rig.port.offer(lease)
    return await rig.outcome(lease.key)


def manifest(media_type: str, body: bytes, trusted: str = "") -> tuple[str, dict[str, Any]]:
    """Validation state and what the active manifest says of the generation."""
    settings: dict[str, Any] = {"version": 1, "verify": {"remote_manifest_fetch": False}}
    if trusted:
        settings["trust"] = {"trust_anchors": trusted}
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    with c2pa.Reader(media_type, io.BytesIO(body), context=context) as reader:
        active = reader.get_active_manifest() or {}
        facts = next(
            assertion for assertion in active["assertions"] if assertion["label"] == GENERATION
        )
        return str(reader.get_validation_state()), facts["data"]


@pytest.mark.parametrize("endpoint_id", [FLUX, WAN, AUDIO])
async def test_each_file_has_a_signature_that_readers_accept(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    rig, signer = await signing(make_rig)
    lease = make_lease(rig, "one", endpoint_id, prompt="a blue star", seed=7)
    outcome = await run_lease(rig, to_sign(lease, signer, MarkPolicy.REQUIRED))
    assert outcome.failure is None
    assert len(signer.claims) == len(outcome.artifacts)
    for artifact in outcome.artifacts:
        body = rig.storage.objects[artifact.key]
        state, facts = manifest(artifact.media_type, body, trusted=signer.chain)
        assert state == "Trusted"
        assert (facts["endpoint"], facts["seed"], facts["steps"]) == (endpoint_id, 7, 2)
        assert facts["request_id"] == "one"
        assert {"darkroom", "torch", "diffusers"} <= facts["versions"].keys()
        assert b"blue star" not in body
        assert is_marked(body)
        assert (artifact.size, artifact.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert f'"file_size": {len(body)}' in json.dumps(outcome.output)


async def test_one_changed_byte_is_found(make_rig: MakeRig) -> None:
    rig, signer = await signing(make_rig)
    lease = make_lease(rig, "one", FLUX, output_format="png")
    (artifact,) = (await run_lease(rig, to_sign(lease, signer))).artifacts
    body = bytearray(rig.storage.objects[artifact.key])
    assert manifest("image/png", bytes(body))[0] == "Valid", "but not trusted without the root"
    body[-30] ^= 1
    assert manifest("image/png", bytes(body), signer.chain)[0] == "Invalid"


@pytest.mark.long
async def test_a_signature_changes_no_pixel_and_tells_the_prompt_only_in_described_files(
    make_rig: MakeRig,
) -> None:
    rig, signer = await signing(make_rig)
    fields = {"prompt": "a blue star", "seed": 7, "output_format": "png"}
    plain = make_lease(rig, "plain", FLUX, **fields)
    one = to_sign(make_lease(rig, "one", FLUX, **fields), signer)
    two = replace(to_sign(make_lease(rig, "two", FLUX, **fields), signer), describe_files=True)
    bodies = []
    for lease in (plain, one, two):
        (artifact,) = (await run_lease(rig, lease)).artifacts
        bodies.append(rig.storage.objects[artifact.key])
    assert len({Image.open(io.BytesIO(body)).tobytes() for body in bodies}) == 1
    assert "description" not in manifest("image/png", bodies[1])[1]
    assert manifest("image/png", bodies[2])[1]["description"]["prompt"] == "a blue star"


@pytest.mark.long
@pytest.mark.parametrize("policy", [MarkPolicy.ON, MarkPolicy.REQUIRED])
async def test_a_file_that_cannot_be_signed_is_delivered_only_where_that_is_allowed(
    make_rig: MakeRig, policy: MarkPolicy
) -> None:
    rig, signer = await signing(make_rig)
    signer.fails = Unavailable("The ingress is away.")
    outcome = await run_lease(rig, to_sign(make_lease(rig, "one", FLUX), signer, policy))
    if policy is MarkPolicy.REQUIRED:
        assert outcome.failure is not None
        assert (outcome.failure.code, outcome.failure.retryable) == ("not_signed", True)
        assert "The ingress is away." in outcome.failure.message
        assert rig.storage.objects == {}
        return
    (artifact,) = outcome.artifacts
    assert is_marked(rig.storage.objects[artifact.key])
    assert signer.unsigned == ["A file could not be signed: The ingress is away."]


@pytest.mark.long
async def test_a_format_without_a_place_for_a_signature_is_delivered_with_the_mark(
    make_rig: MakeRig,
) -> None:
    rig, signer = await signing(make_rig)
    lease = make_lease(rig, "one", WAN, output_format="webm")
    video, poster = (await run_lease(rig, to_sign(lease, signer))).artifacts
    assert is_marked(rig.storage.objects[video.key])
    assert manifest(poster.media_type, rig.storage.objects[poster.key])[0] == "Valid"
    assert signer.unsigned == ["Files of video/webm cannot have a signature."]


async def test_an_attempt_that_lost_its_lease_signs_nothing(make_rig: MakeRig) -> None:
    rig, signer = await signing(make_rig)
    lease = to_sign(make_lease(rig, "one", FLUX), signer)
    signer.lost.add(lease.key)
    outcome = await run_lease(rig, lease)
    assert outcome.failure is not None
    assert outcome.failure.code not in ("not_signed", "mark_missing")
    assert rig.storage.objects == {}
