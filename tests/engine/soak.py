"""Thousands of short generations through one engine, with joins, cancels, failures, snapshots and
LoRAs at random. Run by ``scripts/soak``."""

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from tests.engine.crowd import crowd_of, left_over

ROUNDS = 10
MAX_GROWTH = 48 * 2**20
"""Bytes of the process, from the second round to the last. One image and its latents are 10 kB
here: ten thousand that stay would be more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=10_000)
    per_round = parser.parse_args().generations // ROUNDS
    sizes, left = list[int](), list[tuple[int, int]]()
    with tempfile.TemporaryDirectory() as folder, crowd_of(Path(folder)) as crowd:
        for number in range(1, ROUNDS + 1):
            began = time.monotonic()
            crowd.run(per_round)
            sizes.append(psutil.Process().memory_info().rss)
            left.append(left_over())
            print(  # noqa: T201
                f"{number * per_round:6d} generations: {sizes[-1] / 2**20:.0f} MB, "
                f"{left[-1][0]} tensors, {left[-1][1]} greenlets, "
                f"{per_round / (time.monotonic() - began):.0f} a second",
                flush=True,
            )
    print(", ".join(f"{count} {how}" for how, count in sorted(crowd.ended.items())))  # noqa: T201
    assert left[-1][0] <= left[0][0] + 20, "tensors are left over"
    assert left[-1][1] <= left[0][1] + 2, "greenlets are left over"
    assert sizes[-1] - sizes[1] <= MAX_GROWTH, "memory grows"
    print("Nothing is left over, and every image is what it is alone, within 1e-4.")  # noqa: T201


if __name__ == "__main__":
    main()
