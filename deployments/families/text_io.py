"""Texts of the family ``generic``: arguments of the call, and the output, which has no file.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.families.base import GenerationCall, GenerationResult, Product, first_output
from deployments.families.image_io import seed_of
from serve_app.options.results import TEXT


def text_arguments(input: Mapping[str, Any], pipeline: Any, seed: int) -> dict[str, Any]:
    """Arguments in place of those for images. Tokens are drawn where the logits are, so the
    generator is of the same device."""
    import torch  # noqa: PLC0415

    generator = torch.Generator(pipeline.device).manual_seed(seed_of(input, seed))
    return {"generator": generator, "output_type": "text"}


def deliver_text(call: GenerationCall, generated: GenerationResult) -> Product:
    """The only text of a call."""
    (text,) = first_output(generated.result, "texts")
    output = {
        TEXT: text,
        "timings": {"inference": round(generated.inference_s, 4)},
        "seed": call.output_facts["seed"],
    }
    return Product(output)
