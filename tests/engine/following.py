"""A follower's process: joins a group, adds pipelines that it is given by name, and follows. At the
end it prints how many denoisers it still holds, and how often compiled code ran here."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from deployments.engine.memory import placement
from deployments.engine.merging.compile import compile_regions
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.worker import ParallelWorker
from serve_app.domain.endpoint import Recipe
from tests.engine.spreadable import image, made

COMPILED = Recipe(24, "float32", compile=True)
_runs: list[int] = []


def counting(graph: Any, _inputs: Any) -> Any:
    """Compiler for tests, which counts the runs of its code and takes no time."""

    def run(*inputs: Any) -> Any:
        _runs.append(1)
        return graph(*inputs)

    return run


def rehearsal() -> dict[str, Any]:
    return image("a lighthouse", seed=1, steps=1)


def main(rendezvous: str, *names: str) -> None:
    group = ParallelGroup(1, 2, Path(rendezvous), "cpu")
    group.join()
    follower = ParallelWorker(group, threads=1)
    placement.compile_regions = partial(compile_regions, backend=counting)
    for number, name in enumerate(names):
        recipe = COMPILED if name == "compiled" else None
        follower.add(number, made(name), recipe, rehearsal)
    rehearsed = len(_runs)
    follower.follow()
    ended = {"denoisers": follower.denoisers, "compiled": len(_runs) - rehearsed}
    sys.stdout.write(f"{json.dumps(ended)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
