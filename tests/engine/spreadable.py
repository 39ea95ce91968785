"""Pipelines whose denoisers several devices can compute, the same in every process, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.engine.loops import Guided, Guiding, Loop, Mixes, Refuses, Small
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.tiny_qwen import tiny_qwen_image
from training import shelf

DEMO_WAN = Path(__file__).parents[2] / "deployments" / "demo" / "wan"


def make_pipeline(name: str) -> Any:
    if name == "demo":
        return shelf.take(DEMO_WAN)
    return MAKERS[name]()


MAKERS: dict[str, Callable[[], Any]] = {
    "flux": tiny_flux,
    "qwen": tiny_qwen_image,
    "sdxl": tiny_sdxl,
    "compiled": tiny_flux,
    "guiding": Guiding,
    "mixes": lambda: Loop(Mixes()),
    "guided": lambda: Loop(Guided()),
    "small": lambda: Loop(Small()),
    "refuses": lambda: Loop(Refuses()),
}


def video(prompt: str, seed: int, steps: int = 4, frames: int = 17) -> dict[str, Any]:
    """Arguments of the demo Wan."""
    return {
        "prompt": prompt,
        "width": 64,
        "height": 64,
        "num_frames": frames,
        "num_inference_steps": steps,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
    }


def image(prompt: str, seed: int, steps: int = 4) -> dict[str, Any]:
    """Arguments of the tiny ones. An odd number of tokens."""
    return {
        "prompt": prompt,
        "width": 48,
        "height": 48,
        "num_inference_steps": steps,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
    }
