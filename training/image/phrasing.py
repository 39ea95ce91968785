"""How people ask for a composition: synonyms, word orders, politeness and unknown words."""

from __future__ import annotations

from typing import Final

import numpy as np

from training.image.world import Composition, Item
from training.words import COLOUR_WORDS, NONSENSE, SHAPE_WORDS, pick

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
PLURALS: Final = {
    "box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses",
}  # fmt: skip
COUNT_WORDS: Final[dict[int, tuple[str, ...]]] = {
    1: ("a", "a", "a", "a", "one", "the", "a single"),
    2: ("two", "two", "two", "2", "a pair of"),
    3: ("three", "three", "3"),
    4: ("four", "four", "4"),
}
GLUE_WORDS: Final = (
    "a", "an", "the", "of", "on", "in", "is", "are", "that", "which", "with", "against", "front",
    "background", "backdrop", "colored", "coloured", "color", "colour", "and",
)  # fmt: skip

_OPENINGS: Final = (
    "a photo of", "a picture of", "an image of", "a drawing of", "draw", "please draw", "show me",
    "i want", "generate", "make me a nice picture of", "there is", "hello, can you draw",
)  # fmt: skip
_CLOSINGS: Final = (
    "please", "high quality", ", 4k", ", flat design", ", minimal", "thanks", ", vector art",
    ", simple clean illustration", "!", ".", "in the style of a poster",
)  # fmt: skip
#: Words that say nothing here, where "one" and "single" say a number.
STRANGE: Final = tuple(word for word in NONSENSE if word not in ("one", "single"))


def plain_prompt(composition: Composition) -> str:
    """The shortest regular words, as in "a small red circle above a blue square"."""
    if composition.layout == "group":
        first = composition.items[0]
        count = COUNT_WORDS[len(composition.items)][0]
        parts = [f"{count} {_plain_words(first)[: -len(first.shape)]}{plural(first.shape)}"]
    else:
        parts = _joined(
            composition,
            [_article(_plain_words(item)) for item in composition.items],
            [RELATION_WORDS[relation.name][0] for relation in composition.relations],
        )
    if composition.background != composition.default_background:
        parts.append(f"on {_article(composition.background)} background")
    return " ".join(parts)


def sample_prompt(rng: np.random.Generator, composition: Composition, *, noise: float = 0.3) -> str:
    """One of the many ways to ask for the composition; `noise` is how often strange words come."""
    if composition.layout == "group":
        parts = [_group_words(rng, composition.items[0], len(composition.items))]
    else:
        parts = _joined(
            composition,
            [_item_words(rng, item) for item in composition.items],
            [pick(rng, RELATION_WORDS[relation.name]) for relation in composition.relations],
        )
    parts.extend(_background_words(rng, composition))
    prompt = " ".join(parts)
    if rng.random() < noise:
        prompt = _with_strange_words(rng, prompt)
    if rng.random() < noise:
        prompt = f"{pick(rng, _OPENINGS)} {prompt}"
    if rng.random() < noise:
        prompt = f"{prompt} {pick(rng, _CLOSINGS)}"
    return prompt.replace(" ,", ",")


def plural(shape: str) -> str:
    """Several of a shape, by any of its words."""
    return PLURALS.get(shape, f"{shape}s")


def _joined(composition: Composition, items: list[str], relations: list[str]) -> list[str]:
    """The items' words with what relates them: "A above B and left of C", "A, B and C"."""
    if composition.layout == "row":
        first, second, third = items
        return [f"{first}, {second} and {third}"]
    if composition.layout == "corner":
        first, second, third = items
        return [first, relations[0], second, "and", relations[1], third]
    if composition.layout == "pair":
        return [items[0], relations[0], items[1]]
    return items


def _plain_words(item: Item) -> str:
    size = "" if item.size == "medium" else f"{item.size} "
    return f"{size}{item.colour} {item.shape}"


def _group_words(rng: np.random.Generator, item: Item, count: int) -> str:
    size = pick(rng, SIZE_WORDS[item.size])
    colour = pick(rng, COLOUR_WORDS[item.colour])
    shape = plural(pick(rng, SHAPE_WORDS[item.shape]))
    form = rng.random()
    if form < 0.1:
        words = f"{size} {shape} {pick(rng, ('in', 'that are', 'which are'))} {colour}"
    elif form < 0.2:
        words = f"{colour} {size} {shape}"
    else:
        words = f"{size} {colour} {shape}"
    return " ".join(f"{pick(rng, COUNT_WORDS[count])} {words}".split())


def _item_words(rng: np.random.Generator, item: Item) -> str:
    size = pick(rng, SIZE_WORDS[item.size])
    colour = pick(rng, COLOUR_WORDS[item.colour])
    shape = pick(rng, SHAPE_WORDS[item.shape])
    form = rng.random()
    if form < 0.05:
        words = f"{size} {colour} {pick(rng, ('colored', 'coloured', 'color', 'colour'))} {shape}"
    elif form < 0.1:
        words = f"{colour} {size} {shape}"
    elif form < 0.15:
        words = f"{size} {shape} {pick(rng, ('in', 'that is', 'which is'))} {colour}"
    else:
        words = f"{size} {colour} {shape}"
    words = " ".join(words.split())
    if rng.random() < 0.1:
        return words
    count = pick(rng, COUNT_WORDS[1])
    return _article(words) if count == "a" else f"{count} {words}"


def _background_words(rng: np.random.Generator, composition: Composition) -> list[str]:
    if composition.background == composition.default_background and rng.random() < 0.7:
        return []
    colour = pick(rng, COLOUR_WORDS[composition.background])
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
    return [pick(rng, forms)]


def _with_strange_words(rng: np.random.Generator, prompt: str) -> str:
    words = prompt.split()
    for _ in range(rng.integers(1, 4)):
        words.insert(int(rng.integers(len(words) + 1)), pick(rng, STRANGE))
    return " ".join(words)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
