"""The sound that comes with a clip, cut at its frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.engine.sound_levels import levelled


@dataclass(frozen=True, slots=True, eq=False)
class Soundtrack:
    samples: NDArray[np.float32]  # [2, samples], -1 to 1
    rate: int  # samples a second

    @classmethod
    def of(cls, sound: torch.Tensor, rate: int) -> Soundtrack:
        """``sound``: [channels, samples] of one or two channels, or [samples], on any device; made
        quieter and refused as ``levelled`` says."""
        samples = levelled(sound, sound.shape[-1])
        return cls(np.broadcast_to(samples, (2, samples.shape[1])), rate)

    def during(self, start_s: Fraction, end_s: Fraction) -> NDArray[np.float32]:
        """From one time to another, silent where it has ended. Parts that follow each other leave
        nothing out."""
        start, end = round(start_s * self.rate), round(end_s * self.rate)
        part = self.samples[:, start:end]
        return np.pad(part, ((0, 0), (0, end - start - part.shape[1])))
