"""The held-out exam: prompts that training never saw, made by a pipeline, judged by pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from training.video.checker import Verdict, judge
from training.video.phrasing import motion_prompt, plain_prompt, sample_prompt
from training.video.world import FRAMES, SHIPPED_SCALE, SIDE, Video, render_array, sample_video

_VIDEOS_AT_ONCE: Final = 10
#: A given image's pixels may come back this much different in the mean, of 255.
_SAME_IMAGE: Final = 12.0


@dataclass(frozen=True)
class Question:
    """A prompt and the video that answers it; with an image, how that video begins."""

    prompt: str
    video: Video
    image: Image.Image | None = None


@dataclass(frozen=True)
class Answer:
    """The frames are uint8 [T, H, W, 3]. `starts` is None where no image was given."""

    question: Question
    frames: np.ndarray
    verdict: Verdict
    starts: bool | None


def set_questions(count: int, *, seed: int, free_wording: bool = False) -> list[Question]:
    """Held-out videos to be made from words, in regular or in free and noisy wording."""
    rng = np.random.default_rng(seed)
    videos = [sample_video(rng, held_out=True) for _ in range(count)]
    return [
        Question(sample_prompt(rng, video) if free_wording else plain_prompt(video), video)
        for video in videos
    ]


def set_images(
    count: int, *, seed: int, motion_only: bool = False, scale: int = 1
) -> list[Question]:
    """Held-out videos to go on from their first frame, asked for in full or by the motion alone."""
    rng = np.random.default_rng(seed)
    videos = [sample_video(rng, free=True, held_out=True) for _ in range(count)]
    return [
        Question(
            motion_prompt(rng, video) if motion_only else plain_prompt(video),
            video,
            Image.fromarray((render_array(video, scale)[0] * 255.0).round().astype(np.uint8)),
        )
        for video in videos
    ]


def sittings(pipeline: WanPipeline, count: int) -> Iterator[tuple[str, list[Answer]]]:
    """The answers of each exam that the model card reports, to ``count`` questions."""
    scale = SHIPPED_SCALE
    exam_questions = set_questions(count, seed=2026)
    free = set_questions(count, seed=2026, free_wording=True)
    images, moved = (
        set_images(count, seed=2026, motion_only=motion_only, scale=scale)
        for motion_only in (False, True)
    )
    for name, questions, steps, guidance in (
        ("regular wording", exam_questions, 20, 1.0),
        ("free wording", free, 20, 1.0),
        ("from an image", images, 20, 1.0),
        ("regular wording", exam_questions, 8, 1.0),
        ("regular wording", exam_questions, 20, 3.5),
        ("from an image, only the motion", moved, 20, 1.0),
    ):
        answers = sit(pipeline, questions, steps=steps, guidance=guidance, scale=scale)
        yield f"{name}, {steps} steps, guidance {guidance:g}", answers


def sit(
    pipeline: WanPipeline,
    questions: list[Question],
    *,
    steps: int,
    guidance: float = 1.0,
    seed: int = 0,
    scale: int = 1,
) -> list[Answer]:
    """Every question answered once, the i-th from `seed + i`, and judged.

    Videos from words have ``scale`` times `SIDE` pixels, others as many as their image.
    """
    answers = []
    for start in range(0, len(questions), _VIDEOS_AT_ONCE):
        batch = questions[start : start + _VIDEOS_AT_ONCE]
        seeds = range(seed + start, seed + start + len(batch))
        if batch[0].image is None:
            prompts = [question.prompt for question in batch]
            videos = make(
                pipeline, prompts, steps=steps, guidance=guidance, seeds=seeds, side=scale * SIDE
            )
        else:
            videos = np.concatenate(
                [
                    go_on(pipeline, question, steps=steps, guidance=guidance, seed=own_seed)
                    for question, own_seed in zip(batch, seeds, strict=True)
                ]
            )
        answers += [
            Answer(question, frames, judge(frames, question.video), _starts(question, frames))
            for question, frames in zip(batch, videos, strict=True)
        ]
    return answers


def make(
    pipeline: WanPipeline,
    prompts: list[str],
    *,
    steps: int,
    guidance: float = 1.0,
    seeds: Sequence[int],
    frames: int = FRAMES,
    side: int = SIDE,
) -> np.ndarray:
    """The prompts' videos: uint8 [prompts, T, H, W, 3]."""
    pipeline.set_progress_bar_config(disable=True)
    video_frames = pipeline(
        prompt=prompts,
        width=side,
        height=side,
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).frames
    return (video_frames * 255.0).round().astype(np.uint8)


def go_on(
    pipeline: WanPipeline, question: Question, *, steps: int, guidance: float = 1.0, seed: int
) -> np.ndarray:
    """The video that goes on from the question's image, by the same weights: [1, T, H, W, 3]."""
    images = WanImageToVideoPipeline(**pipeline.components, expand_timesteps=True)
    images.set_progress_bar_config(disable=True)
    frames = images(
        image=question.image,
        prompt=question.prompt,
        width=question.image.width,
        height=question.image.height,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames
    return (frames * 255.0).round().astype(np.uint8)


def figures(answers: list[Answer]) -> dict[str, float]:
    """The part of the answers that is right, for each thing that the checker judges."""
    names = ("colour", "shape", "motion", "background", "everything")
    parts = {name: _part([getattr(answer.verdict, name) for answer in answers]) for name in names}
    starts = [answer.starts for answer in answers if answer.starts is not None]
    return {**parts, **({"starts": _part(starts)} if starts else {}), "clips": len(answers)}


def contact_sheet(answers: list[Answer], *, columns: int = 3, shown: int = 6) -> Image.Image:
    """Some frames of each video side by side, the videos in reading order."""
    cell = answers[0].frames.shape[2] + 2
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (columns * (shown * cell + 8), rows * (cell + 4)), (90, 90, 90))
    for i, answer in enumerate(answers):
        for j, frame in enumerate(np.linspace(0, len(answer.frames) - 1, shown).astype(int)):
            place = (i % columns * (shown * cell + 8) + j * cell, i // columns * (cell + 4) + 2)
            sheet.paste(Image.fromarray(answer.frames[frame]), place)
    return sheet


def _starts(question: Question, frames: np.ndarray) -> bool | None:
    """Whether the video begins with the image that was given."""
    if question.image is None:
        return None
    start_image = np.asarray(question.image, dtype=np.float32)
    return float(np.abs(frames[0] - start_image).mean()) < _SAME_IMAGE


def _part(rights: list[bool]) -> float:
    return round(sum(rights) / len(rights), 4)
