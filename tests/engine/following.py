"""A follower's process: joins a group, adds pipelines that it is given by name, and follows. At the
end it prints how many denoisers it still holds, and how often compiled code ran for calls, without
LoRAs and with them."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deployments.engine.memory import placement
from deployments.engine.merging.compile import compile_regions
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.messages import ParallelCall
from deployments.engine.parallel.worker import ParallelWorker
from serve_app.domain.endpoint import Recipe
from tests.engine.spreadable import image, make_pipeline

COMPILED = Recipe(24, "float32", compile=True)
runs = Counter[str]()
"""Runs of compiled code in this process, ``plain`` and ``loras``."""


def counting(graph: Any, _inputs: Any) -> Any:
    """Compiler for tests, which counts the runs of its code and takes little time."""
    with_loras = any(node.target is torch.bmm for node in graph.graph.nodes)

    def run(*inputs: Any) -> Any:
        if not threading.current_thread().name.startswith("compiler"):
            runs["loras" if with_loras else "plain"] += 1
        return graph(*inputs)

    return run


class PatientWorker(ParallelWorker):
    """Computes a call when all code that earlier calls asked for is there."""

    def _compute(self, call: ParallelCall) -> None:
        self._compiler.submit(lambda: None).result()
        super()._compute(call)


def rehearsal() -> dict[str, Any]:
    return image("a lighthouse", seed=1, steps=1)


def main(rendezvous: str, *names: str) -> None:
    group = ParallelGroup(1, 2, Path(rendezvous), "cpu")
    group.join()
    follower = PatientWorker(group, threads=1)
    compiler: Any = counting
    placement.compile_regions = partial(compile_regions, backend=compiler)
    for number, name in enumerate(names):
        recipe = COMPILED if name == "compiled" else None
        follower.add(number, make_pipeline(name), recipe, rehearsal)
    runs.clear()  # those of the rehearsal
    follower.follow()
    ended = {"denoisers": follower.denoisers, **runs}
    sys.stdout.write(f"{json.dumps(ended)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
