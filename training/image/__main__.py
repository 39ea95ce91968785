"""Train an image model of 256 pixels, or examine what there is of it.

    python -m training.image --work-dir FOLDER                  # goes on where it stopped
    python -m training.image --work-dir FOLDER --out PIPELINE   # and writes the trained pipeline
    python -m training.image --work-dir FOLDER --polish         # beside it, once examples are there
    python -m training.image --work-dir FOLDER --model sdxl     # once Flux is written
    python -m training.image --work-dir FOLDER --exam 300 --sheet sheet.png
    python -m training.image --pipeline PIPELINE --exam 300     # of what was written

The third command may run beside the first: two processes of one thread each get more done than one
of two threads. Training is nice to other programs and may be killed at any time: each stage has a
checkpoint in the folder. The exam takes the averaged weights of the checkpoints, so it can run
while training does, and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from training import shelf
from training.exam import Pipeline
from training.image import exam
from training.image.recipe import ImageRecipe
from training.image.sdxl_recipe import SdxlImageRecipe
from training.image.world import SIDE

SHIPPED = Path(__file__).parents[2] / "deployments" / "demo"


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


def main() -> None:
    arguments = _parse()
    os.nice(19)
    torch.set_num_threads(arguments.threads)
    if arguments.pipeline is not None:
        examine(shelf.take(arguments.pipeline), arguments)
        return
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(arguments)
    if arguments.exam:
        examine(recipe.so_far(), arguments)
        return
    if arguments.polish and isinstance(recipe, ImageRecipe):
        recipe.polish_decoder(recipe.trained_vae())
        return
    pipeline = recipe.cook()
    if arguments.out is not None:
        shelf.put(pipeline, arguments.out)


def examine(pipeline: Pipeline, arguments: argparse.Namespace) -> None:
    """Print the figures of each sitting; save the first images of the first one."""
    # As the catalogue's demo entries call them.
    steps, guidance = (25, 2.0) if arguments.model == "sdxl" else (4, 0.0)
    for number, sitting in enumerate(SITTINGS[: arguments.sittings]):
        questions = exam.set_questions(
            arguments.exam,
            seed=2026,
            free_wording=sitting.free_wording,
            width=sitting.width,
            height=sitting.height,
        )
        answers = exam.sit(pipeline, questions, steps=sitting.steps or steps, guidance=guidance)
        print(json.dumps({str(sitting): exam.figures(answers)}), flush=True)
        if arguments.sheet is not None and number == 0:
            exam.contact_sheet(answers[:100]).save(arguments.sheet)


def _recipe(arguments: argparse.Namespace) -> ImageRecipe | SdxlImageRecipe:
    start = arguments.start or SHIPPED / arguments.model
    if arguments.model == "flux":
        return ImageRecipe(arguments.work_dir, start)
    return SdxlImageRecipe(arguments.work_dir, start, arguments.flux)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--work-dir", type=Path)
    where.add_argument("--pipeline", type=Path, help="examine this pipeline instead; with --exam")
    parser.add_argument("--model", choices=("flux", "sdxl"), default="flux")
    parser.add_argument("--start", type=Path, help="the pipeline it goes on from: the shipped one")
    parser.add_argument(
        "--flux",
        type=Path,
        default=SHIPPED / "flux",
        help="the Flux pipeline whose autoencoder SDXL takes: the shipped one",
    )
    parser.add_argument("--out", type=Path, help="where to write the trained pipeline")
    parser.add_argument("--polish", action="store_true", help="only polish Flux's decoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exam", type=int, default=0, help="prompts of each sitting")
    parser.add_argument("--sittings", type=int, default=len(SITTINGS), help="the first of them")
    parser.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
