"""Other noise in half-done latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deployments.engine.interception.solver_step import NoiseLevel
from serve_app.domain.errors import Unsupported


def with_new_noise(
    latents: Tensor, clean: Tensor, level: NoiseLevel, strength: float, generator: torch.Generator
) -> Tensor:
    """Replace a share of the noise in ``latents`` by noise from ``generator``.

    ``strength``: 0 changes nothing, 1 replaces all of it. The variance stays. ``generator`` is on
    the CPU, so that every device gets the same numbers.
    """
    wide = torch.promote_types(latents.dtype, torch.float32)
    signal, size = level.signal.to(latents.device), level.noise.to(latents.device)
    noise = latents.to(wide) - signal * clean.to(latents.device, wide)
    fresh = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
    kept = (1 - strength**2) ** 0.5
    changed = noise * kept + strength * size * fresh.to(latents.device, wide)
    return (latents.to(wide) - noise + changed).to(latents.dtype)


def forget_earlier_steps(solver: Any) -> None:
    """Make the next step of ``solver`` a step of first order, as after its start.

    What multi-step schedulers remember belongs to the old noise; UniPC would even correct the new
    noise away. Raises ``Unsupported`` for a scheduler that is in the middle of a step of several
    predictions (Heun and the like) or remembers something else.
    """
    name = type(solver).__name__
    if getattr(solver, "state_in_first_order", True) is False:
        raise Unsupported(f"{name} is between two predictions of one step, so its noise stays.")
    own = vars(solver)
    if remembered := [memory for memory in _OTHER_MEMORY if own.get(memory)]:
        raise Unsupported(
            f"{name} remembers earlier steps ({', '.join(remembered)}), so its noise stays."
        )
    for attribute, value in _FIRST_ORDER.items():
        if attribute in own:
            kept = own[attribute]
            own[attribute] = [None] * len(kept) if isinstance(kept, list) else value


_FIRST_ORDER: Mapping[str, Any] = {
    "lower_order_nums": 0,
    "last_sample": None,
    "model_outputs": None,
    "timestep_list": None,
    "last_noise": None,
}
_OTHER_MEMORY = ("ets", "derivatives", "prev_derivative", "cur_sample")  # PNDM, IPNDM, LMS, Heun
