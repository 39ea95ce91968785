"""The held-out exam: prompts that training never heard, played by a pipeline, judged by pitch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import StableAudioPipeline
from PIL import Image

from training.audio.checker import Verdict, judge
from training.audio.phrasing import plain_prompt, sample_prompt
from training.audio.world import Audio, sample_audio

_AUDIOS_AT_ONCE: Final = 20
#: A spectrogram's piece and step in samples, and how many of its frequencies are shown.
_WINDOW, _STEP, _SHOWN = 1_024, 256, 72


@dataclass(frozen=True)
class Question:
    """A prompt and the audio that answers it."""

    prompt: str
    audio: Audio


@dataclass(frozen=True)
class Answer:
    """The wave is float32 [samples], -1 to 1."""

    question: Question
    wave: np.ndarray
    verdict: Verdict


def set_questions(count: int, *, seed: int, free_wording: bool = False) -> list[Question]:
    """Held-out recordings, in regular or in free and noisy wording."""
    rng = np.random.default_rng(seed)
    audios = [sample_audio(rng, held_out=True) for _ in range(count)]
    return [
        Question(sample_prompt(rng, audio) if free_wording else plain_prompt(audio), audio)
        for audio in audios
    ]


def sittings(pipeline: StableAudioPipeline, count: int) -> Iterator[tuple[str, list[Answer]]]:
    """The answers of each exam that the model card reports, to ``count`` questions."""
    questions = set_questions(count, seed=2024)
    for steps, guidance in ((16, 3.0), (30, 3.0), (16, 1.0), (16, 7.0)):
        answers = sit(pipeline, questions, steps=steps, guidance=guidance)
        yield f"regular wording, {steps} steps, guidance {guidance:g}", answers
    free = set_questions(count, seed=2024, free_wording=True)
    yield "free wording, 16 steps, guidance 3", sit(pipeline, free, steps=16, guidance=3.0)


def sit(
    pipeline: StableAudioPipeline,
    questions: list[Question],
    *,
    steps: int,
    guidance: float = 1.0,
    seed: int = 0,
) -> list[Answer]:
    """Every question played once, the i-th from `seed + i`, and judged."""
    answers = []
    rate = pipeline.vae.config.sampling_rate
    for start in range(0, len(questions), _AUDIOS_AT_ONCE):
        batch = questions[start : start + _AUDIOS_AT_ONCE]
        waves = play(
            pipeline,
            [question.prompt for question in batch],
            steps=steps,
            guidance=guidance,
            seeds=range(seed + start, seed + start + len(batch)),
        )
        answers += [
            Answer(question, wave, judge(wave, rate, question.audio))
            for question, wave in zip(batch, waves, strict=True)
        ]
    return answers


def play(
    pipeline: StableAudioPipeline,
    prompts: list[str],
    *,
    steps: int,
    guidance: float = 1.0,
    seeds: Sequence[int],
) -> np.ndarray:
    """The prompts' audio at full length: float32 [prompts, samples]."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).audios[:, 0]


def figures(answers: list[Answer]) -> dict[str, float]:
    """The part of the answers that is right, for each thing that the checker judges."""
    names = ("pitch", "manner", "loudness", "everything")
    verdicts = [answer.verdict for answer in answers]
    parts = {
        name: round(sum(getattr(verdict, name) for verdict in verdicts) / len(verdicts), 4)
        for name in names
    }
    return {**parts, "sounds": len(answers)}


def contact_sheet(answers: list[Answer], *, columns: int = 8) -> Image.Image:
    """The answers' spectrograms in reading order: time runs right, pitch up."""
    images = [_spectrogram(answer.wave) for answer in answers]
    width, height = images[0].width + 6, images[0].height + 6
    sheet = Image.new("L", (columns * width, -(-len(images) // columns) * height), 90)
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def _spectrogram(wave: np.ndarray) -> Image.Image:
    pieces = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_STEP]
    powers = np.abs(np.fft.rfft(pieces * np.hanning(_WINDOW)))[:, :_SHOWN].T[::-1]
    decibels = 20.0 * np.log10(np.maximum(powers / 50.0, 1e-3))
    return Image.fromarray(((decibels + 60.0) / 60.0 * 255.0).clip(0, 255).astype(np.uint8))
