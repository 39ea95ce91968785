"""The held-out exam: prompts that training never saw, drawn by a pipeline, judged by pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from PIL import Image

from training.image.checker import Verdict, judge
from training.image.phrasing import plain_prompt, sample_prompt
from training.image.world import LAYOUTS, SIDE, Composition, sample

_IMAGES_AT_ONCE = 10

Pipeline = FluxPipeline | StableDiffusionXLPipeline


@dataclass(frozen=True)
class Question:
    """A prompt and the composition that answers it."""

    prompt: str
    composition: Composition


@dataclass(frozen=True)
class Answer:
    question: Question
    image: Image.Image
    verdict: Verdict


@dataclass(frozen=True)
class Sitting:
    """The wording of the prompts and the size of the images; None: the model's usual steps."""

    free_wording: bool = False
    width: int = SIDE
    height: int = SIDE
    steps: int | None = None

    def __str__(self) -> str:
        wording = "free" if self.free_wording else "regular"
        steps = "" if self.steps is None else f", {self.steps} steps"
        return f"{wording} wording, {self.width}x{self.height}{steps}"


SITTINGS = (
    Sitting(),
    Sitting(height=192),
    Sitting(free_wording=True),
    Sitting(steps=28),
    Sitting(width=192),
    Sitting(height=160),
    Sitting(width=128, height=128),
)


def sittings(pipeline: Pipeline, count: int) -> Iterator[tuple[str, list[Answer]]]:
    """The answers of each of `SITTINGS`, to ``count`` questions."""
    # As the catalogue's demo entries call them.
    usual_steps, guidance = (4, 0.0) if isinstance(pipeline, FluxPipeline) else (25, 2.0)
    for sitting in SITTINGS:
        questions = set_questions(
            count,
            seed=2026,
            free_wording=sitting.free_wording,
            width=sitting.width,
            height=sitting.height,
        )
        steps = sitting.steps or usual_steps
        yield str(sitting), sit(pipeline, questions, steps=steps, guidance=guidance)


def set_questions(
    count: int,
    *,
    seed: int,
    free_wording: bool = False,
    width: int = SIDE,
    height: int = SIDE,
) -> list[Question]:
    """Held-out questions, all layouts in turn, in regular or in free and noisy wording."""
    rng = np.random.default_rng(seed)
    compositions = [
        sample(rng, LAYOUTS[i % len(LAYOUTS)], held_out=True, width=width, height=height)
        for i in range(count)
    ]
    return [
        Question(
            sample_prompt(rng, composition) if free_wording else plain_prompt(composition),
            composition,
        )
        for composition in compositions
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
        batch = questions[start : start + _IMAGES_AT_ONCE]
        images = draw(
            pipeline,
            [question.prompt for question in batch],
            steps=steps,
            guidance=guidance,
            seeds=range(seed + start, seed + start + len(batch)),
            size=(batch[0].composition.width, batch[0].composition.height),
        )
        answers += [
            Answer(question, image, judge(image, question.composition))
            for question, image in zip(batch, images, strict=True)
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


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """The part of the answers that is right, for each thing that the checker judges, and the part
    in which everything is, by layout. `relation` is of those alone that were asked for one."""
    verdicts = [answer.verdict for answer in answers]
    names = ("count", "colour", "shape", "size", "background", "clean", "everything")
    parts = {name: _part([getattr(verdict, name) for verdict in verdicts]) for name in names}
    related = [verdict.relation for verdict in verdicts if verdict.relation is not None]
    counted = [
        answer.verdict.count for answer in answers if answer.question.composition.layout == "group"
    ]
    by_layout = {
        layout: _part(
            [
                answer.verdict.everything
                for answer in answers
                if answer.question.composition.layout == layout
            ]
        )
        for layout in LAYOUTS
    }
    return {
        **parts,
        "relation": _part(related),
        "count of groups": _part(counted),
        **by_layout,
        "images": len(answers),
    }


def contact_sheet(answers: Sequence[Answer], *, columns: int = 10) -> Image.Image:
    """The images in reading order, each in a square cell."""
    rows = -(-len(answers) // columns)
    cell = SIDE + 4
    sheet = Image.new("RGB", (columns * cell, rows * cell), (90, 90, 90))
    for i, answer in enumerate(answers):
        sheet.paste(answer.image, (i % columns * cell + 2, i // columns * cell + 2))
    return sheet


def _part(rights: Sequence[bool]) -> float:
    return round(sum(rights) / len(rights), 4) if rights else 0.0
