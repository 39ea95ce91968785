"""Train a demo model, or examine what there is of it.

    python -m training flux --work-dir FOLDER                  # goes on where it stopped
    python -m training flux --work-dir FOLDER --out PIPELINE   # and writes the trained pipeline
    python -m training flux --work-dir FOLDER --polish         # Flux's or Wan's decoder alone
    python -m training sdxl --work-dir FOLDER                  # once Flux is written
    python -m training flux --work-dir FOLDER --exam 300 --sheet sheet.png
    python -m training flux --pipeline PIPELINE --exam 300     # of what was written

`wan` and `stable-audio` likewise; `wan-64` is the model of 64 pixels that `wan` once went on from.
The third command may run beside the first: two processes of one thread each get more done than one
of two threads. Training is nice to other programs and may be killed at any time: each stage has a
checkpoint in the folder. The exam takes the averaged weights of the checkpoints, so it can run
while training does, and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline

from training import shelf
from training.audio import exam as audio_exam
from training.audio.recipe import AudioRecipe
from training.image import exam as image_exam
from training.image.recipe import ImageRecipe
from training.image.sdxl_recipe import SdxlImageRecipe
from training.video import exam as video_exam
from training.video.larger_recipe import LargerVideoRecipe
from training.video.recipe import VideoRecipe

SHIPPED: Final = Path(__file__).parents[1] / "deployments" / "demo"
MODELS: Final = ("flux", "sdxl", "wan", "wan-64", "stable-audio")
EXAMS: Final = {
    "flux": image_exam,
    "sdxl": image_exam,
    "wan": video_exam,
    "stable-audio": audio_exam,
}
#: Those that go on from a pipeline, and can be examined while they train.
_GO_ON: Final = ("flux", "sdxl", "wan")
_SHOWN: Final = 100


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
    elif arguments.polish:
        recipe.polish()
    else:
        pipeline = recipe.cook()
        if arguments.out is not None:
            shelf.put(pipeline, arguments.out)


def examine(pipeline: DiffusionPipeline, arguments: argparse.Namespace) -> None:
    """Print the figures of each sitting; save the first answers of the first one."""
    exam = EXAMS[arguments.model]
    sittings = islice(exam.sittings(pipeline, arguments.exam), arguments.sittings)
    for number, (name, answers) in enumerate(sittings):
        print(json.dumps({name: exam.figures(answers)}), flush=True)
        if arguments.sheet is not None and number == 0:
            exam.contact_sheet(answers[:_SHOWN]).save(arguments.sheet)


def _recipe(arguments: argparse.Namespace) -> Any:
    """The model's recipe; `_parse` refuses what it cannot do."""
    match arguments.model:
        case "flux":
            return ImageRecipe(arguments.work_dir, arguments.start)
        case "sdxl":
            return SdxlImageRecipe(arguments.work_dir, arguments.start, arguments.flux)
        case "wan":
            return LargerVideoRecipe(arguments.work_dir, arguments.start)
        case "wan-64":
            return VideoRecipe(arguments.work_dir, arguments.minutes)
        case _:
            return AudioRecipe(arguments.work_dir)


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.set_defaults(pipeline=None, exam=0, polish=False)
    models = parser.add_subparsers(dest="model", required=True)
    for name in MODELS:
        model = models.add_parser(name)
        where = model.add_mutually_exclusive_group(required=True)
        where.add_argument("--work-dir", type=Path)
        model.add_argument("--out", type=Path, help="where to write the trained pipeline")
        model.add_argument("--threads", type=int, default=1)
        if name in EXAMS:
            where.add_argument("--pipeline", type=Path, help="examine this one; with --exam")
            model.add_argument("--exam", type=int, default=0, help="prompts of each sitting")
            model.add_argument("--sittings", type=int, help="only so many, the first ones")
            model.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
        if name in _GO_ON:
            model.add_argument(
                "--start",
                type=Path,
                default=SHIPPED / name,
                help="the pipeline it goes on from: the shipped one",
            )
        if name == "sdxl":
            model.add_argument(
                "--flux",
                type=Path,
                default=SHIPPED / "flux",
                help="the Flux pipeline whose autoencoder it takes: the shipped one",
            )
        if name in ("flux", "wan"):
            model.add_argument("--polish", action="store_true", help="only polish the decoder")
        if name == "wan-64":
            model.add_argument("--minutes", type=float, default=90.0, help="total training time")
    arguments = parser.parse_args(words)
    if arguments.pipeline is not None and not arguments.exam:
        parser.error("--pipeline needs --exam.")
    if arguments.exam and arguments.pipeline is None and arguments.model not in _GO_ON:
        parser.error(f"{arguments.model} is examined once it is written: give --pipeline.")
    return arguments


if __name__ == "__main__":
    main()
