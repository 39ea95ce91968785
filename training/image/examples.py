"""The transformer's training examples, which grow while it trains.

Encoding takes longer than learning from what is encoded, so training begins with few examples. They
come in parts, each of one image size. A part is a file that is made once; which part holds what
depends on its number alone, and which parts there are on the training step alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer, T5TokenizerFast

from training.image.phrasing import STRANGE, plain_prompt, sample_prompt
from training.image.text import (
    CLIP_TOKENS,
    T5_TOKENS,
    build_clip_tokenizer,
    build_t5_tokenizer,
)
from training.image.vae import encode, sample_compositions
from training.image.world import Composition
from training.seed import randomness
from training.text import token_ids
from training.words import sample_nonsense

_PROMPTS: Final = 6
_PLAIN_PART: Final = 0.5
_NONSENSE_PART: Final = 0.02
_SEED: Final = 6_000_000


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # float32 [B, rows × columns, 48], packed two by two
    t5_ids: Tensor  # int64 [B, T5_TOKENS]
    clip_ids: Tensor  # int64 [B, CLIP_TOKENS]
    rows: int
    columns: int


@dataclass(frozen=True)
class Examples:
    """Latents before scaling and, for each composition, the tokens of several ways to ask for it.

    The first way is the regular wording.
    """

    latents: Tensor  # float32 [N, 12, H/16, W/16]
    t5_ids: Tensor  # int16 [N, P, T5_TOKENS]
    clip_ids: Tensor  # int16 [N, P, CLIP_TOKENS]

    def pick(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Random compositions, and one prompt of each: two int64 [B]."""
        compositions = torch.from_numpy(rng.integers(len(self.latents), size=size))
        prompts = rng.integers(self.t5_ids.shape[1], size=size)
        return compositions, torch.from_numpy(np.where(rng.random(size) < _PLAIN_PART, 0, prompts))

    def batch(self, rng: np.random.Generator, size: int, vae: AutoencoderKL) -> Batch:
        """Random compositions, each with one of its prompts, scaled as the pipeline scales."""
        return self.batch_at(*self.pick(rng, size), vae)

    def batch_at(self, compositions: Tensor, prompts: Tensor, vae: AutoencoderKL) -> Batch:
        """These compositions with these of their prompts, both int64 [B]."""
        shift, scale = vae.config["shift_factor"], vae.config["scaling_factor"]
        return Batch(
            pack((self.latents[compositions] - shift) * scale),
            self.t5_ids[compositions, prompts].long(),
            self.clip_ids[compositions, prompts].long(),
            rows=self.latents.shape[2] // 2,
            columns=self.latents.shape[3] // 2,
        )

    def save(self, path: Path) -> None:
        torch.save((self.latents, self.t5_ids, self.clip_ids), path)


@dataclass(frozen=True)
class Format:
    """An image's size in pixels, and how much of the examples and the training it gets."""

    width: int
    height: int
    share: float


#: The sizes that requests are cropped from. fal's default is 4:3; 16:9 is cut from 256 × 160. The
#: smallest is for entries that ask for speed by `native_size`.
FORMATS: Final = (
    Format(256, 256, share=0.36),
    Format(256, 192, share=0.26),
    Format(192, 256, share=0.1),
    Format(256, 160, share=0.09),
    Format(160, 256, share=0.05),
    Format(256, 128, share=0.03),
    Format(128, 256, share=0.03),
    Format(128, 128, share=0.08),
)


@dataclass(frozen=True)
class Growth:
    """How many examples a part has, how many parts there are at the first step and in the end, and
    after how many steps one more of them comes."""

    examples: int = 500
    first: int = 10
    most: int = 60
    every_steps: int = 150

    def parts_at(self, step: int) -> int:
        return min(self.most, self.first + step // self.every_steps)


class GrowingExamples:
    """All parts up to a step's, by format; ``autoencoder`` makes missing files in ``folder``."""

    def __init__(self, autoencoder: AutoencoderKL, folder: Path, growth: Growth) -> None:
        self._autoencoder = autoencoder
        self._folder = folder
        self._growth = growth
        self._parts: dict[Format, list[Examples]] = {fmt: [] for fmt in FORMATS}
        self._count = 0

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Examples of one format, scaled as the Flux pipeline scales."""
        return self.part(rng, step).batch(rng, size, self._autoencoder)

    def part(self, rng: np.random.Generator, step: int) -> Examples:
        """A random part; a format comes as often as its share says."""
        self.grow(step)
        parts = self._parts[pick_format(rng)]
        return parts[rng.integers(len(parts))]

    def grow(self, step: int) -> None:
        """Load or make the parts of all steps up to ``step``."""
        while self._count < self._growth.parts_at(step):
            chosen = _format_of(self._count)
            self._parts[chosen].append(self._part(self._count, chosen))
            self._count += 1

    def first_part(self) -> Examples:
        """Those of square images from which the latents' scale is taken."""
        return self._part(0, FORMATS[0])

    def _part(self, number: int, chosen: Format) -> Examples:
        path = self._folder / f"examples-{number}.pt"
        if not path.exists():
            rng = randomness(_SEED + number)
            unfinished = path.with_suffix(".unfinished")
            make_examples(self._autoencoder, rng, self._growth.examples, chosen).save(unfinished)
            unfinished.replace(path)
        return load_examples(path)


def load_examples(path: Path) -> Examples:
    return Examples(*torch.load(path, weights_only=True))


def pick_format(rng: np.random.Generator) -> Format:
    """One of `FORMATS`, as often as its share says."""
    return FORMATS[rng.choice(len(FORMATS), p=[fmt.share for fmt in FORMATS])]


def make_examples(
    autoencoder: AutoencoderKL, rng: np.random.Generator, count: int, chosen: Format
) -> Examples:
    """Render, encode and phrase ``count`` compositions of the training split."""
    compositions = sample_compositions(rng, count, width=chosen.width, height=chosen.height)
    return examples_of(autoencoder, rng, compositions)


def examples_of(
    autoencoder: AutoencoderKL, rng: np.random.Generator, compositions: list[Composition]
) -> Examples:
    """Encode and phrase compositions of one size."""
    prompts = [prompt for composition in compositions for prompt in _prompts(rng, composition)]
    shape = (len(compositions), _PROMPTS, -1)
    t5_tokenizer, clip_tokenizer = _tokenizers()
    t5 = token_ids(t5_tokenizer, prompts, T5_TOKENS).reshape(shape)
    clip = token_ids(clip_tokenizer, prompts, CLIP_TOKENS).reshape(shape)
    return Examples(encode(autoencoder, compositions), t5, clip)


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] to [B, (H/2)(W/2), 4C], as Flux packs them."""
    batch, channels, height, width = latents.shape
    cells = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(packed: Tensor, rows: int, columns: int) -> Tensor:
    """[B, rows × columns, 4C] to [B, C, 2 × rows, 2 × columns]: the reverse of `pack`."""
    cells = packed.view(len(packed), rows, columns, -1, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(packed), -1, 2 * rows, 2 * columns)


@cache
def _tokenizers() -> tuple[T5TokenizerFast, CLIPTokenizer]:
    return build_t5_tokenizer(), build_clip_tokenizer()


def _format_of(part: int) -> Format:
    """Each format once, then by chance."""
    return FORMATS[part] if part < len(FORMATS) else pick_format(randomness(_SEED + part))


def _prompts(rng: np.random.Generator, composition: Composition) -> list[str]:
    prompts = [plain_prompt(composition)]
    while len(prompts) < _PROMPTS:
        nonsense = rng.random() < _NONSENSE_PART
        prompts.append(
            sample_nonsense(rng, STRANGE) if nonsense else sample_prompt(rng, composition)
        )
    return prompts
