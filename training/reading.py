"""Teaches a text encoder to read before anything is drawn: which look stands in which place.

Left to the images alone, a denoiser of this size takes most of its training to find out which
colour belongs to which object and which object is meant by "above". Read off text it takes minutes.
The denoiser then meets text tokens that say by their keys which place they speak of, and by
their values what stands there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.phrasing import plain_prompt, sample_prompt
from training.text import token_ids
from training.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scene, sample_scene

#: The only object, the upper or left one of two, and the other; then the one of two that is named
#: first, and the other. The last two are no end in themselves: which of two stands in a place
#: depends on the order and on the relation together, and neither alone says anything about it, so
#: that without these steps training stands still for long.
PLACES: Final = 5

#: What is asked of each place (the last class: nothing stands there), then of the whole.
_ASKED_OF_PLACE: Final = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
}
_PAIR_PART: Final = 0.65
_PLAIN_PART: Final = 0.4


class Reader(nn.Module):
    """A text encoder with questions that look at its tokens; the questions are thrown away.

    The encoder's first output is its tokens [B, T, `width`].
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.questions = nn.Parameter(torch.randn(PLACES + 2, width) * width**-0.5)
        self.key = nn.Linear(width, width)
        self.of_place = nn.ModuleDict(
            {name: nn.Linear(width, classes) for name, classes in _ASKED_OF_PLACE.items()}
        )
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.relation = nn.Linear(width, len(RELATIONS) + 1)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits by question: [B, PLACES, classes] of places, [B, classes] of the whole."""
        return self.answers(self.encoder(ids)[0])

    def answers(self, tokens: Tensor) -> dict[str, Tensor]:
        """The same of tokens [B, T, width]."""
        scores = self.questions @ self.key(tokens).transpose(1, 2)
        seen = scores.softmax(dim=-1) @ tokens
        answers = {name: head(seen[:, :PLACES]) for name, head in self.of_place.items()}
        answers["background"] = self.background(seen[:, PLACES])
        answers["relation"] = self.relation(seen[:, PLACES + 1])
        return answers


class PooledReader(Reader):
    """Also asks all of the encoder's second output, one vector [B, `pooled_width`] a prompt."""

    def __init__(self, encoder: nn.Module, width: int, pooled_width: int) -> None:
        super().__init__(encoder, width)
        of_place = {name: PLACES * classes for name, classes in _ASKED_OF_PLACE.items()}
        of_whole = {"background": len(BACKGROUNDS), "relation": len(RELATIONS) + 1}
        self.of_pooled = nn.ModuleDict(
            {name: nn.Linear(pooled_width, size) for name, size in (of_place | of_whole).items()}
        )

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits of both outputs, one after the other: [2B, …]."""
        tokens, pooled = self.encoder(ids)
        answers = self.answers(tokens)
        return {
            name: torch.cat([answer, self.of_pooled[name](pooled).reshape(answer.shape)])
            for name, answer in answers.items()
        }


def sample_reading(
    rng: np.random.Generator, size: int, tokenizer: object, length: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Prompts of the training split as token ids [B, length], and the answers by question."""
    scenes = [sample_scene(rng, pair=bool(rng.random() < _PAIR_PART)) for _ in range(size)]
    prompts = [
        plain_prompt(scene) if rng.random() < _PLAIN_PART else sample_prompt(rng, scene)
        for scene in scenes
    ]
    answers = [_answers(scene) for scene in scenes]
    truth = {name: torch.tensor([one[name] for one in answers]) for name in answers[0]}
    return token_ids(tokenizer, prompts, length).long(), truth


def loss_on(reader: Reader, ids: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """The mean cross entropy over the questions, of as many outputs as the reader asks."""
    answers = reader(ids)
    outputs = len(next(iter(answers.values()))) // len(ids)
    return torch.stack(
        [
            functional.cross_entropy(
                answers[name].flatten(0, -2), torch.cat([right] * outputs).flatten()
            )
            for name, right in truth.items()
        ]
    ).mean()


def _answers(scene: Scene) -> dict[str, list[int] | int]:
    places = _places(scene)
    relation = len(RELATIONS) if scene.relation is None else RELATIONS.index(scene.relation)
    by_place: dict[str, list[int] | int] = {
        name: [
            len(names) if thing is None else names.index(getattr(scene.things[thing], name))
            for thing in places
        ]
        for name, names in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES))
    }
    return {**by_place, "background": BACKGROUNDS.index(scene.background), "relation": relation}


def _places(scene: Scene) -> tuple[int | None, ...]:
    """Which thing stands in each of `PLACES`."""
    if scene.relation is None:
        return 0, None, None, None, None
    leads, follows = (0, 1) if scene.relation in ("above", "left of", "beside") else (1, 0)
    return None, leads, follows, 0, 1
