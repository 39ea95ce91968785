"""What a model made, as samples that no player clips."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.domain.errors import PipelineFailed

Samples = NDArray[np.float32]  # [channels, samples], -1 to 1

CEILING = 10 ** (-1 / 20)
"""The greatest sample of a delivered sound. EBU R 128 allows -1 dB of full scale at the peak, since
what lies between the samples, and what lossy codecs add, goes a little beyond them."""


def levelled(made: torch.Tensor, count: int) -> Samples:
    """``made``: [channels, samples] or [samples], on any device and of any float type. Gives one or
    two channels of ``count`` samples, silent where it has ended sooner.

    A sound that is too loud is made quieter as a whole, so that nothing is cut off; a quiet one
    stays as it is. ``PipelineFailed`` for one that is no sound at all.
    """
    samples = made.detach().float().reshape(-1, made.shape[-1])[:2, :count].cpu().numpy()
    if not np.isfinite(samples).all():
        raise PipelineFailed(
            "The model made samples that are no numbers. It may need more precision than it is "
            "loaded with (`dtype` in the catalogue)."
        )
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > CEILING:
        samples = samples * np.float32(CEILING / peak)
    return np.pad(samples, ((0, 0), (0, count - samples.shape[1])))
