"""A signed image of a real engine is drawn again from its manifest, and compared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.verification.replay import Draw, Replay, replay
from serve_app.domain.errors import InvalidInput
from serve_app.provenance.reader import SignatureState, Verified, verify
from tests.deployments.conftest import MakeRig, Rig, make_rig, one_torch_thread
from tests.deployments.demos import FLUX, make_lease
from tests.deployments.replica.test_signed_files import signing, to_sign
from tests.fakes.file_signer import FakeFileSigner

__all__ = ["make_rig", "one_torch_thread"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


class Darkroom:
    """Server that draws with a real engine, and signs and describes its files."""

    def __init__(self, rig: Rig, signer: FakeFileSigner) -> None:
        self._rig = rig
        self._signer = signer
        self._drawn = 0

    async def draw(self, **fields: Any) -> Sequence[bytes]:
        """Images of a deterministic request."""
        self._drawn += 1
        lease = make_lease(self._rig, f"r-{self._drawn}", FLUX, alone=True, **fields)
        lease = replace(to_sign(lease, self._signer), describe_files=True)
        self._rig.port.offer(lease)
        outcome = await self._rig.outcome(lease.key)
        assert outcome.failure is None
        return [self._rig.storage.objects[artifact.key] for artifact in outcome.artifacts]

    def drawing(self, **changed: Any) -> Draw:
        """What ``replay`` draws with, in another thread. ``changed``: fields that this server
        draws with instead."""
        loop = asyncio.get_running_loop()

        def draw(endpoint: str, body: dict[str, Any]) -> Sequence[bytes]:
            assert endpoint == FLUX
            drawn = self.draw(**{**body, **changed})
            return asyncio.run_coroutine_threadsafe(drawn, loop).result(120)

        return draw


@pytest.fixture
async def darkroom(make_rig: MakeRig) -> Darkroom:
    return Darkroom(*await signing(make_rig))


async def replay_file(draw: Draw, file: Path, verification: Verified) -> Replay:
    return await asyncio.to_thread(replay, draw, file, verification.generation)


async def test_a_deterministic_image_is_equal_and_a_changed_one_differs_with_the_reason(
    darkroom: Darkroom, tmp_path: Path
) -> None:
    (body,) = await darkroom.draw(prompt="a blue star", seed=7, output_format="png")
    file = tmp_path / "a.png"
    await asyncio.to_thread(file.write_bytes, body)
    verification = await asyncio.to_thread(verify, file)
    assert verification.verdict is SignatureState.UNKNOWN_SIGNER
    same = await replay_file(darkroom.drawing(), file, verification)
    assert same.words == "drawn again, every pixel is equal"
    assert same.deterministic
    assert same.differing_facts == ()
    other = await replay_file(darkroom.drawing(num_inference_steps=4, seed=8), file, verification)
    assert not other.equal
    assert other.differing_facts == ("seed 7 then, 8 now", "steps 2 then, 4 now")


FACTS: dict[str, Any] = {
    "endpoint": FLUX,
    "seed": 7,
    "description": {"prompt": "a star", "settings": {"loras": [{"scale": 1.0}]}},
}


def never(_endpoint: str, _body: dict[str, Any]) -> Sequence[bytes]:
    raise AssertionError("nothing may be drawn with a part of the input")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"description": {"prompt": "a star", "left_out": ["image_url", "mask_url"]}}, "image_url"),
        ({"description": {"prompt": "a star", "left_out": ["loras"]}}, "loras"),
        ({"loras": [{"file": "ab12", "scale": 1.0}]}, "loras"),
        ({"seed": None}, "seed"),
    ],
)
def test_an_input_that_the_manifest_does_not_have_whole_is_not_drawn(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    facts = {name: fact for name, fact in {**FACTS, **changed}.items() if fact is not None}
    with pytest.raises(InvalidInput, match=rf"whole input.*{named}"):
        replay(never, tmp_path / "a.png", facts)
