"""The whole way from nothing to a Wan pipeline, in stages that each resume from a file.

As in the image models' recipe a step's randomness comes from the seed and the step's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor

from training import attributes
from training.attributes import Asked, AttributeReader
from training.precision import autocast
from training.seed import SEED, randomness
from training.text import WIDTH
from training.trainer import Schedule, Trainer
from training.video import vae, wan
from training.video.examples import Examples, load_examples, make_examples
from training.video.phrasing import sample_prompt
from training.video.text import TOKENS, build_tokenizer
from training.video.wan import WanStack
from training.video.world import BACKGROUNDS, COLOURS, FRAMES, MOTIONS, SHAPES, sample_video

_VAE_BATCH: Final = 6
_DECODER_BATCH: Final = 4
_WAN_BATCH: Final = 12
READING_STEPS: Final = 300

#: Videos that begin as their prompt leaves it open, and videos that go on from an image.
_USUAL_VIDEOS: Final = 1_600
_FREE_VIDEOS: Final = 600

#: Each stage sees other videos than the one before: its steps count on from here.
_VAE_SEED: Final = 10_000_000
_READING_SEED: Final = 11_000_000
_WAN_SEED: Final = 12_000_000
_DECODER_SEED: Final = 13_000_000

#: Parts of the minutes; reading and making the examples take the rest.
_VAE_PART: Final = 0.28
_WAN_PART: Final = 0.5
_DECODER_PART: Final = 0.14


@dataclass(frozen=True)
class VideoRecipe:
    """Trains in `work_dir`, for about `minutes` on one idle core."""

    work_dir: Path
    minutes: float
    reading_steps: int = READING_STEPS
    usual_videos: int = _USUAL_VIDEOS
    free_videos: int = _FREE_VIDEOS

    def cook(self) -> WanPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        autoencoder = self.train_vae()
        stack = self.train_wan(autoencoder, self.examples(autoencoder))
        self.polish_decoder(autoencoder)
        return wan.build_pipeline(autoencoder, stack)

    def train_vae(self) -> AutoencoderKLWan:
        """The autoencoder with its averaged weights, its latents not yet normalised."""
        torch.manual_seed(SEED)
        model = vae.build_vae()
        vae.lay_out(model)
        schedule = Schedule(self.minutes * _VAE_PART, peak_rate=2e-3)
        trainer = Trainer(model, schedule, self.work_dir / "video-vae.pt")

        def loss_of_step(step: int) -> Tensor:
            pixels, weights = vae.sample_batch(randomness(_VAE_SEED + step), _VAE_BATCH)
            with autocast():
                return vae.loss_on(model, pixels, weights)

        trainer.run(loss_of_step)
        vae.pin_posterior(model)
        return model.eval()

    def examples(self, autoencoder: AutoencoderKLWan) -> Examples:
        """The transformer's examples; sets the autoencoder's factors to fit them."""
        path = self.work_dir / "video-examples.pt"
        if not path.exists():
            new_examples = make_examples(
                autoencoder, usual=self.usual_videos, free=self.free_videos, seed=SEED
            )
            new_examples.save(path)
        examples = load_examples(path)
        vae.normalise_latents(autoencoder, examples.latents)
        return examples

    def train_wan(self, autoencoder: AutoencoderKLWan, examples: Examples) -> WanStack:
        """The transformer with its averaged weights, over a text encoder that can read."""
        torch.manual_seed(SEED)
        stack = WanStack()
        self.teach_reading(stack)
        # As it is now: at first videos would unteach it.
        stack.text_encoder.requires_grad_(requires_grad=False)
        schedule = Schedule(self.minutes * _WAN_PART, peak_rate=1.5e-3, warmup_steps=100)
        trainer = Trainer(stack, schedule, self.work_dir / "video-wan.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_WAN_SEED + step)
            return wan.loss_on(stack, examples.batch(rng, _WAN_BATCH, autoencoder), rng)

        trainer.run(loss_of_step)
        return stack.eval()

    def teach_reading(self, stack: WanStack) -> None:
        """Train the text encoder alone, on text."""
        answers = {
            "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "background": BACKGROUNDS,
        }  # fmt: skip
        reader = AttributeReader(stack.text_encoder, WIDTH, answers)
        schedule = Schedule(math.inf, peak_rate=2e-3, steps=self.reading_steps)
        trainer = Trainer(reader, schedule, self.work_dir / "video-reading.pt")
        attributes.teach(trainer, _READING_SEED, build_tokenizer(), TOKENS, _ask)

    def polish_decoder(self, autoencoder: AutoencoderKLWan) -> None:
        """Go on with the decoder alone, which leaves the transformer's latents as they are."""
        schedule = Schedule(self.minutes * _DECODER_PART, peak_rate=1e-3)
        trainer = Trainer(autoencoder.decoder, schedule, self.work_dir / "video-decoder.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_DECODER_SEED + step)
            pixels, weights = vae.sample_batch(rng, _DECODER_BATCH, frames=FRAMES)
            with autocast():
                return vae.decoder_loss_on(autoencoder, pixels, weights)

        trainer.run(loss_of_step)


def _ask(rng: np.random.Generator) -> Asked:
    video = sample_video(rng)
    return sample_prompt(rng, video), {
        "colour": video.colour,
        "shape": video.shape,
        "motion": video.motion,
        "background": video.background,
    }
