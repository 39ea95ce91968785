"""A small image of a running video shows its middle."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from tests.engine.gate import Gate
from training import shelf

DEMO = Path(__file__).parents[3] / "deployments" / "demo" / "wan"
PROMPTS = ("a red circle moves to the right", "a green triangle moves up")

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def alike(jpeg: bytes, frame: torch.Tensor) -> float:
    """The correlation of two images' colours; ``frame``: [3, height, width], from 0 to 1."""
    shown = torch.from_numpy(np.array(Image.open(BytesIO(jpeg)))).permute(2, 0, 1) / 255
    both = [
        torch.nn.functional.adaptive_avg_pool2d(picture, (8, 8)).flatten()
        for picture in (shown, frame)
    ]
    return torch.corrcoef(torch.stack(both))[0, 1].item()


@pytest.mark.long
def test_it_does_with_an_autoencoder_that_makes_squares_of_pixels_as_channels() -> None:
    wish: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 9, "num_inference_steps": 8}
    wish["guidance_scale"] = 1.0
    with Engine(shelf.take(DEMO), threads=1) as engine:
        gate = Gate(engine)
        running = [
            engine.submit(
                **wish,
                prompt=prompt,
                generator=torch.Generator().manual_seed(3),
                output_type="pt",
            )
            for prompt in PROMPTS
        ]
        requests = [generation.request_preview(after=5) for generation in running]
        gate.open()
        previews = [request.result(60).jpeg() for request in requests]
        finals = [generation.result(60).frames[0][4] for generation in running]
    for preview, own, other in zip(previews, finals, reversed(finals), strict=True):
        assert alike(preview, own) > max(0.8, alike(preview, other))
