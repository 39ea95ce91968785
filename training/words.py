"""Words in which several of the worlds are asked for, and words that no model knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "green": ("green",),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "blue": ("blue",),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "black": ("black",),
}
SHAPE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "circle", "disc", "disk", "ball"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "ring", "ring", "hoop", "donut"),
    "cross": ("cross", "cross", "plus"),
    "hexagon": ("hexagon",),
    "diamond": ("diamond", "diamond", "rhombus"),
}

#: Words that say nothing in a world, and are unknown to its tokenizers.
NONSENSE: Final = (
    "nice", "beautiful", "cat", "shiny", "very", "dog", "bright", "photorealistic", "detailed",
    "house", "riding", "robot", "simple", "perfect", "cinematic", "flying", "one", "single", "cute",
    "solid", "filled", "dark", "light", "mountain", "xkcd", "wow", "astronaut", "trending",
)  # fmt: skip


def sample_nonsense(rng: np.random.Generator, words: Sequence[str] = NONSENSE) -> str:
    """A prompt that says nothing about the world; anything answers it."""
    return " ".join(pick(rng, words) for _ in range(rng.integers(0, 8)))


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of the choices, each as often as it is listed."""
    return choices[rng.integers(len(choices))]
