"""Pictures, clips and sounds go on from any step beside others: within rounding of what they are
alone, whether the others were there before the snapshot or came after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.engine.gate import Gate
from tests.engine.test_snapshot import AskAt, run_with_snapshots

pytestmark = [
    pytest.mark.engine,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
STEPS = 5
WITHIN = 1e-3  # of 1, where a picture's level is 4e-3
CALLS: dict[str, dict[str, Any]] = {
    "flux": {"width": 64, "height": 64, "num_images_per_prompt": 2, "max_sequence_length": 24},
    "sdxl": {"width": 64, "height": 64, "guidance_scale": 2.0},
    "wan": {"width": 32, "height": 32, "num_frames": 9, "guidance_scale": 2.0},
    "stable-audio": {"audio_end_in_s": 0.5, "guidance_scale": 3.0},
}


def call(family: str, seed: int) -> dict[str, Any]:
    return {
        "prompt": "a red circle moving left",
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
        **CALLS[family],
    }


def made_of(output: Any) -> torch.Tensor:
    given = vars(output)
    return next(given[name] for name in ("images", "frames", "audios") if name in given)


@pytest.mark.parametrize("family", CALLS)
def test_one_that_had_company_or_gets_it_is_the_same_within_rounding(family: str) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / family)))
    with Engine(pipeline, threads=1) as engine:
        whole, alone = run_with_snapshots(engine, [2], call(family, 1), deterministic=True)
        same = engine.submit(snapshot=alone[2], deterministic=True, **call(family, 1)).result(60)
        assert torch.equal(made_of(same), made_of(whole))

        gate = Gate(engine)
        beside = [engine.submit(**call(family, seed)) for seed in (2, 3)]
        asking = AskAt(2)
        first = engine.submit(on_progress=asking, **call(family, 1))
        asking.watch(first)
        gate.open()
        first.result(60)
        assert engine.counts()["merged_calls"] > 0
        for each in beside:
            each.result(60)
        after = engine.submit(
            snapshot=asking.states()[2], deterministic=True, **call(family, 1)
        ).result(60)

        merged_before = engine.counts()["merged_calls"]
        gate = Gate(engine)
        resumed = engine.submit(snapshot=alone[2], **call(family, 1))
        beside = [engine.submit(**call(family, seed)) for seed in (2, 3)]
        gate.open()
        among = resumed.result(60)
        assert engine.counts()["merged_calls"] > merged_before
    for made in (after, among):
        assert (made_of(made) - made_of(whole)).abs().max() <= WITHIN
