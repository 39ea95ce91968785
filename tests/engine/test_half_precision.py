"""The rule for half precision: sharing a forward changes a picture no more than other kernels do.

In bfloat16 two right ways to add the same numbers differ visibly in the third digit, so no fixed
bound says whether merging is harmless. What says it is the pipeline's own noise: two plain runs of
which one computes attention by other kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from deployments.engine.engine import Engine
from deployments.engine.loader import load_pipeline
from serve_app.domain.endpoint import Weights

pytestmark = [
    pytest.mark.engine,
    # diffusers' solvers use what numpy deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DEMOS = Path(__file__).parents[2] / "deployments" / "demo"
WISHES = [("a red circle above a blue square", 4), ("a green star", 5), ("a yellow heart", 4)]


def call(number: int) -> dict[str, Any]:
    prompt, steps = WISHES[number]
    return {
        "prompt": prompt,
        "num_inference_steps": steps,
        "guidance_scale": 2.0,
        "width": 64,
        "height": 64,
        "generator": torch.Generator().manual_seed(number),
        "output_type": "pt",
    }


def apart(some: list[Any], others: list[Any]) -> torch.Tensor:
    """Root of the mean square of what two sets of pictures differ by; 1 is white against black."""
    pairs = zip(some, others, strict=True)
    return torch.cat([(a.float() - b.float()).flatten() for a, b in pairs]).square().mean().sqrt()


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_merging_changes_pictures_of_a_demo_model_no_more_than_other_kernels_do(name):
    pipeline = load_pipeline(Weights(str(DEMOS / name)), dtype="bfloat16")
    plain = [pipeline(**call(number)).images for number in range(len(WISHES))]
    with sdpa_kernel(SDPBackend.MATH):
        otherwise = [pipeline(**call(number)).images for number in range(len(WISHES))]
    with Engine(pipeline, max_batch=4, threads=1) as engine:
        generations = [engine.submit(**call(number)) for number in range(len(WISHES))]
        merged = [each.result(100).images for each in generations]
        assert engine.counts()["merged_calls"] >= 8
    noise = apart(plain, otherwise)
    assert noise > 1e-4  # or the comparison would say nothing
    assert apart(plain, merged) <= noise
