"""From the shipped Wan to one of 128 pixels, with an autoencoder of the same form (ADR 0004).

At twice the size, the autoencoder of 64 pixels restores most shapes that it blurs there: a
convolution knows nothing of an image's size. So it goes on, with more weight on outlines, and the
transformer goes on with its latents, four times the tokens and `_LAYERS` blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor

from training import shelf
from training.precision import autocast
from training.seed import SEED, randomness
from training.trainer import Schedule, Trainer, average_in
from training.video import vae, wan
from training.video.examples import Examples, load_examples, make_examples
from training.video.wan import WanStack
from training.video.world import FRAMES, SHIPPED_SCALE

#: The shipped 64-pixel transformer had 5; with 5, shapes stayed right in one video of two.
_LAYERS: Final = 8
_BATCH: Final = 8
_VIDEOS: Final = 1  # in a step of the autoencoder
_WAN_SEED: Final = 16_000_000
_DECODER_SEED: Final = 17_000_000
_EXAMPLES_SEED: Final = 18_000_000
_VAE_SEED: Final = 19_000_000

LossOnVideos = Callable[[AutoencoderKLWan, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class VideoSteps:
    """How many each stage has. The defaults take a night on one core."""

    autoencoder: int = 2_000
    decoder: int = 2_000
    wan: int = 8_000


@dataclass(frozen=True)
class Parts:
    """The examples: files of so many videos, of which one in four goes on from an image."""

    count: int = 14
    videos: int = 160


@dataclass(frozen=True)
class LargerVideoRecipe:
    """Trains in `work_dir`; `start` is the folder of the pipeline that it goes on from."""

    work_dir: Path
    start: Path
    steps: VideoSteps = field(default_factory=VideoSteps)
    parts: Parts = field(default_factory=Parts)

    def cook(self) -> WanPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        pipeline = self.load_start_pipeline()
        self.train_autoencoder(pipeline)
        stack = _stack_of(pipeline)
        self.train(pipeline, stack)
        self.polish_decoder(pipeline)
        return wan.build_pipeline(pipeline.vae.eval(), stack.eval())

    def so_far(self) -> WanPipeline:
        """The pipeline of the averaged weights in the checkpoints that there are."""
        pipeline = self.load_start_pipeline()
        stack = _stack_of(pipeline)
        for module, name in (
            (pipeline.vae, "video-autoencoder.pt"),
            (pipeline.vae.decoder, "video-decoder.pt"),
            (stack, "video-wan.pt"),
        ):
            path = self.work_dir / name
            if path.exists():
                module.load_state_dict(average_in(path))
        return wan.build_pipeline(pipeline.vae.eval(), stack.eval())

    def train_autoencoder(self, pipeline: WanPipeline) -> None:
        """Go on with both halves at the larger size; the latents keep their scale."""
        schedule = Schedule(math.inf, peak_rate=4e-4, steps=self.steps.autoencoder)
        trainer = Trainer(pipeline.vae, schedule, self.work_dir / "video-autoencoder.pt")
        trainer.run(lambda step: self._loss_of(vae.loss_on, pipeline, _VAE_SEED + step))

    def train(self, pipeline: WanPipeline, stack: WanStack) -> None:
        """Train the transformer; its text encoder can read already."""
        examples = self.examples(pipeline)
        stack.text_encoder.requires_grad_(requires_grad=False)
        schedule = Schedule(math.inf, peak_rate=1e-3, steps=self.steps.wan)
        trainer = Trainer(stack, schedule, self.work_dir / "video-wan.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_WAN_SEED + step)
            part = examples[rng.integers(len(examples))]
            return wan.loss_on(stack, part.batch(rng, _BATCH, pipeline.vae), rng)

        trainer.run(loss_of_step)

    def examples(self, pipeline: WanPipeline) -> list[Examples]:
        """All parts; those that are missing are made. They are scaled as the shipped ones were."""
        return [self._part(pipeline, number) for number in range(self.parts.count)]

    def polish(self) -> None:
        """Run the autoencoder's stages alone."""
        pipeline = self.load_start_pipeline()
        self.train_autoencoder(pipeline)
        self.polish_decoder(pipeline)

    def polish_decoder(self, pipeline: WanPipeline) -> None:
        """Go on with the decoder alone, at the larger size."""
        schedule = Schedule(math.inf, peak_rate=4e-4, steps=self.steps.decoder)
        trainer = Trainer(pipeline.vae.decoder, schedule, self.work_dir / "video-decoder.pt")
        trainer.run(lambda step: self._loss_of(vae.decoder_loss_on, pipeline, _DECODER_SEED + step))

    def _loss_of(self, loss_on: LossOnVideos, pipeline: WanPipeline, seed: int) -> Tensor:
        rng = randomness(seed)
        pixels, weights = vae.sample_batch(rng, _VIDEOS, frames=FRAMES, scale=SHIPPED_SCALE)
        with autocast():
            return loss_on(pipeline.vae, pixels, vae.weigh_outlines(weights))

    def _part(self, pipeline: WanPipeline, number: int) -> Examples:
        path = self.work_dir / f"video-examples-{number}.pt"
        if not path.exists():
            free = self.parts.videos // 4
            examples = make_examples(
                pipeline.vae,
                usual=self.parts.videos - free,
                free=free,
                seed=_EXAMPLES_SEED + number,
                scale=SHIPPED_SCALE,
            )
            unfinished = path.with_suffix(".unfinished")
            examples.save(unfinished)
            unfinished.replace(path)
        return load_examples(path)

    def load_start_pipeline(self) -> WanPipeline:
        """The pipeline that it goes on from."""
        pipeline = shelf.take(self.start)
        vae.lay_out(pipeline.vae)
        return pipeline


def _stack_of(pipeline: WanPipeline) -> WanStack:
    torch.manual_seed(SEED)
    stack = WanStack()
    stack.transformer = wan.deepen(pipeline.transformer, _LAYERS)
    stack.text_encoder = pipeline.text_encoder
    return stack
