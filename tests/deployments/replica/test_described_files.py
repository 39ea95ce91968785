"""Files of a replica say what made them, if the lease wants it."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import pytest
from PIL import Image

from serve_app.domain.lease import Lease
from serve_app.domain.media.file_metadata import FileMetadata, find
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


async def files(rig: Rig, lease: Lease) -> list[bytes]:
    rig.port.offer(lease)
    async with asyncio.timeout(60):
        outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    return [rig.storage.objects[artifact.key] for artifact in outcome.artifacts]


def with_description(lease: Lease) -> Lease:
    return replace(lease, describe_files=True)


@pytest.mark.variants(1)
@pytest.mark.parametrize("endpoint_id", [FLUX, WAN, AUDIO])
async def test_each_file_says_what_made_it(make_rig: MakeRig, endpoint_id: str) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    lease = with_description(make_lease(rig, "one", endpoint_id, prompt="a blue star", seed=7))
    metadata = [find(file) for file in await files(rig, lease)]
    assert metadata[0] is not None
    assert metadata[0] == FileMetadata.of_input(
        lease.input, endpoint=endpoint_id, model="", seed=7, request_id="one", demo=True
    )
    assert (metadata[0].prompt, metadata[0].request_id) == ("a blue star", "one")
    if endpoint_id == WAN:
        assert metadata == [metadata[0], metadata[0]], "also the poster"


@pytest.mark.long
async def test_equal_requests_give_equal_pixels_and_deterministic_ones_equal_files(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    same = {"seed": 7, "output_format": "png"}
    plain, first, second, alone, again = [
        (await files(rig, lease))[0]
        for lease in (
            make_lease(rig, "plain", FLUX, **same),
            with_description(make_lease(rig, "first", FLUX, **same)),
            with_description(make_lease(rig, "second", FLUX, **same)),
            with_description(make_lease(rig, "alone", FLUX, alone=True, **same)),
            with_description(make_lease(rig, "again", FLUX, alone=True, **same)),
        )
    ]
    pixels = {
        Image.open(io.BytesIO(content)).tobytes() for content in (plain, first, second, alone)
    }
    assert len(pixels) == 1
    assert find(plain) is None
    assert first != second, "each has the id of its request"
    assert alone == again
    metadata = find(alone)
    assert metadata is not None
    assert metadata.request_id == ""


async def test_a_seed_that_no_one_chose_is_the_one_that_was_used(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    lease = with_description(make_lease(rig, "one", FLUX))
    metadata = find((await files(rig, lease))[0])
    assert metadata is not None
    assert metadata.seed == (await rig.outcome(lease.key)).output["seed"]
