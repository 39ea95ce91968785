"""Small calls of the demo models, by their folders' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
CALLS: dict[str, dict[str, Any]] = {
    "flux": {"width": 64, "height": 64, "num_images_per_prompt": 2, "max_sequence_length": 32},
    "sdxl": {"width": 64, "height": 64, "guidance_scale": 2.0},
    # At smaller sizes than it was trained with, its videos are white.
    "wan": {"width": 64, "height": 64, "num_frames": 9, "guidance_scale": 2.0},
    "stable-audio": {"audio_end_in_s": 0.5, "guidance_scale": 3.0},
}


def call(family: str, seed: int, steps: int) -> dict[str, Any]:
    """Makes a new random generator each time."""
    return {
        "prompt": "a red circle moving left",
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
        **CALLS[family],
    }


def made_of(output: Any) -> torch.Tensor:
    fields = vars(output)
    return next(fields[name] for name in ("images", "frames", "audios") if name in fields)
