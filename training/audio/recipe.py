"""The whole way from nothing to a Stable Audio pipeline, in stages that each resume from a file.

As in the image models' recipe, stages have steps, not minutes, and a step's randomness comes from
the seed and the step's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderOobleck, StableAudioPipeline
from torch import Tensor

from training import attributes
from training.attributes import Asked, AttributeReader
from training.audio import stable_audio, vae
from training.audio.examples import Examples, load_examples, make_examples
from training.audio.phrasing import sample_prompt
from training.audio.stable_audio import AudioStack
from training.audio.text import TOKENS, build_tokenizer
from training.audio.world import LOUDNESSES, MANNERS, PITCHES, sample_audio
from training.seed import SEED, randomness
from training.text import WIDTH
from training.trainer import Schedule, Trainer

_VAE_BATCH: Final = 4
_AUDIO_BATCH: Final = 8
AUDIOS: Final = 800

#: Each stage hears other recordings than the one before: its steps count on from here.
_VAE_SEED: Final = 20_000_000
_READING_SEED: Final = 21_000_000
_AUDIO_SEED: Final = 22_000_000


@dataclass(frozen=True)
class AudioSteps:
    """How many each stage has. The defaults take three hours of one core."""

    vae: int = 2_500
    reading: int = 300
    audio: int = 5_000


@dataclass(frozen=True)
class AudioRecipe:
    """Trains in `work_dir`, on the latents of `audios` recordings."""

    work_dir: Path
    steps: AudioSteps = field(default_factory=AudioSteps)
    audios: int = AUDIOS

    def cook(self) -> StableAudioPipeline:
        """Run every stage that is not done yet; the trained pipeline, in float32."""
        autoencoder = self.train_vae()
        stack = self.train_audio(self.examples(autoencoder))
        return stable_audio.build_pipeline(autoencoder, stack)

    def train_vae(self) -> AutoencoderOobleck:
        """The autoencoder with its averaged weights, its latents not yet normalised."""
        torch.manual_seed(SEED)
        model = vae.build_vae()
        schedule = Schedule(math.inf, peak_rate=2e-3, steps=self.steps.vae)
        trainer = Trainer(model, schedule, self.work_dir / "sound-vae.pt")

        def loss_of_step(step: int) -> Tensor:
            return vae.loss_on(model, vae.sample_batch(randomness(_VAE_SEED + step), _VAE_BATCH))

        trainer.run(loss_of_step)
        vae.pin_posterior(model)
        return model.eval()

    def examples(self, autoencoder: AutoencoderOobleck) -> Examples:
        """The transformer's examples; normalises the autoencoder's latents to fit them."""
        path = self.work_dir / "sound-examples.pt"
        if not path.exists():
            make_examples(autoencoder, count=self.audios, seed=SEED).save(path)
        examples = load_examples(path)
        return replace(examples, latents=vae.normalise_latents(autoencoder, examples.latents))

    def train_audio(self, examples: Examples) -> AudioStack:
        """The transformer with its averaged weights, over a text encoder that can read."""
        torch.manual_seed(SEED)
        stack = AudioStack()
        self.teach_reading(stack)
        stack.text_encoder.requires_grad_(requires_grad=False)
        schedule = Schedule(math.inf, peak_rate=1.5e-3, steps=self.steps.audio)
        trainer = Trainer(stack, schedule, self.work_dir / "sound-dit.pt")

        def loss_of_step(step: int) -> Tensor:
            rng = randomness(_AUDIO_SEED + step)
            return stable_audio.loss_on(stack, examples.batch(rng, _AUDIO_BATCH), rng)

        trainer.run(loss_of_step)
        return stack.eval()

    def teach_reading(self, stack: AudioStack) -> None:
        """Train the text encoder alone, on text."""
        answers = {"pitch": list(PITCHES), "manner": MANNERS, "loudness": list(LOUDNESSES)}
        reader = AttributeReader(stack.text_encoder, WIDTH, answers)
        schedule = Schedule(math.inf, peak_rate=2e-3, steps=self.steps.reading)
        trainer = Trainer(reader, schedule, self.work_dir / "sound-reading.pt")
        attributes.teach(trainer, _READING_SEED, build_tokenizer(), TOKENS, _ask)


def _ask(rng: np.random.Generator) -> Asked:
    audio = sample_audio(rng)
    return sample_prompt(rng, audio), {
        "pitch": audio.pitch,
        "manner": audio.manner,
        "loudness": audio.loudness,
    }
