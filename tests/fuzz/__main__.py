"""Damaged inputs for all readers, and calls of the API, for a time. Run by ``scripts/fuzz``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fuzz.api import ApiFindings, fuzz_api
from tests.fuzz.fuzzer import Fuzzer

NAMES = (
    "image", "video", "audio", "safetensors", "gguf", "lora", "snapshot", "draft", "json",
    "msgpack", "c2pa", "audit",
)  # fmt: skip
"""Readers. Their module imports torch, which only the child process needs."""

API = "api"
"""Target that starts a Darkroom and calls it. Beside readers it gets half of the time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=(*NAMES, API), help="Default: all.")
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--repeat", type=Path, nargs="*", help="Read these findings again.")
    arguments = parser.parse_args()
    targets = arguments.target or [*NAMES, API]
    readers = [name for name in targets if name != API]
    share = 0 if arguments.repeat or API not in targets else 0.5 if readers else 1
    api_s = arguments.seconds * share
    fuzzer = Fuzzer(arguments.output)
    api = ApiFindings()
    print(f"Seed {arguments.seed}.")  # noqa: T201
    try:
        if arguments.repeat:
            for file in arguments.repeat:
                fuzzer.repeat(file)
        else:
            end = time.monotonic() + arguments.seconds - api_s
            for target, seed in inputs(arguments.seed, readers):
                if time.monotonic() >= end:
                    break
                fuzzer.run(target, seed)
            if api_s:
                fuzz_api(api_s, arguments.seed, api)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)  # noqa: T201
    finally:
        fuzzer.close()
    reports = (report(fuzzer) if readers or arguments.repeat else (), api.report() if api_s else ())
    for line in itertools.chain(*reports):
        print(line)  # noqa: T201
    return int(bool(fuzzer.findings or api.found))


def inputs(seed: int, targets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Targets in turn, each with the seed of its next input."""
    for number in itertools.count() if targets else ():
        for target in targets:
            yield target, f"{seed}/{target}/{number}"


def report(fuzzer: Fuzzer) -> Iterator[str]:
    for (target, result), number in sorted(fuzzer.counted.items()):
        yield f"{target:<12} {number:>7}  {result}"
    for finding in fuzzer.findings:
        yield f"FOUND {finding.target}: {finding.what}, in {fuzzer.folder / finding.file_name}"
        yield finding.shown
    total = sum(fuzzer.counted.values())
    yield f"{total} inputs, {len(fuzzer.findings)} findings."


if __name__ == "__main__":
    sys.exit(main())
