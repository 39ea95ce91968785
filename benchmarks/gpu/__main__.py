"""Command line of the benchmark; see the package."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.results import OtherMachine, Results
from benchmarks.gpu.runner import Run, Watch, run_here
from benchmarks.gpu.section import MINUTES, Section, sections
from benchmarks.gpu.table import table
from deployments.engine.accelerator.allocator import use_expandable_segments

TINY_PATIENCE = 5.0
"""Times the limits of time, with ``--tiny``: compilers take as long for small models, and a CPU
longer."""

UNUSABLE = 2
"""Exit status without torch, without a GPU, or beside results of another machine."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for results.json and log.txt")
    parser.add_argument("--second", action="store_true", help="plan B in place of plan A")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: that the sections work")
    parser.add_argument("--minutes", type=float, help="end after that; default: the plan's")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="of any plan")
    parser.add_argument("--commit", help="of the code, where git does not say it")
    # Of the process that is watched over:
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--run", default="", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    names = [section.name for section in sections()]
    if unknown := sorted(set(options.only or ()) - set(names)):
        print(
            f"There is no section {', '.join(unknown)}. Sections: {', '.join(names)}.",
            file=sys.stderr,
        )
        return UNUSABLE
    if options.out is not None:
        return _run(options, options.out.absolute())
    with tempfile.TemporaryDirectory(prefix="darkroom-gpu-") as folder:
        return _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    results, chosen = Results(folder), _chosen(options)
    run = Run(
        name=options.run or f"{os.getpid()}-{time.monotonic():.3f}",
        end=_end(options),
        on_gpu=options.device.startswith("cuda"),
        commit=_commit() if options.commit is None else options.commit,
        patience=TINY_PATIENCE if options.tiny else 1.0,
    )
    if options.end is not None:
        return _run_sections(options, chosen, results, run)
    for section in chosen:
        if reason := run.reason_to_skip(section, results):
            print(f"{section.name}: left out: {reason}", flush=True)
    status = Watch(_command(options, folder, run), results, run).watch(chosen)
    if status == UNUSABLE:
        return status
    print(table(results.read(), chosen))
    statuses = [results.section(section.name).get("status") for section in chosen]
    return int(status != 0 or "failed" in statuses)


def _end(options: argparse.Namespace) -> float:
    if options.end is not None:
        return options.end
    usual = sum(MINUTES.values()) if options.only else MINUTES[_plan(options)]
    usual *= TINY_PATIENCE if options.tiny else 1.0
    return time.monotonic() + 60 * (options.minutes or usual)


def _plan(options: argparse.Namespace) -> str:
    return "B" if options.second else "A"


def _chosen(options: argparse.Namespace) -> list[Section]:
    if options.only:
        return [section for section in sections() if section.name in options.only]
    return [section for section in sections() if section.plan == _plan(options)]


def _run_sections(
    options: argparse.Namespace, chosen: Sequence[Section], results: Results, run: Run
) -> int:
    """In the process that is watched over."""
    use_expandable_segments()  # as replicas do, before torch uses the device
    try:
        import torch  # noqa: PLC0415

        from benchmarks.gpu.bench import Bench  # noqa: PLC0415
    except ImportError as error:
        print(f"{error}. Install torch for the GPU's driver.", flush=True)
        return UNUSABLE
    if run.on_gpu and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU. Use --device cpu --tiny.", flush=True)
        return UNUSABLE
    bench = Bench(options.device, tiny=options.tiny)
    try:
        results.describe(bench.machine())
    except OtherMachine as error:
        print(error, flush=True)
        return UNUSABLE
    return run_here(chosen, bench, results, run)


def _command(options: argparse.Namespace, folder: Path, run: Run) -> list[str]:
    """Command of the process that runs the sections."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--device", options.device]
    command += ["--out", str(folder), "--end", repr(run.end), "--run", run.name]
    command += ["--commit", run.commit, *(["--tiny"] if options.tiny else [])]
    return [*command, "--only", *(section.name for section in _chosen(options))]


def _commit() -> str:
    """Of the checkout; empty where git or its folder is missing."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return answer.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
