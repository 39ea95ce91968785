"""The three paths of Darkroom, measured: ``python -m tests.architecture.paths`` prints them.

The page tests/architecture/README.md lists, for each path, the functions to read, in order.
This module runs real requests in one process (``scene``), records every function of ours that
begins (``trace``), and looks for those functions in that order.

**What counts.** The way begins where the first function of the list begins, and ends where the last
one begins. A module is on the way if a function of it begins in between, in each of the repeated
requests (so that what happens to run beside one is not on it), and if the body of such a
function has at least ``MIN_LINES`` lines: a property, a one-line function or the generated method
of a dataclass sends no reader to its file. Importing a module does not count. Not on any way:
``serve_app.telemetry`` (clock, log context, metrics), because everything calls it, and periodic
tasks (``PERIODIC``), which run meanwhile where each request takes seconds. Not on way (b):

- calls that serve the upload of the artifacts, in the task of that HTTP request and in what it
  begins: it is a request of its own, and with S3 the server is not ours. The replica's part, the
  uploader, counts;
- calls on the engine's thread, and modules inside ``deployments.engine`` other than its face
  ``engine.py``: way (c) is about them.

``all`` is the same count without ``MIN_LINES``.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.architecture.trace import UPLOAD, Call, Recorder, find

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests" / "architecture" / "README.md"
SECTION = "## The three paths"
MIN_LINES = 4
REPEATS = 3
"""Requests of which each must touch a module."""

TELEMETRY, ENGINE = "serve_app.telemetry", "deployments.engine"
PERIODIC = frozenset(
    {
        "EmbeddedPostgres._watch_supervisor",
        "Lanes._wake_collected",
        "Notifier._listen",
        "PeriodicTask._loop",
        "PresenceBook._loop",
        "Reporter._loop",
        "WeightKeeper._keep_on",
    }
)
"""Coroutines of tasks that run on their own, beside requests."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A function in one of the page's lists."""

    path: str  # of its file, from the root
    function: str  # qualified name

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"


@dataclass(frozen=True, slots=True)
class Way:
    """Result for one path. ``missing``: listed functions that were not called in order."""

    spine: Sequence[str]
    missing: Sequence[str]
    modules: Sequence[str]
    all: Sequence[str]


def read_lists() -> dict[str, list[Listed]]:
    """The page's three lists, by ``a``, ``b`` and ``c``."""
    section = PAGE.read_text().partition(f"{SECTION}\n")[2].partition("\n## ")[0]
    parts = re.split(r"^### \(([abc])\) .*$", section, flags=re.MULTILINE)
    return {
        name: list(_functions(text)) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _functions(text: str) -> Iterator[Listed]:
    for path, function in re.findall(
        r"^\d+\. \[`[\w/]+\.py`\]\(\.\./\.\./([\w/]+\.py)\) `([\w.]+)`", text, re.MULTILINE
    ):
        yield Listed(path, function)


def windows(calls: Sequence[Call], spine: Sequence[str]) -> list[Sequence[Call]]:
    """The calls of each way along ``spine``. A later way may begin before an earlier one ends."""
    spans: list[Sequence[Call]] = []
    begin = 0
    while (indices := find(calls, spine, begin)) is not None:
        first = max(i for i in range(begin, indices[1]) if calls[i].name == spine[0])
        spans.append(calls[first : indices[-1] + 1])
        begin = indices[1]
    return spans


def way(calls: Sequence[Call], spine: Sequence[str], name: str) -> Way:
    """The way along ``spine``."""
    repeats = windows(calls, spine)[-REPEATS:]
    if len(repeats) < REPEATS:
        called = {call.name for call in calls}
        absent = [function for function in spine if function not in called]
        return Way(spine, absent or ["all are called, but not in this order"], (), ())
    counted = [[call for call in repeat if _counts(call, name)] for repeat in repeats]
    everything = set.intersection(*({call.module for call in repeat} for repeat in counted))
    worth = set.intersection(
        *({call.module for call in repeat if _lines(call) >= MIN_LINES} for repeat in counted)
    )
    return Way(spine, (), sorted(worth), sorted(everything))


def _counts(call: Call, name: str) -> bool:
    if call.module.startswith(TELEMETRY) or call.task in PERIODIC:
        return False
    if name != "b":
        return True
    if call.thread == "engine" or call.origin == UPLOAD:
        return False
    return not call.module.startswith(f"{ENGINE}.") or call.module == f"{ENGINE}.engine"


def _lines(call: Call) -> int:
    return lengths(call.module).get(call.function, 0)


@functools.cache
def lengths(module: str) -> Mapping[str, int]:
    """Lines in the body of each function of a module, without its docstring."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    return dict(_lengths(tree, ""))


def _lengths(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            body = child.body[1:] if ast.get_docstring(child) else child.body
            size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield prefix + child.name, size
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _lengths(child, f"{prefix}{child.name}.")
        else:
            yield from _lengths(child, prefix)


def measure() -> dict[str, Way]:
    """Run the requests and measure the three paths. Call it once in a process, before threads."""
    # Imports torch, which starts no thread of Python's; under the recorder it takes twice as long.
    from tests.architecture import scene  # noqa: PLC0415

    recorder = Recorder()
    recorder.start()
    try:
        with tempfile.TemporaryDirectory(prefix="dk") as folder:
            posted, ran = asyncio.run(_requests(scene, Path(folder), recorder))
        merged = len(recorder.calls)
        scene.two_generations()
    finally:
        recorder.stop()
    calls = recorder.calls
    spines = {
        name: [function.name for function in each_list] for name, each_list in read_lists().items()
    }
    parts = {"a": calls[:posted], "b": calls[posted:ran], "c": calls[merged:]}
    return {name: way(part, spines[name], name) for name, part in parts.items()}


async def _requests(scene: Any, folder: Path, recorder: Recorder) -> tuple[int, int]:
    """Submit requests, then run them. Return how many calls were recorded by the end of each."""
    async with scene.scene(folder) as running:
        count = REPEATS + 2  # the first ones open caches and connections
        for _ in range(count):
            await running.post()
        posted = len(recorder.calls)
        await running.start_replica()
        end = time.monotonic() + 600
        while await running.count_successes() < count:
            if time.monotonic() > end:
                raise TimeoutError("The requests did not end within 600 s.")
            await asyncio.sleep(0.2)
        return posted, len(recorder.calls)


def main() -> None:
    """Print the three paths, or with ``--json`` one JSON object."""
    ways = measure()
    if "--json" in sys.argv:
        print(json.dumps({name: asdict(traced) for name, traced in ways.items()}))  # noqa: T201
        return
    for name, facts in ways.items():
        print(describe(name, facts))  # noqa: T201


def describe(name: str, call_path: Way) -> str:
    """The way with its modules, as text."""
    lines = [f"({name}) {len(call_path.modules)} modules; all {len(call_path.all)}"]
    lines += [f"    {number}. {step}" for number, step in enumerate(call_path.spine, 1)]
    lines += [f"    not called in this order: {step}" for step in call_path.missing]
    lines += [f"    {module}" for module in call_path.modules]
    short = [module for module in call_path.all if module not in call_path.modules]
    return "\n".join([*lines, f"    with short functions only: {', '.join(short)}", ""])


if __name__ == "__main__":
    main()
