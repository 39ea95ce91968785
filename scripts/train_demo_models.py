#!/usr/bin/env python3
"""Train a demo model from scratch on a CPU, or evaluate a trained one.

    scripts/train_demo_models.py --out deployments/demo/flux --work-dir /tmp/training --minutes 90
    scripts/train_demo_models.py --model sdxl --out deployments/demo/sdxl --work-dir /tmp/sdxl \\
        --flux-dir /tmp/training --minutes 40
    scripts/train_demo_models.py --model wan --out deployments/demo/wan --work-dir /tmp/wan
    scripts/train_demo_models.py --model stable-audio --out deployments/demo/stable-audio \\
        --work-dir /tmp/sound
    scripts/train_demo_models.py --out deployments/demo/flux --evaluate --sheet sheet.png

Training resumes from the files in --work-dir. A finished stage is not trained further, even with
more --minutes. Audio has steps and no --minutes. The SDXL model takes its autoencoder and its
examples from the work directory of the Flux model. --evaluate prints the held-out metrics as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableAudioPipeline, WanPipeline

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training import exam, shelf
from training.audio import exam as audio_exam
from training.audio.recipe import AudioRecipe
from training.recipe import Recipe
from training.sdxl_recipe import SdxlRecipe
from training.video import exam as video_exam
from training.video.recipe import VideoRecipe


@dataclass(frozen=True)
class Sitting:
    """Settings of an evaluation: the wording of the prompts and the sampling parameters."""

    free_wording: bool
    steps: int
    width: int = 128
    height: int = 128
    guidance: float = 0.0

    def __str__(self) -> str:
        wording = "free" if self.free_wording else "regular"
        guided = f", guidance {self.guidance:g}" if self.guidance else ""
        return f"{wording} wording, {self.steps} steps, {self.width}x{self.height}{guided}"


FLUX_SITTINGS = (
    Sitting(free_wording=False, steps=4),
    Sitting(free_wording=False, steps=28),
    Sitting(free_wording=True, steps=4),
    Sitting(free_wording=True, steps=28),
    Sitting(free_wording=False, steps=4, height=96),
    Sitting(free_wording=False, steps=4, width=96),
    Sitting(free_wording=False, steps=4, height=64),
    Sitting(free_wording=False, steps=4, width=64),
)
SDXL_SITTINGS = (
    Sitting(free_wording=False, steps=25, guidance=2.0),
    Sitting(free_wording=False, steps=8, guidance=2.0),
    Sitting(free_wording=False, steps=25, guidance=7.5),
    Sitting(free_wording=True, steps=25, guidance=2.0),
    Sitting(free_wording=False, steps=25, height=96, guidance=2.0),
    Sitting(free_wording=False, steps=25, width=96, guidance=2.0),
)


def main() -> None:
    arguments = _parse()
    os.nice(19)
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
        shelf.put(_recipe(arguments).cook(), arguments.out)
    report(arguments.out, arguments.sheet)


def report(folder: Path, sheet: Path | None) -> None:
    """Print the metrics of the pipeline as loaded from disk; save the first evaluation's output."""
    pipeline = shelf.take(folder)
    results: dict[str, object] = {"bytes": shelf.size_bytes(folder)}
    marks = {WanPipeline: video_exam, StableAudioPipeline: audio_exam}.get(type(pipeline), exam)
    sittings = _images(pipeline) if marks is exam else marks.sittings(pipeline)
    for number, (name, answers) in enumerate(sittings):
        results[name] = marks.figures(answers)
        if sheet is not None and number == 0:
            marks.contact_sheet(answers).save(sheet)
    print(json.dumps(results, indent=2))


def _images(pipeline: DiffusionPipeline) -> Iterator[tuple[str, list[exam.Answer]]]:
    for sitting in FLUX_SITTINGS if isinstance(pipeline, FluxPipeline) else SDXL_SITTINGS:
        questions = exam.set_questions(
            200,
            seed=2024,
            free_wording=sitting.free_wording,
            width=sitting.width,
            height=sitting.height,
        )
        yield (
            str(sitting),
            exam.sit(pipeline, questions, steps=sitting.steps, guidance=sitting.guidance),
        )


def _recipe(
    arguments: argparse.Namespace,
) -> Recipe | SdxlRecipe | VideoRecipe | AudioRecipe:
    work_dir, minutes = arguments.work_dir, arguments.minutes
    if arguments.model == "sdxl":
        return SdxlRecipe(work_dir, minutes, arguments.flux_dir)
    if arguments.model == "stable-audio":
        return AudioRecipe(work_dir)
    recipes = {"flux": Recipe, "wan": VideoRecipe}
    return recipes[arguments.model](work_dir, minutes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        choices=("flux", "sdxl", "wan", "stable-audio"),
        default="flux",
        help="model to train",
    )
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work-dir", type=Path, default=Path("demo-training"))
    parser.add_argument(
        "--flux-dir", type=Path, help="for SDXL: the Flux model's --work-dir, which is only read"
    )
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="total training time; audio has steps"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the model in --out")
    parser.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    arguments = parser.parse_args()
    if arguments.model == "sdxl" and not (arguments.evaluate or arguments.flux_dir):
        parser.error("--model sdxl needs --flux-dir, where the Flux model was trained.")
    return arguments


if __name__ == "__main__":
    main()
