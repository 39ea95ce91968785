"""From the shipped weights to a Flux pipeline, in stages that each resume.

A stage has a number of steps, not of minutes: it ends equally well on a busy machine. Its
randomness comes from `training.seed.SEED` and the step's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import Tensor

from training import shelf
from training.attention import PlainAttention
from training.image import flux, reading, vae
from training.image.examples import GrowingExamples, Growth, examples_of, pick_format, unpack
from training.image.flux import GrownStack
from training.image.reading import PlaceReader
from training.image.text import T5_TOKENS, T5_WIDTH, build_t5_tokenizer
from training.image.vae import normalise_latents, pin_posterior
from training.image.world import Composition
from training.precision import autocast
from training.seed import SEED, randomness
from training.trainer import Schedule, Trainer, average_in

_VAE_BATCH: Final = 4
_READING_BATCH: Final = 128
_FLUX_BATCH: Final = 32

#: Each stage sees other compositions than the one before: its steps count on from here.
_READING_SEED: Final = 12_000_000
_FLUX_SEED: Final = 13_000_000
_POLISH_SEED: Final = 11_000_000
_FIT_SEED: Final = 14_000_000
_DEEP_SEED: Final = 30_000_000

#: Blocks of the transformer that see text and image as one, after `deepen`.
SINGLE_BLOCKS: Final = 8


@dataclass(frozen=True)
class Steps:
    """How many each stage has. The defaults take a night on two cores."""

    vae: int = 360
    reading: int = 1_000
    flux: int = 21_000
    deep: int = 5_000
    polish: int = 6_500
    fit: int = 3_000


@dataclass(frozen=True)
class ImageRecipe:
    """Trains in `work_dir`; `start` is the folder of the pipeline that it goes on from."""

    work_dir: Path
    start: Path
    steps: Steps = field(default_factory=Steps)
    growth: Growth = field(default_factory=Growth)

    def cook(self) -> FluxPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        shipped = shelf.take(self.start)
        autoencoder = self.train_vae(shipped.vae)
        stack = self.train_flux(shipped, autoencoder)
        self.deepen(stack, autoencoder)
        self.polish_decoder(autoencoder)
        self.fit_decoder(autoencoder, stack)
        return flux.build_pipeline(autoencoder, stack)

    def so_far(self) -> FluxPipeline:
        """The pipeline of the averaged weights in the checkpoints that there are."""
        shipped = shelf.take(self.start)
        autoencoder, stack = shipped.vae, self._grown(shipped)
        is_deep = (self.work_dir / "deep.pt").exists()
        if is_deep:
            stack.transformer = flux.deepen(stack.transformer, SINGLE_BLOCKS)
        for module, name in (
            (autoencoder, "vae.pt"),
            (stack, "deep.pt" if is_deep else "flux.pt"),
            (autoencoder.decoder, "decoder.pt"),
            (autoencoder.decoder, "fitted.pt"),
        ):
            path = self.work_dir / name
            if path.exists():
                module.load_state_dict(average_in(path))
        pin_posterior(autoencoder)
        self._set_scale(autoencoder)
        return flux.build_pipeline(autoencoder.eval(), stack.eval())

    def train_vae(self, autoencoder: AutoencoderKL) -> AutoencoderKL:
        """The autoencoder with its averaged weights; from here on its latents stay as they are."""
        autoencoder.to(memory_format=torch.channels_last)
        schedule = Schedule(math.inf, peak_rate=6e-4, steps=self.steps.vae, average_decay=0.99)
        trainer = Trainer(autoencoder, schedule, self.work_dir / "vae.pt")

        def loss_of_step(step: int) -> Tensor:
            with autocast():
                return vae.loss_on(autoencoder, *_images(randomness(step), _VAE_BATCH))

        trainer.run(loss_of_step)
        pin_posterior(autoencoder)
        return autoencoder.eval()

    def train_flux(self, shipped: FluxPipeline, autoencoder: AutoencoderKL) -> GrownStack:
        """The transformer and CLIP with their averaged weights, over a T5 that can read."""
        self._set_scale(autoencoder)
        examples = GrowingExamples(autoencoder, self.work_dir, self.growth)
        examples.grow(0)
        stack = self._grown(shipped)
        self.teach_reading(stack)
        stack.t5.requires_grad_(requires_grad=False)
        schedule = Schedule(math.inf, peak_rate=1.2e-3, steps=self.steps.flux, warmup_steps=200)
        trainer = Trainer(stack, schedule, self.work_dir / "flux.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_FLUX_SEED + step)
            batch = examples.batch(rng, _FLUX_BATCH, step)
            # Each takes a quarter off a step.
            with autocast(), PlainAttention():
                return flux.loss_on(stack, batch, rng)

        trainer.run(loss_of_step)
        return stack.eval()

    def deepen(self, stack: GrownStack, autoencoder: AutoencoderKL) -> None:
        """Go on with more blocks in the transformer, and with more weight on objects."""
        stack.transformer = flux.deepen(stack.transformer, SINGLE_BLOCKS)
        examples = GrowingExamples(autoencoder, self.work_dir, self.growth)
        schedule = Schedule(math.inf, peak_rate=8e-4, steps=self.steps.deep, warmup_steps=300)
        trainer = Trainer(stack, schedule, self.work_dir / "deep.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_DEEP_SEED + step)
            batch = examples.batch(rng, _FLUX_BATCH, self.steps.flux + step)
            with autocast(), PlainAttention():
                return flux.loss_on(stack, batch, rng, objects=True)

        trainer.run(loss_of_step)

    def teach_reading(self, stack: GrownStack) -> None:
        """Train the T5 encoder alone, on text."""
        reader = PlaceReader(stack.t5, T5_WIDTH)
        schedule = Schedule(math.inf, peak_rate=2e-3, steps=self.steps.reading)
        trainer = Trainer(reader, schedule, self.work_dir / "reading.pt")
        tokenizer = build_t5_tokenizer()

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_READING_SEED + step)
            batch = reading.sample_reading(rng, _READING_BATCH, tokenizer, T5_TOKENS)
            return reading.loss_on(reader, *batch)

        trainer.run(loss_of_step)

    def polish(self) -> None:
        """Polish the decoder of the autoencoder that `train_vae` left in the work folder."""
        autoencoder = shelf.take(self.start).vae.to(memory_format=torch.channels_last)
        autoencoder.load_state_dict(average_in(self.work_dir / "vae.pt"))
        pin_posterior(autoencoder)
        self.polish_decoder(autoencoder.eval())

    def polish_decoder(self, autoencoder: AutoencoderKL) -> None:
        """Go on with the decoder alone, which leaves the transformer's latents as they are."""
        schedule = Schedule(math.inf, peak_rate=6e-4, steps=self.steps.polish)
        trainer = Trainer(autoencoder.decoder, schedule, self.work_dir / "decoder.pt")

        def loss_of_step(step: int) -> Tensor:
            images = _images(randomness(_POLISH_SEED + step), _VAE_BATCH)
            with autocast():
                return vae.decoder_loss_on(autoencoder, *images)

        trainer.run(loss_of_step)

    def fit_decoder(self, autoencoder: AutoencoderKL, stack: GrownStack) -> None:
        """Go on with the decoder on what the transformer draws, whose errors it learns to mend."""
        schedule = Schedule(math.inf, peak_rate=6e-4, steps=self.steps.fit)
        trainer = Trainer(autoencoder.decoder, schedule, self.work_dir / "fitted.pt")
        shift, scale = (autoencoder.config[name] for name in ("shift_factor", "scaling_factor"))

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_FIT_SEED + step)
            compositions = _compositions(rng, _VAE_BATCH)
            pixels, weights = vae.to_pixels(compositions), vae.weights_of(compositions)
            with autocast(), PlainAttention():
                examples = examples_of(autoencoder, rng, compositions)
                indices = torch.arange(len(compositions))
                batch = examples.batch_at(
                    indices, indices % 2, autoencoder
                )  # half in regular wording
                drawn = flux.redraw(stack, batch, int(rng.integers(1, 4)))
                latents = unpack(drawn, batch.rows, batch.columns) / scale + shift
                return vae.fitting_loss_on(autoencoder, latents, pixels, weights)

        trainer.run(loss_of_step)

    def _grown(self, shipped: FluxPipeline) -> GrownStack:
        torch.manual_seed(SEED)
        return GrownStack(shipped)

    def _set_scale(self, autoencoder: AutoencoderKL) -> None:
        first = GrowingExamples(autoencoder, self.work_dir, self.growth).first_part()
        normalise_latents(autoencoder, first.latents)


def _images(rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Images of a random format [B, 3, H, W], and what their pixels weigh [B, 1, H, W]."""
    compositions = _compositions(rng, size)
    return vae.to_pixels(compositions), vae.weights_of(compositions)


def _compositions(rng: np.random.Generator, size: int) -> list[Composition]:
    chosen = pick_format(rng)
    return vae.sample_compositions(rng, size, width=chosen.width, height=chosen.height)
