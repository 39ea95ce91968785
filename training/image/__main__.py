"""Train the image model of 256 pixels, or examine what there is of it.

    python -m training.image --work-dir FOLDER                  # goes on where it stopped
    python -m training.image --work-dir FOLDER --out PIPELINE   # and writes the trained pipeline
    python -m training.image --work-dir FOLDER --exam 300 --sheet sheet.png

Training is nice to other programs and may be killed at any time: each stage has a checkpoint in
the folder. The exam takes the averaged weights of the checkpoints, so it can run while training
does, and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from training import shelf
from training.image import exam
from training.image.recipe import ImageRecipe

SHIPPED = Path(__file__).parents[2] / "deployments" / "demo" / "flux"

#: Name, steps, free wording, width and height of each sitting.
SITTINGS = (
    ("regular wording, 4 steps, 256x256", 4, False, 256, 256),
    ("regular wording, 4 steps, 256x192", 4, False, 256, 192),
    ("free wording, 4 steps, 256x256", 4, True, 256, 256),
    ("regular wording, 28 steps, 256x256", 28, False, 256, 256),
    ("regular wording, 4 steps, 192x256", 4, False, 192, 256),
    ("regular wording, 4 steps, 256x160", 4, False, 256, 160),
)


def main() -> None:
    arguments = _parse()
    os.nice(19)
    torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    recipe = ImageRecipe(arguments.work_dir, arguments.start)
    if arguments.exam:
        examine(recipe, arguments)
        return
    pipeline = recipe.cook()
    if arguments.out is not None:
        shelf.put(pipeline, arguments.out)


def examine(recipe: ImageRecipe, arguments: argparse.Namespace) -> None:
    """Print the figures of the weights so far; save the first sitting's images."""
    pipeline = recipe.so_far()
    for number, (name, steps, free, width, height) in enumerate(SITTINGS[: arguments.sittings]):
        questions = exam.set_questions(
            arguments.exam, seed=2026, free_wording=free, width=width, height=height
        )
        answers = exam.sit(pipeline, questions, steps=steps)
        print(json.dumps({name: exam.figures(answers)}), flush=True)
        if arguments.sheet is not None and number == 0:
            exam.contact_sheet(answers[:100]).save(arguments.sheet)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=SHIPPED, help="the pipeline it goes on from")
    parser.add_argument("--out", type=Path, help="where to write the trained pipeline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exam", type=int, default=0, help="prompts of each sitting")
    parser.add_argument("--sittings", type=int, default=len(SITTINGS), help="the first of them")
    parser.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
