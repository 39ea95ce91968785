"""What a half-done generation will look like, as its solver sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixture:
    """Latents of unit size are ``signal`` times the picture and ``noise`` times noise. Tensors
    without dimensions: reading a number off a GPU would wait for all that it has to do."""

    signal: Tensor
    noise: Tensor

    @classmethod
    def at_sigma(cls, sigma: Tensor) -> Mixture:
        size = (sigma**2 + 1).sqrt()
        return cls(1 / size, sigma / size)

    @classmethod
    def of_share(cls, kept: Tensor) -> Mixture:
        """``kept``: the picture's share of the variance."""
        return cls(kept.sqrt(), (1 - kept).sqrt())


_LEAST_SIGNAL = 0.01  # some schedules begin with none


def denoised(latents: Tensor, prediction: Tensor | None, solver: Any, timestep: Any) -> Tensor:
    """The latents without their noise, as far as the last prediction tells; of any shape, float32.

    ``latents``: as they are now; ``prediction``: what the denoiser said last, with guidance, or
    None; ``timestep``: of the call that is waited for. Where the solver is not known, the latents
    themselves, at the size of a picture's.

    A deterministic first-order step moves the latents along the prediction, so the old prediction
    with the present noise level gives the very estimate that the step was made with.
    """
    latents = latents.float()
    if (kept := _kept_by(solver, latents)) is not None:
        return kept.float()
    told = prediction.float() if prediction is not None else None
    sigma = _sigma(solver)
    if sigma is not None and _is_flow(solver):
        return latents if told is None else latents - sigma * told
    if sigma is not None and _grows_with_noise(solver):
        now, before = Mixture.at_sigma(sigma), Mixture.at_sigma(_sigma(solver, ago=1))
        latents = latents * now.signal
    else:
        now = _mixture(solver, timestep)
        before = _mixture(solver, _timestep_before(solver, timestep))
    if told is None or now is None or before is None:
        return latents
    kind = getattr(getattr(solver, "config", None), "prediction_type", None)
    return _picture_in(latents, told, str(kind), now, before)


def _picture_in(latents: Tensor, told: Tensor, kind: str, now: Mixture, before: Mixture) -> Tensor:
    """``before``: where the prediction was made."""
    match kind:
        case "epsilon":
            return (latents - now.noise * told) / now.signal.clamp(min=_LEAST_SIGNAL)
        case "v_prediction":  # v = signal · noise - noise · picture
            scale = before.signal * now.signal + before.noise * now.noise
            return (before.signal * latents - now.noise * told) / scale
        case "sample":
            return told
        case _:
            return latents


def _kept_by(solver: Any, latents: Tensor) -> Tensor | None:
    """Solvers of several orders keep estimates of the clean latents themselves."""
    config = getattr(solver, "config", None)
    keeps = "dpmsolver++" in str(getattr(config, "algorithm_type", ""))
    if not keeps and not getattr(solver, "predict_x0", False):
        return None
    kept = getattr(solver, "model_outputs", None)
    last = kept[-1] if isinstance(kept, list) and kept else None
    if not isinstance(last, Tensor) or last.shape[1:] != latents.shape[1:]:
        return None
    return last[: len(latents)]


def _is_flow(solver: Any) -> bool:
    kind = getattr(getattr(solver, "config", None), "prediction_type", None)
    return kind == "flow_prediction" or type(solver).__name__.startswith("FlowMatch")


def _grows_with_noise(solver: Any) -> bool:
    """Whether its latents are the picture and sigma times noise (Euler and its kin), which a
    pipeline brings to unit size for the denoiser."""
    return hasattr(solver, "is_scale_input_called")


def _sigma(solver: Any, ago: int = 0) -> Any:
    """The noise level of the latents as they are, or were so many steps ago; None: not known."""
    sigmas, index = getattr(solver, "sigmas", None), getattr(solver, "step_index", None)
    if not isinstance(sigmas, Tensor) or index is None:
        return None
    return sigmas[min(max(index - ago, 0), len(sigmas) - 1)].float()


def _mixture(solver: Any, timestep: Any) -> Mixture | None:
    shares = getattr(solver, "alphas_cumprod", None)
    if not isinstance(shares, Tensor) or timestep is None:
        return None
    at = torch.as_tensor(timestep).flatten()[:1].long()
    return Mixture.of_share(shares.to(at.device)[at.clamp(0, len(shares) - 1)][0])


def _timestep_before(solver: Any, timestep: Any) -> Tensor | None:
    """Of the step that was made last: the next greater one."""
    timesteps = getattr(solver, "timesteps", None)
    if not isinstance(timesteps, Tensor) or timestep is None:
        return None
    passed = (timesteps > torch.as_tensor(timestep, device=timesteps.device).flatten()[:1]).sum()
    return timesteps[(passed - 1).clamp(min=0)]
