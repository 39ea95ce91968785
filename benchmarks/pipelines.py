"""The pipelines that the engine is measured with, on the CPU in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights

DEMO = Path(__file__).parents[1] / "deployments" / "demo"
HEADS = {"wide": 16, "narrow": 1}  # of 32 each; a forward of `wide` takes 20 ms or more of a core
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "flux": {"max_sequence_length": 32},
    "narrow": {"max_sequence_length": 32},
    "wide": {"max_sequence_length": 32},
    "sdxl": {"guidance_scale": 2.0, "guidance_rescale": 0.7},
}


def pipeline_of(name: str) -> Any:
    """The demo Flux or SDXL; or that Flux around another transformer, of random weights: ``wide``,
    where denoising outweighs all else as it does in real models, or ``narrow``, where it is next to
    nothing."""
    pipeline = load_pipeline(Weights(str(DEMO / ("sdxl" if name == "sdxl" else "flux"))))
    if name in HEADS:
        small = pipeline.transformer
        torch.manual_seed(0)
        pipeline.transformer = type(small)(**_with_heads(small.config, HEADS[name])).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _with_heads(config: Mapping[str, Any], heads: int) -> dict[str, Any]:
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    return fields | {"num_attention_heads": heads}


def arguments(name: str, prompt: str, steps: int, seed: int) -> dict[str, Any]:
    """One call's arguments, with a new random generator each time."""
    return {
        "prompt": prompt,
        "num_inference_steps": steps,
        "width": 128,
        "height": 128,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
        **OPTIONS[name],
    }
