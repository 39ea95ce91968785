"""The head is lost with Ray's control store, and a new cluster has the same database and bucket."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.bad_days.installation import GPU
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, site

AWAY_S = 10.0


def head(folder: Path) -> Iterator[Outcome]:
    with site(folder, Plan()) as running:
        nodes = running.place.nodes

        def lose_head(running: Site) -> Iterator[str]:
            time.sleep(AWAY_S)
            nodes.kill("head")
            time.sleep(AWAY_S)
            counts = {part: len(running.place.parts(part)) for part in ("ingress", "replica")}
            left = ", ".join(f"{count} × {part}" for part, count in counts.items())
            yield f"{AWAY_S:.0f} s later, the other nodes still had {left}"
            yield from _anew(running, (GPU, f"{GPU}-1"))

        def lose_all(running: Site) -> Iterator[str]:
            time.sleep(AWAY_S)
            nodes.kill("head")
            yield from _anew(running, (f"{GPU}-2", f"{GPU}-3"))

        yield under_load(running, "head lost with its store", lose_head)
        yield under_load(running, "all nodes lost at once", lose_all)


def _anew(running: Site, left: Iterable[str]) -> Iterator[str]:
    """End the nodes that are left, and deploy on a new head and new nodes."""
    nodes, deployed = running.place.nodes, running.deployed
    began = time.monotonic()
    for name in left:
        nodes.remove(name)
    nodes.start("head")
    for _ in range(2):
        nodes.add(GPU)
    running.deployed = []
    running.deploy(deployed)
    yield f"a new head and two new nodes serve after {time.monotonic() - began:.0f} s"
    time.sleep(AWAY_S)
