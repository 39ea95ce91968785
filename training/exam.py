"""The held-out exam: prompts that training never saw, drawn by a pipeline, judged by pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from PIL import Image

from training.checker import Verdict, judge
from training.phrasing import plain_prompt, sample_prompt
from training.world import SIDE, Scene, sample_scene

_IMAGES_AT_ONCE = 25

Pipeline = FluxPipeline | StableDiffusionXLPipeline


@dataclass(frozen=True)
class Question:
    """A prompt and the scene that answers it."""

    prompt: str
    scene: Scene


@dataclass(frozen=True)
class Answer:
    question: Question
    image: Image.Image
    verdict: Verdict


def set_questions(
    count: int,
    *,
    seed: int,
    free_wording: bool = False,
    width: int = SIDE,
    height: int = SIDE,
) -> list[Question]:
    """Held-out questions, singles and pairs in turn, in regular or in free and noisy wording."""
    rng = np.random.default_rng(seed)
    scenes = [
        sample_scene(rng, pair=i % 2 == 1, held_out=True, width=width, height=height)
        for i in range(count)
    ]
    return [
        Question(sample_prompt(rng, scene) if free_wording else plain_prompt(scene), scene)
        for scene in scenes
    ]


def sit(
    pipeline: Pipeline,
    questions: list[Question],
    *,
    steps: int,
    guidance: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Every question drawn once, the i-th from `seed + i`, and judged. All are of one size."""
    answers = []
    for start in range(0, len(questions), _IMAGES_AT_ONCE):
        asked = questions[start : start + _IMAGES_AT_ONCE]
        seeds = range(seed + start, seed + start + len(asked))
        images = draw(
            pipeline,
            [question.prompt for question in asked],
            steps=steps,
            guidance=guidance,
            seeds=seeds,
            size=(asked[0].scene.width, asked[0].scene.height),
        )
        answers += [
            Answer(question, image, judge(image, question.scene))
            for question, image in zip(asked, images, strict=True)
        ]
    return answers


def draw(
    pipeline: Pipeline,
    prompts: list[str],
    *,
    steps: int,
    guidance: float = 0.0,
    seeds: Sequence[int],
    size: tuple[int, int] = (SIDE, SIDE),
) -> list[Image.Image]:
    """The prompts' images, called as Darkroom calls such a pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    own = {}
    if isinstance(pipeline, FluxPipeline):
        own["max_sequence_length"] = pipeline.tokenizer_2.model_max_length
    return pipeline(
        prompt=prompts,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **own,
    ).images


def figures(answers: list[Answer]) -> dict[str, float]:
    """The part of the answers that is right, for each thing that the checker judges."""
    verdicts = [answer.verdict for answer in answers]
    related = [verdict.relation for verdict in verdicts if verdict.relation is not None]
    names = ("count", "colour", "shape", "size", "background", "everything")
    parts = {name: _part([getattr(verdict, name) for verdict in verdicts]) for name in names}
    return {**parts, "relation": _part(related), "pictures": len(answers)}


def contact_sheet(answers: list[Answer], *, columns: int = 10) -> Image.Image:
    """The images in reading order, each in a square cell."""
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (columns * (SIDE + 4), rows * (SIDE + 4)), (90, 90, 90))
    for i, answer in enumerate(answers):
        place = (i % columns * (SIDE + 4) + 2, i // columns * (SIDE + 4) + 2)
        sheet.paste(answer.image, place)
    return sheet


def _part(rights: list[bool]) -> float:
    return round(sum(rights) / len(rights), 4) if rights else 0.0
