"""The seed of all training: with a step's number it determines what the step draws by chance."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

SEED: Final = 1


def randomness(step: int) -> np.random.Generator:
    """All that a step draws by chance; seeds torch as well."""
    torch.manual_seed(SEED * 1_000_003 + step)
    return np.random.default_rng([SEED, step])
