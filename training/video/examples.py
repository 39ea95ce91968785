"""The transformer's training examples: latents of rendered videos, each with tokenized prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.text import token_ids
from training.video.phrasing import motion_prompt, plain_prompt, sample_prompt
from training.video.text import TOKENS, build_tokenizer
from training.video.vae import encode, scale_latents
from training.video.wan import Batch
from training.video.world import Video, sample_video
from training.words import sample_nonsense

_PROMPTS_PER_VIDEO: Final = 6
_PLAIN_PART: Final = 0.4
#: Without any prompt, or with one that says nothing: what guidance guides away from.
_SILENT_PART: Final = 0.1
#: Of the videos that go on from an image, how many are asked for by their motion alone.
_MOTION_PART: Final = 0.5


@dataclass(frozen=True)
class Examples:
    """Latents before scaling, the tokens of several ways to ask for each, the regular one first.

    The videos from `free` on start anywhere: they go on from an image.
    """

    latents: Tensor  # float32 [N, 16, T, H, W]
    ids: Tensor  # int16 [N, P, TOKENS]
    free: int

    def batch(self, rng: np.random.Generator, size: int, vae: AutoencoderKLWan) -> Batch:
        """Random videos, each with one of its prompts, scaled as the pipeline scales."""
        videos = torch.from_numpy(rng.integers(len(self.latents), size=size))
        prompts = rng.integers(self.ids.shape[1], size=size)
        chosen = torch.from_numpy(np.where(rng.random(size) < _PLAIN_PART, 0, prompts))
        return Batch(
            scale_latents(vae, self.latents[videos]),
            self.ids[videos, chosen].long(),
            videos >= self.free,
        )

    def save(self, path: Path) -> None:
        torch.save((self.latents, self.ids, self.free), path)


def load_examples(path: Path) -> Examples:
    return Examples(*torch.load(path, weights_only=True))


def make_examples(
    vae: AutoencoderKLWan, *, usual: int, free: int, seed: int, scale: int = 1
) -> Examples:
    """Render, encode and phrase videos of the training split; `free` more that start anywhere."""
    rng = np.random.default_rng(seed)
    videos = [sample_video(rng) for _ in range(usual)]
    more = [sample_video(rng, free=True) for _ in range(free)]
    prompts = [prompt for video in videos for prompt in _prompts(rng, video, from_image=False)]
    prompts += [prompt for video in more for prompt in _prompts(rng, video, from_image=True)]
    ids = token_ids(build_tokenizer(), prompts, TOKENS)
    return Examples(
        encode(vae, videos + more, scale=scale), ids.reshape(usual + free, -1, TOKENS), usual
    )


def _prompts(rng: np.random.Generator, video: Video, *, from_image: bool) -> list[str]:
    prompts = [plain_prompt(video)]
    while len(prompts) < _PROMPTS_PER_VIDEO:
        if rng.random() < _SILENT_PART / (1.0 - _PLAIN_PART):
            prompts.append(sample_nonsense(rng))
        elif from_image and rng.random() < _MOTION_PART:
            prompts.append(motion_prompt(rng, video))
        else:
            prompts.append(sample_prompt(rng, video))
    return prompts
