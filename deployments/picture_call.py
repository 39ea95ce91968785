"""The arguments that the calls of all picture pipelines have in common, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.parts import seeds_of
from deployments.picture_input import as_pixels, strength_of
from deployments.picture_output import generators
from deployments.picture_size import Size


def drawing(input: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What to draw, in how many steps, how often and from which noise; the result as tensors.

    ``seed`` is for inputs that have none.
    """
    seeds = seeds_of(input, seed)
    return {
        "prompt": input["prompt"],
        "num_inference_steps": int(input["num_inference_steps"]),
        "num_images_per_prompt": len(seeds),
        "generator": generators(seeds),
        "output_type": "pt",
    }


def redrawing(input: Mapping[str, Any], rendered: Size) -> dict[str, Any]:
    """The given picture at the size that is rendered, and how much of it is drawn anew."""
    return {
        "image": as_pixels(input["image_url"], rendered),
        "strength": strength_of(input, int(input["num_inference_steps"])),
    }


def sides(rendered: Size) -> dict[str, int]:
    return {"width": rendered.width, "height": rendered.height}


def picture_facts(
    input: Mapping[str, Any], seed: int, size: Size, *, stretched: bool = False
) -> dict[str, Any]:
    """For ``deliver_pictures``."""
    return {
        "seed": seeds_of(input, seed)[0],
        "size": size,
        "prompt": input["prompt"],
        "stretched": stretched,
    }
