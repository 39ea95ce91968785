"""Command line of the benchmark; see the package."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # they import torch, and what is missing is said before
    from benchmarks.gpu.bench import Bench, Section

MINUTES = 9.0  # of a run
PACKAGES = ("diffusers", "transformers", "accelerate", "safetensors", "greenlet", "peft", "psutil")
ENGINE = PACKAGES
MODELS = ("diffusers", "transformers", "safetensors")
TRIES = 2
"""A section that ended the process twice is left out."""


def sections() -> tuple[Section, ...]:
    """In the order of their worth, for when time runs out."""
    from benchmarks.gpu import device_sections as device  # noqa: PLC0415
    from benchmarks.gpu import engine_sections as engine  # noqa: PLC0415
    from benchmarks.gpu import second_sections as second  # noqa: PLC0415
    from benchmarks.gpu.bench import Section  # noqa: PLC0415

    return (
        Section("machine", device.machine, 0.3, needs=("psutil",)),
        Section("forward_by_rows", engine.forward_by_rows, 2.0, needs=MODELS),
        Section("alone_and_merged", engine.alone_and_merged, 1.0, needs=ENGINE),
        Section("copies_beside_forwards", device.copies_beside_forwards, 1.5, needs=ENGINE),
        Section("out_of_memory", engine.out_of_memory, 1.0, needs=ENGINE, on_gpu=True),
        Section("scaled_products", device.scaled_products, 0.5),
        Section("decode", device.decode, 0.5, needs=MODELS),
        Section("pinned_memory", device.pinned_memory, 0.7, needs=("psutil",), on_gpu=True),
        Section("compiled_blocks", engine.compiled_blocks, 3.0, needs=ENGINE),
        Section("sdxl_by_step", second.sdxl_by_step, 3.0, part=2, needs=MODELS),
        Section("graphs", engine.graphs, 1.5, part=2, needs=ENGINE),
        Section("wan_14b_step", second.wan_14b_step, 2.5, part=2, needs=MODELS),
        Section("load_safetensors", second.load_safetensors, 3.0, part=2, needs=ENGINE),
    )


def missing_packages() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is None]


class Results:
    """Files of a run: one for each section, replaced whole with each figure."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self._path(name)).read_text())
        except (OSError, ValueError, TypeError):
            return {}

    def write(self, name: str, content: dict[str, Any]) -> None:
        if self._folder is None:
            return
        part = self._path(name).with_suffix(".part")
        part.write_text(json.dumps(content, indent=1, default=str))
        part.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return (self._folder or Path("/nowhere")) / f"{name}.json"


def run_section(section: Section, bench: Bench, results: Results, end: float) -> dict[str, Any]:
    """Run until the section's limit or ``end`` (monotonic). Errors are part of the result."""
    began = time.monotonic()
    limit = min(began + 60 * section.minutes, end)
    tries = results.read(section.name).get("tries", 0) + 1
    content: dict[str, Any] = {"section": section.name, "status": "running", "tries": tries}
    content["figures"] = figures = list[Any]()
    results.write(section.name, content)
    try:
        for facts in section.run(bench):
            figures.append(dict(facts))
            print(json.dumps({section.name: dict(facts)}, default=str), flush=True)
            results.write(section.name, content)
            if time.monotonic() > limit:
                content["status"] = "cut"
                break
        else:
            content["status"] = "done"
    except Exception as error:
        content |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
        content["traceback"] = traceback.format_exc().splitlines()[-12:]
    content["took_s"] = round(time.monotonic() - began, 2)
    results.write(section.name, content)
    return content


def reason_to_skip(section: Section, bench: Bench, results: Results, end: float) -> str:
    """Why the section is not run; empty if it is."""
    earlier = results.read(section.name)
    if earlier.get("status") in ("done", "cut", "failed"):
        return "it is done"
    if earlier.get("tries", 0) >= TRIES:
        return f"it ended the process {TRIES} times"
    if lacking := [name for name in section.needs if find_spec(name) is None]:
        return f"{', '.join(lacking)} is missing"
    if section.on_gpu and not bench.on_gpu:
        return "it says nothing on a CPU"
    return "out of time" if time.monotonic() > end else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: that the sections work")
    parser.add_argument("--part", type=int, choices=(1, 2), help="default: 1; --tiny: both")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin nothing after that")
    parser.add_argument("--only", nargs="*", metavar="SECTION")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a file of JSON for each section")
    given = parser.parse_args(arguments)
    if find_spec("torch") is None:
        print("torch is missing: install it with the GPU's driver in mind.", file=sys.stderr)
        return 2
    if absent := missing_packages():
        print(f"Missing, so sections are left out: {', '.join(absent)}.", flush=True)
    import torch  # noqa: PLC0415

    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU. Use --device cpu --tiny.", file=sys.stderr)
        return 2
    return _run(given)


def _run(given: argparse.Namespace) -> int:
    from benchmarks.gpu.bench import Bench  # noqa: PLC0415

    end = time.monotonic() + 60 * given.minutes
    bench, results = Bench(given.device, tiny=given.tiny), Results(given.out)
    known = sections()
    if unknown := set(given.only or ()) - {each.name for each in known}:
        print(f"There is no section {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    part = given.part or (None if given.tiny or given.only else 1)
    failed = 0
    for section in known:
        if (part is not None and section.part != part) or section.name not in (
            given.only or [each.name for each in known]
        ):
            continue
        if reason := reason_to_skip(section, bench, results, end):
            print(json.dumps({section.name: f"left out: {reason}"}), flush=True)
            continue
        content = run_section(section, bench, results, end)
        facts = {name: content[name] for name in ("status", "took_s")}
        print(json.dumps({section.name: facts | {"error": content.get("error")}}), flush=True)
        failed += content["status"] == "failed"
        bench.free()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
