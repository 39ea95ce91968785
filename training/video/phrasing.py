"""How people ask for a video: synonyms, word orders and words the model cannot know."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from training.video.world import BACKGROUNDS, COLOURS, DEFAULT_BACKGROUND, SHAPES, Video
from training.words import COLOUR_WORDS, SHAPE_WORDS, pick, sample_nonsense

#: The first way is the regular one. "From left to right" names both: the order decides.
MOTION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "left": (
        "moving left", "moves left", "moving to the left", "going left", "sliding left",
        "flying to the left", "from right to left", "drifts left", "leftwards",
    ),
    "right": (
        "moving right", "moves right", "moving to the right", "going right", "sliding right",
        "flying to the right", "from left to right", "drifts right", "rightwards",
    ),
    "up": (
        "moving up", "moves up", "moving upwards", "going up", "rising", "rises", "flying up",
        "from bottom to top", "upward",
    ),
    "down": (
        "moving down", "moves down", "moving downwards", "going down", "falling", "falls",
        "sinking", "from top to bottom", "downward", "dropping",
    ),
    "growing": (
        "growing", "grows", "getting bigger", "getting larger", "becoming larger", "expanding",
        "growing bigger", "expands",
    ),
    "shrinking": (
        "shrinking", "shrinks", "getting smaller", "becoming smaller", "contracting",
        "that gets smaller", "contracts",
    ),
    "still": (
        "standing still", "", "", "", "not moving", "at rest", "that stays still", "motionless",
    ),
}  # fmt: skip

_OPENINGS: Final = ("a video of", "a clip of", "show me", "please animate", "an animation of")
_CLOSINGS: Final = ("please", ", high quality", ", smooth", ", 4k", ".", "in one shot", "slowly")
_GLUE: Final = (
    "a", "an", "the", "on", "in", "is", "it", "that", "background", "backdrop", "against", "with",
    "and", "front", "of", "s",
)  # fmt: skip


def known_words() -> list[str]:
    """Every word that carries meaning in a prompt, sorted."""
    colours = [COLOUR_WORDS[name] for name in (*COLOURS, *BACKGROUNDS)]
    shapes = [SHAPE_WORDS[name] for name in SHAPES]
    phrases = [word for words in (*colours, *shapes, *MOTION_WORDS.values()) for word in words]
    return sorted(
        {word for phrase in phrases for word in re.findall("[a-z]+", phrase)} | set(_GLUE)
    )


def plain_prompt(video: Video) -> str:
    """The video in its shortest regular words, as in "a red circle moving left"."""
    words = f"a {video.colour} {video.shape} {MOTION_WORDS[video.motion][0]}"
    words = words.replace("a orange", "an orange")
    if video.background == DEFAULT_BACKGROUND:
        return words
    return f"{words} on a {video.background} background"


def sample_prompt(rng: np.random.Generator, video: Video, *, noise: float = 0.3) -> str:
    """One of the many ways to ask for the video; `noise` is how often strange words appear."""
    thing = f"{pick(rng, COLOUR_WORDS[video.colour])} {pick(rng, SHAPE_WORDS[video.shape])}"
    motion = pick(rng, MOTION_WORDS[video.motion])
    article = pick(rng, ("a ", "a ", "the ", ""))
    words = [f"{article}{thing} {motion}", f"{motion} {article}{thing}"][rng.random() < 0.1]
    words = f"{words} {_background_words(rng, video.background)}"
    if rng.random() < noise:
        words = f"{pick(rng, _OPENINGS)} {words}"
    if rng.random() < noise:
        words = f"{words} {pick(rng, _CLOSINGS)}"
    if rng.random() < noise:
        words = f"{words} {sample_nonsense(rng)}"
    return " ".join(words.split())


def motion_prompt(rng: np.random.Generator, video: Video) -> str:
    """Only what happens, as one asks where an image shows the rest."""
    motion = pick(rng, MOTION_WORDS[video.motion])
    subject = pick(rng, ("it is", "it", "", "", "the object is", "the shape is"))
    shape = pick(rng, SHAPE_WORDS[video.shape])
    return f"{pick(rng, (subject, subject, f'the {shape} is', f'the {shape}'))} {motion}".strip()


def _background_words(rng: np.random.Generator, background: str) -> str:
    if background == DEFAULT_BACKGROUND and rng.random() < 0.6:
        return ""
    colour = pick(rng, COLOUR_WORDS[background])
    forms = ("on a {} background", "against a {} background", "on {}", ", {} background")
    return pick(rng, forms).format(colour)
