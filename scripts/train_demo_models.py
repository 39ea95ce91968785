#!/usr/bin/env python3
"""Make the demo Flux model from nothing on a CPU, or examine one that is made.

    scripts/train_demo_models.py --out deployments/demo/flux --work-dir /tmp/training --minutes 90
    scripts/train_demo_models.py --out deployments/demo/flux --evaluate --sheet sheet.png

Training resumes from the files in --work-dir. --evaluate prints the held-out figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training import exam, shelf
from training.recipe import Recipe

#: Free wording or not, steps, width, height.
EXAMS = (
    (False, 4, 128, 128),
    (False, 28, 128, 128),
    (True, 4, 128, 128),
    (True, 28, 128, 128),
    (False, 4, 128, 96),
    (False, 4, 96, 128),
    (False, 4, 128, 64),
    (False, 4, 64, 128),
)


def main() -> None:
    arguments = _parse()
    os.nice(19)
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
        shelf.put(Recipe(arguments.work_dir, arguments.minutes).cook(), arguments.out)
    report(arguments.out, arguments.sheet)


def report(folder: Path, sheet: Path | None) -> None:
    """Print the figures of the pipeline as loaded from disk; save the first exam's pictures."""
    pipeline = shelf.take(folder)
    results: dict[str, object] = {"bytes": shelf.size_bytes(folder)}
    for free_wording, steps, width, height in EXAMS:
        questions = exam.set_questions(
            200, seed=2024, free_wording=free_wording, width=width, height=height
        )
        answers = exam.sit(pipeline, questions, steps=steps)
        wording = "free" if free_wording else "regular"
        results[f"{wording} wording, {steps} steps, {width}x{height}"] = exam.figures(answers)
        if sheet is not None and len(results) == 2:
            exam.contact_sheet(answers, columns=20).save(sheet)
    print(json.dumps(results, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work-dir", type=Path, default=Path("demo-training"))
    parser.add_argument("--minutes", type=float, default=90.0, help="of training, in all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true", help="only examine what --out holds")
    parser.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
