"""A follower's process: joins a group, adds pipelines that it is given by name, and follows. At the
end it prints how many denoisers it still holds."""

from __future__ import annotations

import sys
from pathlib import Path

from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.worker import ParallelWorker
from tests.engine.spreadable import made


def main(rendezvous: str, *names: str) -> None:
    group = ParallelGroup(1, 2, Path(rendezvous), "cpu")
    group.join()
    follower = ParallelWorker(group, threads=1)
    for number, name in enumerate(names):
        follower.add(number, made(name))
    follower.follow()
    sys.stdout.write(f"{follower.denoisers}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
