"""Train the video model of 128 pixels, or examine what there is of it.

    python -m training.video --work-dir FOLDER                  # goes on where it stopped
    python -m training.video --work-dir FOLDER --out PIPELINE   # and writes the trained pipeline
    python -m training.video --work-dir FOLDER --polish         # the decoder alone, at the end
    python -m training.video --work-dir FOLDER --exam 60 --sheet sheet.png

As `training.image`: it may be killed at any time, and the exam can be taken while it trains.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from training import shelf
from training.video import exam
from training.video.larger_recipe import LargerVideoRecipe, VideoSteps
from training.video.world import SHIPPED_SCALE

SHIPPED = Path(__file__).parents[2] / "deployments" / "demo" / "wan"
_STEPS = 20


def main() -> None:
    arguments = _parse()
    os.nice(19)
    torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    steps = VideoSteps(wan=arguments.steps)
    recipe = LargerVideoRecipe(arguments.work_dir, arguments.start, steps)
    if arguments.exam:
        examine(recipe, arguments)
    elif arguments.polish:
        pipeline = recipe.shipped()
        recipe.train_autoencoder(pipeline)
        recipe.polish_decoder(pipeline)
    else:
        pipeline = recipe.cook()
        if arguments.out is not None:
            shelf.put(pipeline, arguments.out)


def examine(recipe: LargerVideoRecipe, arguments: argparse.Namespace) -> None:
    """Print the figures of the weights so far; save the first videos' frames."""
    pipeline = recipe.so_far()
    asked = {
        "regular wording": exam.set_questions(arguments.exam, seed=2026),
        "free wording": exam.set_questions(arguments.exam, seed=2026, free_wording=True),
        "from an image": exam.set_images(arguments.exam, seed=2026, scale=SHIPPED_SCALE),
    }
    for number, (name, questions) in enumerate(asked.items()):
        answers = exam.sit(pipeline, questions, steps=_STEPS, scale=SHIPPED_SCALE)
        print(json.dumps({f"{name}, {_STEPS} steps": exam.figures(answers)}), flush=True)
        if arguments.sheet is not None and number == 0:
            exam.contact_sheet(answers[:30]).save(arguments.sheet)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=SHIPPED, help="the pipeline it goes on from")
    parser.add_argument("--steps", type=int, default=VideoSteps.wan, help="of the transformer")
    parser.add_argument("--out", type=Path, help="where to write the trained pipeline")
    parser.add_argument("--polish", action="store_true", help="only polish the decoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exam", type=int, default=0, help="prompts of each sitting")
    parser.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
