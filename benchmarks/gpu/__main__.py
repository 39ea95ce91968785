"""Command line of the benchmark; see the package."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.runner import Results, Watch, reason_to_skip, run_here
from benchmarks.gpu.section import ENGINE, MINUTES, Section, sections


def missing_packages() -> list[str]:
    return [name for name in ENGINE if find_spec(name) is None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: that the sections work")
    parser.add_argument("--part", type=int, choices=(1, 2), help="default: 1; --tiny: both")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="end after that")
    parser.add_argument("--only", nargs="*", metavar="SECTION")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a file of JSON for each section")
    parser.add_argument(
        "--here", action="store_true", help="in this process, which ends at the first failure"
    )
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)  # of the process that watches
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if find_spec("torch") is None:
        print("torch is missing: install it with the GPU's driver in mind.", file=sys.stderr)
        return 2
    if given.end is None and (absent := missing_packages()):
        print(f"Missing, so sections are left out: {', '.join(absent)}.", flush=True)
    import torch  # noqa: PLC0415

    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU. Use --device cpu --tiny.", file=sys.stderr)
        return 2
    known = sections()
    if unknown := set(given.only or ()) - {each.name for each in known}:
        print(f"There is no section {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    if given.out is not None:
        return _run(given, given.out)
    with tempfile.TemporaryDirectory(prefix="darkroom-gpu-") as folder:
        return _run(given, Path(folder))


def _run(given: argparse.Namespace, folder: Path) -> int:
    results, chosen = Results(folder), _chosen(given)
    end = time.monotonic() + 60 * given.minutes if given.end is None else given.end
    on_gpu = given.device.startswith("cuda")
    if given.end is None:
        for section in chosen:
            if reason := reason_to_skip(section, results, end, on_gpu=on_gpu):
                print(json.dumps({section.name: f"left out: {reason}"}), flush=True)
    if given.here or given.end is not None:
        from benchmarks.gpu.bench import Bench  # noqa: PLC0415

        status = run_here(chosen, Bench(given.device, tiny=given.tiny), results, end)
        return status if given.end is not None else int(status != 0)
    Watch(lambda end: _child(given, folder, end), results, end, on_gpu).run(chosen)
    return int(any(results.read(each.name).get("status") == "failed" for each in chosen))


def _chosen(given: argparse.Namespace) -> list[Section]:
    part = given.part or (None if given.tiny or given.only else 1)
    names = given.only or [each.name for each in sections()]
    return [each for each in sections() if part in (None, each.part) and each.name in names]


def _child(given: argparse.Namespace, folder: Path, end: float) -> list[str]:
    """Command of the process that runs the sections."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", given.device]
    command += ["--out", str(folder), "--end", repr(end)]
    command += ["--tiny"] if given.tiny else []
    return [*command, "--only", *(each.name for each in _chosen(given))]


if __name__ == "__main__":
    sys.exit(main())
