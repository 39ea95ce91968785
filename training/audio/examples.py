"""The transformer's training examples: latents of played audio, each with tokenized prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from training.audio.phrasing import plain_prompt, sample_prompt
from training.audio.stable_audio import Batch
from training.audio.text import TOKENS, build_tokenizer
from training.audio.vae import encode
from training.audio.world import sample_audio
from training.text import token_ids

_PROMPTS_PER_AUDIO: Final = 6
_PLAIN_PART: Final = 0.4


@dataclass(frozen=True)
class Examples:
    """Latents and the tokens of several ways to ask for each, the regular one first."""

    latents: Tensor  # float32 [N, 32, LENGTH]
    ids: Tensor  # int16 [N, P, TOKENS]

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Random recordings, each with one of its prompts."""
        audios = torch.from_numpy(rng.integers(len(self.latents), size=size))
        prompts = rng.integers(self.ids.shape[1], size=size)
        chosen = torch.from_numpy(np.where(rng.random(size) < _PLAIN_PART, 0, prompts))
        return Batch(self.latents[audios], self.ids[audios, chosen].long())

    def save(self, path: Path) -> None:
        torch.save((self.latents, self.ids), path)


def load_examples(path: Path) -> Examples:
    return Examples(*torch.load(path, weights_only=True))


def make_examples(vae: AutoencoderOobleck, *, count: int, seed: int) -> Examples:
    """Play, encode and phrase recordings of the training split."""
    rng = np.random.default_rng(seed)
    audios = [sample_audio(rng) for _ in range(count)]
    prompts = [
        prompt
        for audio in audios
        for prompt in [
            plain_prompt(audio),
            *(sample_prompt(rng, audio) for _ in range(_PROMPTS_PER_AUDIO - 1)),
        ]
    ]
    ids = token_ids(build_tokenizer(), prompts, TOKENS)
    return Examples(encode(vae, audios), ids.reshape(count, -1, TOKENS))
