"""How people ask for a scene: synonyms, word orders, politeness and words the model cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from training.palette import DEFAULT_BACKGROUND
from training.world import Scene, Thing

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
}
SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("", "", "", "medium", "medium-sized"),
    "large": ("large", "large", "big", "huge"),
}
RELATION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "above": ("above", "above", "over", "on top of", "atop"),
    "below": ("below", "below", "under", "beneath", "underneath"),
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "beside": ("and", "and", "next to", "beside", "with"),
}

#: Around the scene; every word of these that carries no meaning is unknown to the tokenizers.
_OPENINGS: Final = (
    "a photo of", "a picture of", "an image of", "a drawing of", "draw", "please draw", "show me",
    "i want", "generate", "make me a nice picture of", "there is", "hello, can you draw",
)  # fmt: skip
_CLOSINGS: Final = (
    "please", "high quality", ", 4k", ", flat design", ", minimal", "thanks", ", vector art",
    ", simple clean illustration", "!", ".", "in the style of a poster",
)  # fmt: skip
_STRANGE: Final = (
    "nice", "beautiful", "cat", "shiny", "very", "dog", "bright", "photorealistic", "detailed",
    "house", "riding", "robot", "simple", "perfect", "cinematic", "flying", "one", "single", "cute",
    "solid", "filled", "dark", "light", "mountain", "xkcd", "wow", "astronaut", "trending",
)  # fmt: skip


def plain_prompt(scene: Scene) -> str:
    """The scene in its shortest regular words, as in "a small red circle above a blue square"."""
    parts = [_plain_thing(thing) for thing in scene.things]
    if scene.relation is not None:
        parts.insert(1, RELATION_WORDS[scene.relation][0])
    if scene.background != DEFAULT_BACKGROUND:
        parts.append(f"on {_article(scene.background)} background")
    return " ".join(parts)


def sample_prompt(
    rng: np.random.Generator, scene: Scene, *, noise: float = 0.3, vague: float = 0.0
) -> str:
    """One of the many ways to ask for the scene.

    `noise` is how often strange words appear, `vague` how often an object's colour is left out.
    """
    words = [_thing_words(rng, thing, vague=rng.random() < vague) for thing in scene.things]
    if scene.relation is not None:
        words.insert(1, _pick(rng, RELATION_WORDS[scene.relation]))
    words.extend(_background_words(rng, scene.background))
    prompt = " ".join(words)
    if rng.random() < noise:
        prompt = _with_strange_words(rng, prompt)
    if rng.random() < noise:
        prompt = f"{_pick(rng, _OPENINGS)} {prompt}"
    if rng.random() < noise:
        prompt = f"{prompt} {_pick(rng, _CLOSINGS)}".replace(" ,", ",")
    return prompt


def sample_nonsense(rng: np.random.Generator) -> str:
    """A prompt that says nothing about the world; any scene answers it."""
    return " ".join(_pick(rng, _STRANGE) for _ in range(rng.integers(0, 8)))


def _plain_thing(thing: Thing) -> str:
    size = "" if thing.size == "medium" else f"{thing.size} "
    return _article(f"{size}{thing.colour} {thing.shape}")


def _thing_words(rng: np.random.Generator, thing: Thing, *, vague: bool) -> str:
    size = _pick(rng, SIZE_WORDS[thing.size])
    colour = "" if vague else _pick(rng, COLOUR_WORDS[thing.colour])
    shape = _pick(rng, SHAPE_WORDS[thing.shape])
    if rng.random() < 0.08:
        shape += "s" if shape != "box" else "es"
    form = rng.random()
    if form < 0.05 and not vague:
        words = f"{size} {colour} {_pick(rng, ('colored', 'coloured', 'color', 'colour'))} {shape}"
    elif form < 0.1:
        words = f"{colour} {size} {shape}"
    elif form < 0.15 and not vague:
        words = f"{size} {shape} {_pick(rng, ('in', 'that is', 'which is'))} {colour}"
    else:
        words = f"{size} {colour} {shape}"
    words = " ".join(words.split())
    opening = rng.random()
    if opening < 0.75:
        return _article(words)
    return words if opening < 0.9 else f"the {words}"


def _background_words(rng: np.random.Generator, background: str) -> list[str]:
    if background == DEFAULT_BACKGROUND and rng.random() < 0.7:
        return []
    colour = _pick(rng, COLOUR_WORDS[background])
    forms = (
        f"on {_article(colour)} background",
        f"on {_article(colour)} background",
        f"against {_article(colour)} background",
        f"with {_article(colour)} background",
        f"in front of {_article(colour)} background",
        f"on {colour}",
        f", {colour} background",
        f"on {_article(colour)} backdrop",
    )
    return [_pick(rng, forms)]


def _with_strange_words(rng: np.random.Generator, prompt: str) -> str:
    words = prompt.split()
    for _ in range(rng.integers(1, 4)):
        words.insert(int(rng.integers(len(words) + 1)), _pick(rng, _STRANGE))
    return " ".join(words)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[rng.integers(len(choices))]
