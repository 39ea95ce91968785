"""What diffusers' schedulers know of the latents, read from their attributes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
