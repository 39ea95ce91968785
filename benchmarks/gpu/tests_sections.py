"""Sections that run ``tests/gpu``: what the figures of the others rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.section import Facts

ROOT = Path(__file__).parents[2]
MERGING = ("test_merging.py", "test_loras.py", "test_running.py")
GRAPHS = ("test_graphs.py",)
SOME = "32_bits or first_bits or own_bits or cancelled or merged_forwards"
"""Of the tests, with ``--tiny``: that they run."""

_RESULT = re.compile(r"^(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR)\b")


def tests_merging(bench: Bench) -> Iterator[Facts]:
    """Merging, LoRAs and what runs: alone bit for bit, merged within rounding."""
    yield from _outcomes(bench, MERGING)


def tests_graphs(bench: Bench) -> Iterator[Facts]:
    """Forwards that are recorded and launched as one piece."""
    yield from _outcomes(bench, GRAPHS)


def _outcomes(bench: Bench, files: tuple[str, ...]) -> Iterator[Facts]:
    """Numbers of tests by outcome, as they grow, and the names of those that failed."""
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-v", "--color=no", "-W", "ignore"]
    command += ["-c", os.devnull, "--noconftest", "-p", "no:cacheprovider", "--tb=short"]
    command += ["--rootdir", str(ROOT), *(["-k", SOME] if bench.tiny else [])]
    command += [f"tests/gpu/{name}" for name in files]
    of_tests = {"DARKROOM_GPU_TESTS_DEVICE": bench.device, "PYTHONPATH": _path()}
    with subprocess.Popen(  # noqa: S603 our own command
        command,
        cwd=ROOT,
        env=os.environ | of_tests,  # noqa: TID251 the process gets ours
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        outcomes = Counter[str]()
        failed = list[str]()
        for line in process.stdout:
            sys.stderr.write(line)  # to the log
            if (match := _RESULT.match(line)) is None:
                continue
            outcomes[match[2].lower()] += 1
            if match[2] in ("FAILED", "ERROR"):
                failed.append(match[1].rpartition("/")[2])
            if not sum(outcomes.values()) % 10:
                yield {**outcomes, "names": failed, "so_far": True}
    yield {**outcomes, "names": failed, "exit_status": process.returncode}


def _path() -> str:
    """Folders that this process imports from: a machine may have packages elsewhere."""
    return os.pathsep.join([str(ROOT), *filter(None, sys.path)])
