"""From the autoencoder of a trained Flux pipeline to an SDXL pipeline.

It goes on from the shipped UNet and text encoders, as Flux's recipe does from the shipped Flux.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor

from training import shelf
from training.image import reading, sdxl
from training.image.clip_pair import POOLED_WIDTH, STATE_WIDTH
from training.image.examples import GrowingExamples, Growth
from training.image.reading import PooledPlaceReader
from training.image.sdxl import Scale, SdxlStack
from training.image.text import CLIP_TOKENS, grown_clip
from training.seed import SEED, randomness
from training.trainer import Schedule, Trainer, average_in

_BATCH: Final = 16
_READING_BATCH: Final = 128
_READING_SEED: Final = 14_000_000
_SEED: Final = 15_000_000


@dataclass(frozen=True)
class SdxlSteps:
    """How many each stage has. The defaults take a night on two cores."""

    reading: int = 2_000
    sdxl: int = 20_000


@dataclass(frozen=True)
class SdxlImageRecipe:
    """Trains in `work_dir`. `start` is the folder of the SDXL pipeline that it goes on from, and
    `flux` that of the Flux pipeline whose autoencoder and examples it takes."""

    work_dir: Path
    start: Path
    flux: Path
    steps: SdxlSteps = field(default_factory=SdxlSteps)
    growth: Growth = field(default_factory=Growth)

    def cook(self) -> StableDiffusionXLPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        stack = self._grown()
        self.teach_reading(stack)
        self.train(stack)
        return self._pipeline(stack)

    def so_far(self) -> StableDiffusionXLPipeline:
        """The pipeline of the averaged weights in the checkpoints that there are."""
        stack = self._grown()
        path = self.work_dir / "sdxl.pt"
        if path.exists():
            stack.load_state_dict(average_in(path))
        return self._pipeline(stack.eval())

    def teach_reading(self, stack: SdxlStack) -> None:
        """Train the text encoders alone, on text."""
        reader = PooledPlaceReader(stack.texts, STATE_WIDTH, POOLED_WIDTH)
        schedule = Schedule(math.inf, peak_rate=1e-3, steps=self.steps.reading)
        trainer = Trainer(reader, schedule, self.work_dir / "sdxl-reading.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_READING_SEED + step)
            batch = reading.sample_reading(rng, _READING_BATCH, stack.tokenizer, CLIP_TOKENS)
            return reading.loss_on(reader, *batch)

        trainer.run(loss_of_step)

    def train(self, stack: SdxlStack) -> None:
        """Train the UNet over text encoders that can read."""
        stack.texts.requires_grad_(requires_grad=False)
        autoencoder = self._autoencoder()
        examples = GrowingExamples(autoencoder, self.work_dir, self.growth)
        scale, noise = sdxl.scale_of(examples.first_part().latents), sdxl.Noise()
        schedule = Schedule(
            math.inf,
            peak_rate=8e-4,
            steps=self.steps.sdxl,
            warmup_steps=200,
            average_decay=0.999,
        )
        trainer = Trainer(stack, schedule, self.work_dir / "sdxl.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_SEED + step)
            return sdxl.loss_on(stack, self._batch(examples, rng, step, scale), noise, rng)

        trainer.run(loss_of_step)
        stack.eval()

    def _batch(
        self, examples: GrowingExamples, rng: np.random.Generator, step: int, scale: Scale
    ) -> sdxl.Batch:
        return sdxl.pick_batch(examples.part(rng, step), rng, _BATCH, scale)

    def _grown(self) -> SdxlStack:
        torch.manual_seed(SEED)
        shipped = shelf.take(self.start)
        stack = SdxlStack()
        stack.unet.load_state_dict(shipped.unet.state_dict())
        stack.texts.text_encoder = grown_clip(shipped.text_encoder, shipped.tokenizer)
        stack.texts.text_encoder_2 = grown_clip(shipped.text_encoder_2, shipped.tokenizer_2)
        return stack

    def _pipeline(self, stack: SdxlStack) -> StableDiffusionXLPipeline:
        autoencoder = self._autoencoder()
        first = GrowingExamples(autoencoder, self.work_dir, self.growth).first_part()
        scaled = sdxl.with_scale(autoencoder, sdxl.scale_of(first.latents))
        return sdxl.build_pipeline(scaled, stack)

    def _autoencoder(self) -> AutoencoderKL:
        return shelf.take(self.flux).vae.to(memory_format=torch.channels_last)
