"""Teaches a text encoder to read before anything is drawn: which look stands in which place.

Left to the images alone, a denoiser of this size takes most of its training to find out which
colour belongs to which object and which object is meant by "above". Read off text it takes minutes:
a question for each place of the image and for each object in the order of the prompt. The denoiser
then meets text tokens that say by their keys which place they speak of, and by their values what
stands there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.image.phrasing import plain_prompt, sample_prompt
from training.image.vae import sample_compositions
from training.image.world import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    MOST_OBJECTS,
    SHAPES,
    SIZES,
    Composition,
)
from training.text import token_ids

#: Objects by the order of the prompt. The places follow, and these are no end in themselves, but
#: what stands in a place depends on the order and on the relations together: without these
#: questions training stands still for long.
_NAMED: Final = 3
#: Places: those of a single object, of pairs (left, right, top, bottom), of a row and of 2 × 2.
_PLACES: Final = 1 + 4 + 3 + 4
_SLOTS: Final = _NAMED + _PLACES

_SLOT_CLASSES: Final = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
}
_WHOLE_CLASSES: Final = {
    "background": len(BACKGROUNDS),
    "layout": len(LAYOUTS),
    "count": MOST_OBJECTS,
}
_PLAIN_PART: Final = 0.4
_POOLED: Final = "pooled "


class PlaceReader(nn.Module):
    """A text encoder with questions that look at its tokens; the questions are thrown away.

    The encoder's first output is its tokens [B, T, `width`].
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        whole = len(_WHOLE_CLASSES)
        self.questions = nn.Parameter(torch.randn(_SLOTS + whole, width) * width**-0.5)
        self.key = nn.Linear(width, width)
        self.of_slot = nn.ModuleDict(
            {name: nn.Linear(width, classes) for name, classes in _SLOT_CLASSES.items()}
        )
        self.of_whole = nn.ModuleDict(
            {name: nn.Linear(width, classes) for name, classes in _WHOLE_CLASSES.items()}
        )

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits by question: [B, slots, classes] of slots, [B, classes] of the whole."""
        return self.answers(self.encoder(ids)[0])

    def answers(self, tokens: Tensor) -> dict[str, Tensor]:
        """The same of tokens [B, T, `width`]."""
        scores = self.questions @ self.key(tokens).transpose(1, 2)
        seen = scores.softmax(dim=-1) @ tokens
        answers = {name: head(seen[:, :_SLOTS]) for name, head in self.of_slot.items()}
        for i, (name, head) in enumerate(self.of_whole.items()):
            answers[name] = head(seen[:, _SLOTS + i])
        return answers


class PooledPlaceReader(PlaceReader):
    """Also asks for the whole of the encoder's second output, one vector [B, `pooled_width`] a
    prompt. What stands in each place is too much for a vector that a pipeline takes so short."""

    def __init__(self, encoder: nn.Module, width: int, pooled_width: int) -> None:
        super().__init__(encoder, width)
        self.of_pooled = nn.ModuleDict(
            {name: nn.Linear(pooled_width, classes) for name, classes in _WHOLE_CLASSES.items()}
        )

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits by question, those of the second output under names of their own."""
        tokens, pooled = self.encoder(ids)
        answers = self.answers(tokens)
        for name, head in self.of_pooled.items():
            answers[_POOLED + name] = head(pooled)
        return answers


def sample_reading(
    rng: np.random.Generator, size: int, tokenizer: object, length: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Prompts of the training split as token ids [B, length], and the answers by question."""
    compositions = sample_compositions(rng, size)
    prompts = [
        plain_prompt(composition) if rng.random() < _PLAIN_PART else sample_prompt(rng, composition)
        for composition in compositions
    ]
    answers = [_answers(composition) for composition in compositions]
    truth = {name: torch.tensor([answer[name] for answer in answers]) for name in answers[0]}
    return token_ids(tokenizer, prompts, length).long(), truth


def loss_on(reader: PlaceReader, ids: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """The mean cross entropy over the questions."""
    losses = [
        functional.cross_entropy(answer.flatten(0, -2), truth[name.removeprefix(_POOLED)].flatten())
        for name, answer in reader(ids).items()
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def marks(reader: PlaceReader, ids: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """The part of the prompts of which a question is answered right in every slot."""
    answers = reader(ids)
    return {
        name: float((answers[name].argmax(-1) == right).flatten(1).all(1).float().mean())
        if right.ndim > 1
        else float((answers[name].argmax(-1) == right).float().mean())
        for name, right in truth.items()
    }


def _answers(composition: Composition) -> dict[str, list[int] | int]:
    slots = _slots(composition)
    by_slot: dict[str, list[int] | int] = {
        name: [
            len(names) if i is None else names.index(getattr(composition.items[i], name))
            for i in slots
        ]
        for name, names in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES))
    }
    return {
        **by_slot,
        "background": BACKGROUNDS.index(composition.background),
        "layout": LAYOUTS.index(composition.layout),
        "count": len(composition.items) - 1,
    }


def _slots(composition: Composition) -> list[int | None]:
    """The number of the object in each slot."""
    slots: list[int | None] = [None] * _SLOTS
    count = len(composition.items)
    named = 1 if composition.layout == "group" else count
    slots[:named] = range(named)
    for number, item in enumerate(composition.items):
        slots[_NAMED + _place(composition, count, item.x, item.y)] = number
    return slots


def _place(composition: Composition, count: int, x: float, y: float) -> int:
    """The number of the place at a point, among those that the layout uses."""
    across, down = x / composition.width, y / composition.height
    if count == 1:
        return 0
    if composition.layout == "corner" or count == MOST_OBJECTS:
        return 8 + 2 * (down > 0.5) + (across > 0.5)
    if count == 3:
        return 5 + int(3 * across)
    if abs(across - 0.5) > abs(down - 0.5):
        return 1 + (across > 0.5)
    return 3 + (down > 0.5)
