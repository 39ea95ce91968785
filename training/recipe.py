"""The whole way from nothing to a Flux pipeline, in stages that each resume from a file.

Every stage's randomness comes from `SEED` and the step's number, so that a run that was cut short
goes on as if it had not been. Only the number of steps that fit in the minutes differs by machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import Tensor

from training import flux, reading, vae
from training.examples import Examples, load_examples, make_examples
from training.flux import FluxStack, build_pipeline
from training.precision import autocast
from training.reading import Reader
from training.text import T5_TOKENS, T5_WIDTH, build_t5_tokenizer
from training.trainer import Schedule, Trainer
from training.vae import build_vae

SEED: Final = 1

_VAE_BATCH: Final = 12
#: Reading takes a minute or two, and what does not read well cannot draw what is meant.
READING_STEPS: Final = 800
_READING_BATCH: Final = 128
_FLUX_BATCH: Final = 32

#: Each stage sees other scenes than the one before: its steps count on from here.
_READING_SEED: Final = 2_000_000
_POLISH_SEED: Final = 1_000_000


@dataclass(frozen=True)
class Format:
    """An image's size in pixels, and how much of the examples and the training it gets."""

    width: int
    height: int
    scenes: int
    share: float

    @property
    def examples_file(self) -> str:
        return f"examples-{self.width}x{self.height}.pt"

    def make_examples(self, autoencoder: AutoencoderKL) -> Examples:
        size = {"width": self.width, "height": self.height}
        return make_examples(autoencoder, count=self.scenes, seed=SEED, **size)


#: Square comes first: the autoencoder starts with it, and the latents' scale is taken from it.
FORMATS: Final = (
    Format(128, 128, scenes=8_000, share=0.66),
    Format(128, 96, scenes=2_400, share=0.2),
    Format(96, 128, scenes=1_200, share=0.06),
    Format(128, 64, scenes=1_200, share=0.04),
    Format(64, 128, scenes=1_200, share=0.04),
)

#: Parts of the minutes; making the examples takes the rest.
_VAE_PART: Final = 0.28
_FLUX_PART: Final = 0.6
_POLISH_PART: Final = 0.05


@dataclass(frozen=True)
class Recipe:
    """Trains in `work_dir`, for about `minutes` on two idle cores."""

    work_dir: Path
    minutes: float

    def cook(self) -> FluxPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        autoencoder = self.train_vae()
        stack = self.train_flux(autoencoder, self.examples(autoencoder))
        self.polish_decoder(autoencoder)
        return build_pipeline(autoencoder, stack)

    def train_vae(self) -> AutoencoderKL:
        """The autoencoder with its averaged weights, its latents not yet normalised."""
        torch.manual_seed(SEED)
        # Convolutions take three quarters of the time so.
        model = build_vae().to(memory_format=torch.channels_last)
        schedule = Schedule(self.minutes * _VAE_PART, peak_rate=2e-3)
        trainer = Trainer(model, schedule, self.work_dir / "vae.pt")

        def loss_of_step(step: int) -> Tensor:
            pixels, weights = vae.sample_batch(randomness(step), _VAE_BATCH)
            with autocast():
                return vae.loss_on(model, pixels, weights)

        trainer.run(loss_of_step)
        vae.pin_posterior(model)
        return model.eval()

    def examples(self, autoencoder: AutoencoderKL) -> list[Examples]:
        """The transformer's examples by format; sets the autoencoder's factors to fit them."""
        made = [self._examples_of(autoencoder, one) for one in FORMATS]
        vae.normalise_latents(autoencoder, made[0].latents)
        return made

    def _examples_of(self, autoencoder: AutoencoderKL, chosen: Format) -> Examples:
        path = self.work_dir / chosen.examples_file
        if not path.exists():
            chosen.make_examples(autoencoder).save(path)
        return load_examples(path)

    def train_flux(self, autoencoder: AutoencoderKL, examples: list[Examples]) -> FluxStack:
        """The transformer and CLIP with their averaged weights, over a T5 that can read."""
        torch.manual_seed(SEED)
        stack = FluxStack()
        self.teach_reading(stack)
        # As it is now: images teach it nothing about words, and at first they unteach it.
        stack.t5.requires_grad_(requires_grad=False)
        schedule = Schedule(self.minutes * _FLUX_PART, peak_rate=1.2e-3, warmup_steps=200)
        trainer = Trainer(stack, schedule, self.work_dir / "flux.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(step)
            chosen = examples[pick_format(rng)]
            return flux.loss_on(stack, chosen.batch(rng, _FLUX_BATCH, autoencoder), rng)

        trainer.run(loss_of_step)
        return stack.eval()

    def teach_reading(self, stack: FluxStack) -> None:
        """Train the T5 encoder alone, on text."""
        schedule = Schedule(math.inf, peak_rate=2e-3, steps=READING_STEPS)
        trainer = Trainer(Reader(stack.t5, T5_WIDTH), schedule, self.work_dir / "reading.pt")
        teach_reading(trainer, _READING_SEED, build_t5_tokenizer(), T5_TOKENS)

    def polish_decoder(self, autoencoder: AutoencoderKL) -> None:
        """Go on with the decoder alone, which leaves the transformer's latents as they are."""
        schedule = Schedule(self.minutes * _POLISH_PART, peak_rate=1e-3)
        trainer = Trainer(autoencoder.decoder, schedule, self.work_dir / "decoder.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_POLISH_SEED + step)
            chosen = FORMATS[pick_format(rng)]
            pixels, weights = vae.sample_batch(
                rng, _VAE_BATCH, width=chosen.width, height=chosen.height
            )
            with autocast():
                return vae.decoder_loss_on(autoencoder, pixels, weights)

        trainer.run(loss_of_step)


def teach_reading(trainer: Trainer, first_step: int, tokenizer: object, length: int) -> None:
    """Train a `Reader` on prompts of ``length`` tokens; chance is that of the steps from
    ``first_step`` on."""

    def loss_of_step(step: int) -> Tensor:
        rng = randomness(first_step + step)
        asked = reading.sample_reading(rng, _READING_BATCH, tokenizer, length)
        return reading.loss_on(trainer.module, *asked)

    trainer.run(loss_of_step)


def pick_format(rng: np.random.Generator) -> int:
    """The number of a format in `FORMATS`, as often as its share says."""
    return int(rng.choice(len(FORMATS), p=[one.share for one in FORMATS]))


def randomness(step: int) -> np.random.Generator:
    """All that a step draws by chance; seeds torch as well."""
    torch.manual_seed(SEED * 1_000_003 + step)
    return np.random.default_rng([SEED, step])
