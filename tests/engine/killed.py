"""A process that makes something from its first argument's demo model and keeps its newest snapshot
in the file of the second, to be killed at any moment."""

import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.endpoint import Weights
from serve_app.domain.progress import Progress, Stage
from tests.engine.demo_calls import DEMO, call


def main(family: str, path: Path) -> None:
    generations: list[Any] = []

    def keep(asked: Future[Snapshot]) -> None:
        if asked.exception() is None:
            whole = path.with_suffix(".part")
            whole.write_bytes(asked.result().to_bytes())
            os.replace(whole, path)  # noqa: PTH105  # at once: the file is whole at any moment

    def on_progress(progress: Progress) -> None:
        if generations and progress.stage is Stage.DENOISING:
            generations[0].request_snapshot().add_done_callback(keep)

    with Engine(load_pipeline(Weights(str(DEMO / family))), threads=1) as engine:
        generations.append(
            engine.submit(on_progress=on_progress, deterministic=True, **call(family, 1, LONG))
        )
        generations[0].result()


LONG = 24  # steps
