"""What diffusers' schedulers know of the latents, read from their attributes, and their seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor

_NOISE_SEED = "noise_sampler_seed"


def seed_noise(solver: Any, arguments: Mapping[str, Any]) -> None:
    """Let a scheduler whose steps take no generator draw from the seed of the call's generators.

    diffusers' ``DPMSolverSDEScheduler`` otherwise takes a seed from torch's global state, so that
    neither the same seed nor a resumed generation would give the same output. ``arguments``: of
    the pipeline's call. Does nothing for others, and without a generator.
    """
    if getattr(solver, _NOISE_SEED, 0) is not None:
        return  # it has none, or the catalogue's
    drawn = arguments.get("generator")
    generators = drawn if isinstance(drawn, list | tuple) else [drawn]
    seeds = [
        generator.initial_seed() for generator in generators if isinstance(generator, Generator)
    ]
    if seeds:
        # With several generators, each latent has its own.
        setattr(solver, _NOISE_SEED, seeds if len(seeds) > 1 else seeds[0])


def sigma_of(solver: Any, ago: int = 0) -> Any:
    """Noise level of the current latents, or of those ``ago`` steps earlier; float32, without
    dimensions. None for a scheduler without sigmas."""
    sigmas, index = getattr(solver, "sigmas", None), getattr(solver, "step_index", None)
    if not isinstance(sigmas, Tensor) or index is None:
        return None
    return sigmas[min(max(int(index) - ago, 0), len(sigmas) - 1)].float()


def kept_estimate(solver: Any) -> Tensor | None:
    """Estimate of the clean latents that a multi-order scheduler keeps from its last step; None
    for others."""
    config = getattr(solver, "config", None)
    keeps = "dpmsolver++" in str(getattr(config, "algorithm_type", ""))
    if not keeps and not getattr(solver, "predict_x0", False):
        return None
    kept = getattr(solver, "model_outputs", None)
    last = kept[-1] if isinstance(kept, list) and kept else None
    return last if isinstance(last, Tensor) else None
