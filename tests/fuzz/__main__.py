"""Damaged inputs for all readers, for a time. Run by ``scripts/fuzz``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.fuzzer import Fuzzer

NAMES = (
    "image", "video", "audio", "safetensors", "lora", "snapshot", "draft", "json", "msgpack",
    "c2pa", "audit",
)  # fmt: skip
"""Targets. Their module imports torch, which only the child process needs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=NAMES, help="Default: all.")
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--repeat", type=Path, nargs="*", help="Read these findings again.")
    asked = parser.parse_args()
    fuzzer = Fuzzer(asked.output)
    try:
        if asked.repeat:
            for file in asked.repeat:
                fuzzer.repeat(file)
        else:
            end = time.monotonic() + asked.seconds
            for target, seed in inputs(asked.seed, asked.target or NAMES):
                if time.monotonic() >= end:
                    break
                fuzzer.run(target, seed)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)  # noqa: T201
    finally:
        fuzzer.close()
    for line in report(fuzzer):
        print(line)  # noqa: T201
    return int(bool(fuzzer.findings))


def inputs(seed: int, targets: tuple[str, ...] | list[str]) -> Iterator[tuple[str, str]]:
    """Targets in turn, each with the seed of its next input."""
    for number in itertools.count():
        for target in targets:
            yield target, f"{seed}/{target}/{number}"


def report(fuzzer: Fuzzer) -> Iterator[str]:
    for (target, result), number in sorted(fuzzer.counted.items()):
        yield f"{target:<12} {number:>7}  {result}"
    for each in fuzzer.findings:
        yield f"FOUND {each.target}: {each.what}, in {fuzzer.folder / each.file_name}"
        yield each.shown
    total = sum(fuzzer.counted.values())
    yield f"{total} inputs, {len(fuzzer.findings)} findings."


if __name__ == "__main__":
    sys.exit(main())
