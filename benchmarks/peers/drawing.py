"""The model behind each of the others: plain diffusers, called as well as it can be for a batch.

A pipeline's call takes any number of prompts and seeds, but one step count. So a batch is drawn in
groups of equal step counts: to draw all of it to the longest would change the images of the rest.

Runs in the environments of the others: imports nothing of Darkroom but the wishes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from benchmarks.wishes import SIDE, Wish

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
OPTIONS: dict[str, dict[str, Any]] = {
    "flux": {"guidance_scale": 3.5, "max_sequence_length": 32},
    "sdxl": {"guidance_scale": 2.0, "guidance_rescale": 0.7},
}
"""What the demo endpoints of Darkroom give the pipelines."""


class Drawing:
    """Both demo models, loaded; a call at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pipelines = {model: _loaded(model) for model in OPTIONS}

    def draw(self, wanted: Sequence[Wish]) -> list[bytes]:
        """A PNG file for each."""
        torch.set_num_threads(self._threads)  # per thread, and servers call from any
        groups: dict[tuple[str, int], list[int]] = {}
        for place, wish in enumerate(wanted):
            groups.setdefault((wish.model, wish.steps), []).append(place)
        files: dict[int, bytes] = {}
        for places in groups.values():
            images = self._together([wanted[place] for place in places])
            files |= dict(zip(places, map(_png, images), strict=True))
        return [files[place] for place in range(len(wanted))]

    def _together(self, wanted: Sequence[Wish]) -> Sequence[Image.Image]:
        model = wanted[0].model
        return self._pipelines[model](
            prompt=[wish.prompt for wish in wanted],
            num_inference_steps=wanted[0].steps,
            width=SIDE,
            height=SIDE,
            generator=[torch.Generator().manual_seed(wish.seed) for wish in wanted],
            **OPTIONS[model],
        ).images


def _loaded(model: str) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(
        str(DEMO / model), dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def parse_arguments() -> argparse.Namespace:
    """The command line that every server takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="most in one")
    parser.add_argument("--wait-ms", type=float, required=True, help="for a batch to fill")
    return parser.parse_args()
