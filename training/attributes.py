"""Teaches a text encoder to read before anything is made of it: what a prompt says of each matter.

As `training.image.reading`, for prompts that speak of one thing only: no places, one answer to each
question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.seed import randomness
from training.text import token_ids
from training.trainer import Trainer

_BATCH: Final = 48

#: A prompt and the right answer to each question.
Asked = tuple[str, Mapping[str, str]]


class AttributeReader(nn.Module):
    """A text encoder with questions that look at its tokens; the questions are thrown away.

    ``answers`` are the possible answers by question. The encoder's first output is its tokens
    [B, T, ``width``]; token 0 is padding and is not looked at.
    """

    def __init__(
        self, encoder: nn.Module, width: int, answers: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.answers = answers
        self.questions = nn.Parameter(torch.randn(len(answers), width) * width**-0.5)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(choices)) for name, choices in answers.items()}
        )

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits [B, answers] by question, of token ids [B, T]."""
        tokens = self.encoder(ids, attention_mask=ids != 0)[0]
        scores = (self.questions @ tokens.transpose(1, 2)).masked_fill((ids == 0)[:, None], -1e4)
        seen = scores.softmax(dim=-1) @ tokens
        return {name: head(seen[:, i]) for i, (name, head) in enumerate(self.heads.items())}

    def loss_on(self, ids: Tensor, truths: Sequence[Mapping[str, str]]) -> Tensor:
        """The mean cross entropy over the questions."""
        logits = self(ids)
        losses = []
        for name, choices in self.answers.items():
            right = torch.tensor([choices.index(truth[name]) for truth in truths])
            losses.append(functional.cross_entropy(logits[name], right))
        return torch.stack(losses).mean()


def teach(
    trainer: Trainer,
    first_step: int,
    tokenizer: object,
    length: int,
    ask: Callable[[np.random.Generator], Asked],
) -> None:
    """Train an `AttributeReader` on what ``ask`` asks; chance is that of the steps from
    ``first_step`` on."""

    def loss_of_step(step: int) -> Tensor:
        rng = randomness(first_step + step)
        prompts, truths = zip(*(ask(rng) for _ in range(_BATCH)), strict=True)
        ids = token_ids(tokenizer, list(prompts), length).long()
        return trainer.module.loss_on(ids, truths)

    trainer.run(loss_of_step)
