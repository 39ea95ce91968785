"""Steps of diffusers' schedulers: the noise before and after one, and its clean latents.

The latents of all of diffusers' schedulers are ``signal`` times the clean latents plus ``noise``
times a sample of a normal distribution, with two numbers that the scheduler knows at each step:

- flow matching: 1 - sigma and sigma
- Euler, Heun and others with a sigma that grows without limit: 1 and sigma
- solvers with `_sigma_to_alpha_sigma_t` (DPM++, UniPC, DEIS): what that gives
- DDPM, DDIM and others with `alphas_cumprod`: its root, and the root of the rest
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deployments.engine.interception.schedulers import kept_estimate, sigma_of


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Latents as ``signal`` times the clean latents plus ``noise`` times unit noise."""

    signal: Tensor  # no dimensions
    noise: Tensor  # no dimensions

    @property
    def share(self) -> float:
        """Noise in the sum of both, from 1 at the start to 0 at the end: sigma of a flow."""
        return float(self.noise / (self.signal + self.noise))


@dataclass(frozen=True, slots=True)
class SolverStep:
    """A step that a scheduler has just made."""

    solver: Any
    arguments: Mapping[str, Any]  # by name
    output: Any = None

    @classmethod
    def of(
        cls, solver: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any
    ) -> SolverStep:
        positional = zip(_parameters(type(solver)), (solver, *arguments), strict=False)
        bound = {**dict(positional), **keywords}
        sample = bound.get("sample")
        if isinstance(sample, Tensor) and sample._is_view():  # noqa: SLF001 - torch shows it nowhere else
            # Kandinsky 5 writes the output into the place of the latents that it came from.
            bound["sample"] = sample.clone()
        return cls(solver, bound, output)

    def level_before(self) -> NoiseLevel | None:
        """Noise of the latents that it was given; None for an unknown scheduler."""
        return self._level(1, self.arguments.get("timestep"))

    def level_after(self) -> NoiseLevel | None:
        """Noise of the latents that it gave; None for an unknown scheduler."""
        return self._level(0, self._next_timestep())

    def clean_latents(self) -> Tensor | None:
        """Estimate of the latents without noise that the step was made with, in the latents'
        shape; None for an unknown scheduler."""
        sample, predicted = self.arguments.get("sample"), self.arguments.get("model_output")
        if not isinstance(sample, Tensor) or not isinstance(predicted, Tensor):
            return None
        if (estimate := self._estimate_of(sample)) is not None:
            return estimate
        kept = kept_estimate(self.solver)
        if kept is not None and kept.shape == sample.shape:
            return kept
        if predicted.ndim > 1 and predicted.shape[1] == 2 * sample.shape[1]:
            predicted = predicted[:, : sample.shape[1]]  # the other half is the variance
        level = self.level_before()
        if level is None or predicted.shape != sample.shape:
            return None
        return _clean(sample, predicted, self._prediction_type(), level)

    def _level(self, ago: int, timestep: Any) -> NoiseLevel | None:
        solver = self.solver
        if (sigma := sigma_of(solver, ago)) is not None:
            if hasattr(solver, "_sigma_to_alpha_sigma_t"):
                return NoiseLevel(*map(torch.as_tensor, solver._sigma_to_alpha_sigma_t(sigma)))  # noqa: SLF001
            if self._prediction_type() in (_FLOW, _TO_CLEAN):
                return NoiseLevel(1 - sigma, sigma)
            if hasattr(solver, "is_scale_input_called"):
                return NoiseLevel(torch.ones_like(sigma), sigma)
            return None
        shares = getattr(solver, "alphas_cumprod", None)
        if not isinstance(shares, Tensor) or timestep is None:
            return None
        # Indexed by a tensor: reading a number from a GPU would wait for the device.
        at = torch.as_tensor(timestep).flatten()[0].long()
        shares = shares.to(at.device)
        share = shares[at.clamp(0, len(shares) - 1)]
        share = torch.where(at < 0, _final(solver, shares), share)
        return NoiseLevel(share.sqrt(), (1 - share).sqrt())

    def _next_timestep(self) -> Any:
        """Timestep of the next step of a scheduler that does not count its steps; -1: none."""
        now, timesteps = self.arguments.get("timestep"), getattr(self.solver, "timesteps", None)
        if now is None or not isinstance(timesteps, Tensor):
            return None
        at = torch.as_tensor(now).flatten()[0].to(timesteps)
        later = timesteps[timesteps < at]
        return later[0] if len(later) else -1

    def _prediction_type(self) -> str:
        if type(self.solver).__name__ == "MiniMaxH3Scheduler":
            return _TO_CLEAN
        kind = getattr(getattr(self.solver, "config", None), "prediction_type", None)
        if kind == _FLOW or "Flow" in type(self.solver).__name__:
            return _FLOW
        return str(kind)

    def _estimate_of(self, sample: Tensor) -> Tensor | None:
        """Estimate that some schedulers return beside the latents; else None."""
        estimate = getattr(self.output, "pred_original_sample", None)
        if isinstance(self.output, tuple) and len(self.output) == 2:
            estimate = self.output[1]
        return estimate if isinstance(estimate, Tensor) and estimate.shape == sample.shape else None


@cache
def _parameters(kind: type) -> Sequence[str]:
    return [*inspect.signature(kind.step).parameters]


def _clean(sample: Tensor, predicted: Tensor, kind: str, level: NoiseLevel) -> Tensor | None:
    """Computed in the sample's precision or float32, whichever is wider."""
    latents = sample.to(torch.promote_types(sample.dtype, torch.float32))
    signal, noise = level.signal.to(latents), level.noise.to(latents)
    match kind:
        case "flow_prediction":  # it predicts noise minus clean
            estimate = latents - noise * predicted
        case "to_clean":
            estimate = latents + noise * predicted
        case "epsilon":
            estimate = (latents - noise * predicted) / signal.clamp(min=_MIN_SIGNAL)
        case "v_prediction":  # of latents of unit size: signal · noise - noise · clean
            size = (signal**2 + noise**2).sqrt()
            estimate = signal / size * (latents / size) - noise / size * predicted
        case "sample":
            estimate = predicted
        case _:
            return None
    return estimate.to(sample.dtype)


def _final(solver: Any, shares: Tensor) -> Tensor:
    final = getattr(solver, "final_alpha_cumprod", None)
    return torch.as_tensor(1.0 if final is None else final).to(shares)


_FLOW = "flow_prediction"
_TO_CLEAN = "to_clean"  # the same in the other direction
_MIN_SIGNAL = 0.01  # some schedules begin with a signal of 0
