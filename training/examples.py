"""The transformer's training examples: latents of rendered scenes, each with tokenized prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.phrasing import plain_prompt, sample_nonsense, sample_prompt
from training.text import (
    CLIP_TOKENS,
    T5_TOKENS,
    build_clip_tokenizer,
    build_t5_tokenizer,
    token_ids,
)
from training.vae import encode
from training.world import Scene, sample_scene

_PROMPTS_PER_SCENE = 6
_PLAIN_PART = 0.5
_NONSENSE_PART = 0.02
_VAGUE_PART = 0.03
_PAIR_PART = 0.65


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # float32 [B, rows × columns, 48], packed two by two
    t5_ids: Tensor  # int64 [B, T5_TOKENS]
    clip_ids: Tensor  # int64 [B, CLIP_TOKENS]
    rows: int
    columns: int


@dataclass(frozen=True)
class Examples:
    """Latents before scaling and, for each scene, the tokens of several ways to ask for it.

    The first way is the regular wording.
    """

    latents: Tensor  # float32 [N, 12, H/16, W/16]
    t5_ids: Tensor  # int16 [N, P, T5_TOKENS]
    clip_ids: Tensor  # int16 [N, P, CLIP_TOKENS]

    def pick(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Random scenes, and one prompt of each: two int64 [B]."""
        scenes = torch.from_numpy(rng.integers(len(self.latents), size=size))
        prompts = rng.integers(self.t5_ids.shape[1], size=size)
        return scenes, torch.from_numpy(np.where(rng.random(size) < _PLAIN_PART, 0, prompts))

    def batch(self, rng: np.random.Generator, size: int, vae: AutoencoderKL) -> Batch:
        """Random scenes, each with one of its prompts, scaled as the pipeline scales."""
        return self.batch_at(*self.pick(rng, size), vae)

    def batch_at(self, scenes: Tensor, prompts: Tensor, vae: AutoencoderKL) -> Batch:
        """These scenes with these of their prompts, both int64 [B]."""
        shift, scale = vae.config["shift_factor"], vae.config["scaling_factor"]
        return Batch(
            pack((self.latents[scenes] - shift) * scale),
            self.t5_ids[scenes, prompts].long(),
            self.clip_ids[scenes, prompts].long(),
            rows=self.latents.shape[2] // 2,
            columns=self.latents.shape[3] // 2,
        )

    def save(self, path: Path) -> None:
        torch.save((self.latents, self.t5_ids, self.clip_ids), path)


def load_examples(path: Path) -> Examples:
    return Examples(*torch.load(path, weights_only=True))


def make_examples(
    vae: AutoencoderKL, *, count: int, seed: int, width: int, height: int
) -> Examples:
    """Render, encode and phrase `count` scenes of the training split, all of one size."""
    rng = np.random.default_rng(seed)
    scenes = [
        sample_scene(rng, pair=bool(rng.random() < _PAIR_PART), width=width, height=height)
        for _ in range(count)
    ]
    prompts = [prompt for scene in scenes for prompt in _prompts(rng, scene)]
    shape = (count, _PROMPTS_PER_SCENE, -1)
    t5 = token_ids(build_t5_tokenizer(), prompts, T5_TOKENS).reshape(shape)
    clip = token_ids(build_clip_tokenizer(), prompts, CLIP_TOKENS).reshape(shape)
    return Examples(encode(vae, scenes), t5, clip)


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] to [B, (H/2)(W/2), 4C], as Flux packs them."""
    batch, channels, height, width = latents.shape
    cells = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(packed: Tensor, rows: int, columns: int) -> Tensor:
    """[B, rows × columns, 4C] to [B, C, 2 × rows, 2 × columns]: the reverse of `pack`."""
    cells = packed.view(len(packed), rows, columns, -1, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(packed), -1, 2 * rows, 2 * columns)


def _prompts(rng: np.random.Generator, scene: Scene) -> list[str]:
    prompts = [plain_prompt(scene)]
    while len(prompts) < _PROMPTS_PER_SCENE:
        nonsense = rng.random() < _NONSENSE_PART
        asked = sample_prompt(rng, scene, vague=_VAGUE_PART)
        prompts.append(sample_nonsense(rng) if nonsense else asked)
    return prompts
