"""Rank 0 in a process of its own, to be killed, or to report what becomes of its generations when
its follower is: a line with the follower's process, one at each step, and one for what each of two
generations raised."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from deployments.engine.engine import Engine
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.parallel_call import ParallelModels
from serve_app.domain.errors import ReplicaDied
from tests.engine import following
from tests.engine.spreadable import image, make_pipeline, video


def main(rendezvous: str, name: str = "demo") -> None:
    # A fork has imported torch and diffusers already, and neither has computed anything yet.
    fork = multiprocessing.get_context("fork")
    follower = fork.Process(target=following.main, args=(rendezvous, name))
    follower.start()
    say(f"follower {follower.pid}")
    group = ParallelGroup(0, 2, Path(rendezvous), "cpu")
    group.join()
    spread = ParallelModels(group, follower.is_alive, lambda: say("lost"))
    pipeline = make_pipeline(name)
    wish = video if name == "demo" else image
    spread.add(0, pipeline)
    with Engine(pipeline, threads=1) as engine:
        for _ in range(2):
            generation = engine.submit(
                on_progress=lambda progress: say(f"step {progress.step}"),
                **wish("a red circle moving left", seed=1, steps=900),
            )
            try:
                generation.result()
            except ReplicaDied as error:
                say(f"ReplicaDied: {error}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
