"""From the Flux recipe's autoencoder and examples to an SDXL pipeline, in stages as there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor

from training import sdxl, vae
from training.clip_pair import POOLED_WIDTH, STATE_WIDTH, ClipPair
from training.examples import Examples, load_examples
from training.reading import PooledReader
from training.recipe import (
    FORMATS,
    READING_STEPS,
    SEED,
    Format,
    pick_format,
    randomness,
    teach_reading,
)
from training.sdxl import Scale, SdxlStack
from training.text import CLIP_TOKENS, build_clip_tokenizer
from training.trainer import Schedule, Trainer

_BATCH: Final = 32

#: Its steps count on from here, as those of the Flux recipe's stages do from elsewhere.
_READING_SEED: Final = 4_000_000
_SEED: Final = 5_000_000


@dataclass(frozen=True)
class SdxlRecipe:
    """Trains in `work_dir`, for about `minutes` on two idle cores.

    `flux_dir` is the work directory of a Flux recipe whose autoencoder is trained. It is only read:
    examples that it lacks are made in `work_dir`.
    """

    work_dir: Path
    minutes: float
    flux_dir: Path
    reading_steps: int = READING_STEPS

    def cook(self) -> StableDiffusionXLPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        autoencoder = self.take_vae()
        examples = [self._examples_of(autoencoder, one) for one in FORMATS]
        scale = sdxl.scale_of(examples[0].latents)
        stack = self.train(examples, scale)
        return sdxl.build_pipeline(sdxl.with_scale(self.polished(autoencoder), scale), stack)

    def take_vae(self) -> AutoencoderKL:
        """The autoencoder that the examples are made with."""
        model = vae.build_vae()
        model.load_state_dict(_average_in(self.flux_dir / "vae.pt"))
        vae.pin_posterior(model)
        return model.eval()

    def polished(self, autoencoder: AutoencoderKL) -> AutoencoderKL:
        """The same with its better decoder, where the Flux recipe came to that."""
        path = self.flux_dir / "decoder.pt"
        if path.exists():
            autoencoder.decoder.load_state_dict(_average_in(path))
        return autoencoder

    def train(self, examples: list[Examples], scale: Scale) -> SdxlStack:
        """The UNet with its averaged weights, over text encoders that can read."""
        torch.manual_seed(SEED)
        stack = SdxlStack()
        self.teach_reading(stack.texts)
        # As the Flux recipe does with its T5: drawing would first unteach them.
        stack.texts.requires_grad_(requires_grad=False)
        schedule = Schedule(self.minutes, peak_rate=1.2e-3, warmup_steps=200)
        trainer = Trainer(stack, schedule, self.work_dir / "sdxl.pt")
        noise = sdxl.Noise()

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_SEED + step)
            batch = sdxl.pick_batch(examples[pick_format(rng)], rng, _BATCH, scale)
            return sdxl.loss_on(stack, batch, noise, rng)

        trainer.run(loss_of_step)
        return stack.eval()

    def teach_reading(self, texts: ClipPair) -> None:
        """Train the text encoders alone, on text."""
        reader = PooledReader(texts, STATE_WIDTH, POOLED_WIDTH)
        schedule = Schedule(math.inf, peak_rate=1e-3, steps=self.reading_steps)
        trainer = Trainer(reader, schedule, self.work_dir / "sdxl-reading.pt")
        teach_reading(trainer, _READING_SEED, build_clip_tokenizer(), CLIP_TOKENS)

    def _examples_of(self, autoencoder: AutoencoderKL, chosen: Format) -> Examples:
        own = self.work_dir / chosen.examples_file
        given = self.flux_dir / chosen.examples_file
        if not own.exists() and not given.exists():
            chosen.make_examples(autoencoder).save(own)
        return load_examples(given if given.exists() else own)


def _average_in(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["average"]
