"""The pipeline classes that diffusers exports, and why some are not run here."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from deployments.engine.interception.modular import is_pipeline
from deployments.engine.pipelines import MODULES, pipeline_class

#: Where nothing but a look at the class itself shows why it is absent.
REASONS = {
    "FluxPriorReduxPipeline": "no denoiser: it only reads images",
    "LongCatImageEditPipeline": "works on a million pixels whatever it is given: minutes here",
    "LTXLatentUpsamplePipeline": "no denoiser: one call upsamples latents",
    "LTX2LatentUpsamplePipeline": "no denoiser: one call upsamples latents",
    "OmniGenPipeline": "its processor needs `torchvision`",
    "EasyAnimateControlPipeline": "raises TypeError: it passes an argument that it does not take",
    "EasyAnimateInpaintPipeline": "reads `cache_mag_vae`, a setting that no autoencoder has",
    "Kandinsky5I2VPipeline": "NaN with random weights",
}
NOT_BUILT = "the tests have no tiny components for it"


@cache
def pipeline_classes() -> dict[str, type]:
    """Every class of a pipeline, whole or modular."""
    named = {name: getattr(diffusers, name) for name in dir(diffusers) if "Pipeline" in name}
    named |= {name: pipeline_class(name) for name in MODULES}
    return {name: kind for name, kind in sorted(named.items()) if _is_pipeline(kind)}


def why_absent(name: str) -> str:
    """The reason why a class has no case."""
    kind: Any = pipeline_classes()[name]
    if needs := getattr(kind, "_backends", None):
        missing = ", ".join(f"`{need}`" for need in needs if need not in {"torch", "transformers"})
        return f"needs {missing}"
    deprecated = any("Deprecated" in base.__name__ for base in kind.__mro__)
    if deprecated or ".deprecated." in kind.__module__:
        return "deprecated by diffusers"
    return REASONS.get(name, NOT_BUILT)


def _is_pipeline(kind: Any) -> bool:
    if hasattr(kind, "_backends"):  # a placeholder for what cannot be imported here
        return kind.__name__.endswith("Pipeline") and hasattr(kind, "from_pretrained")
    return kind is not DiffusionPipeline and is_pipeline(kind)
