"""Runs of sections: results in files, limits of time, and the process that is watched over.

A limit is checked after each figure, and a figure may take minutes: code is compiled, or a driver
hangs. So a process of its own runs the sections. The one that started it ends it at the limit of
the section it is at, and starts another one for the rest. Figures are written as they come.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.section import Section

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

TRIES = 2
"""A section that ended the process twice is left out."""

BROKEN = 75
"""Exit status of a process after a section that failed: what is left of it may disturb the next
one, and a device after an illegal access computes nothing more."""

ENDED = ("done", "cut", "failed")
LOOK_S = 0.1


class Results:
    """Files of a run: one for each section, replaced whole with each figure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self._path(name)).read_text())
        except (OSError, ValueError):
            return {}

    def write(self, name: str, content: dict[str, Any]) -> None:
        part = self._path(name).with_suffix(".part")
        part.write_text(json.dumps(content, indent=1, default=str))
        part.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def run_section(section: Section, bench: Bench, results: Results, end: float) -> dict[str, Any]:
    """Run until the section's limit or ``end`` (monotonic). Errors are part of the result."""
    began = time.monotonic()
    limit = min(began + 60 * section.minutes, end)
    tries = results.read(section.name).get("tries", 0) + 1
    content: dict[str, Any] = {"section": section.name, "status": "running", "tries": tries}
    # By the clock that all processes of a machine share.
    content |= {"began": began, "limit": limit}
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


def reason_to_skip(section: Section, results: Results, end: float, *, on_gpu: bool) -> str:
    """Why the section is not run; empty if it is."""
    earlier = results.read(section.name)
    if earlier.get("status") in ENDED:
        return "it is done"
    if earlier.get("tries", 0) >= TRIES:
        return f"it ended the process {TRIES} times"
    if lacking := [name for name in section.needs if find_spec(name) is None]:
        return f"{', '.join(lacking)} is missing"
    if section.on_gpu and not on_gpu:
        return "it says nothing on a CPU"
    return "out of time" if time.monotonic() > end else ""


def run_here(chosen: Sequence[Section], bench: Bench, results: Results, end: float) -> int:
    """Run the sections that are left in this process, until one fails. Return its exit status."""
    for section in chosen:
        if reason_to_skip(section, results, end, on_gpu=bench.on_gpu):
            continue
        content = run_section(section, bench, results, end)
        facts = {name: content[name] for name in ("status", "took_s")}
        print(json.dumps({section.name: facts | {"error": content.get("error")}}), flush=True)
        if content["status"] == "failed":
            return BROKEN
        bench.free()
    return 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Process that runs sections, started again while there are any left."""

    command: Callable[[float], Sequence[str]]  # by the end of the run (monotonic)
    results: Results
    end: float
    on_gpu: bool

    def run(self, chosen: Sequence[Section]) -> None:
        """Return at ``end`` at the latest, or when each section has ended or cannot run."""
        while left := self._left(chosen):
            before = self._tries(left)
            process = subprocess.Popen(  # noqa: S603 our own command
                [*self.command(self.end)], start_new_session=True
            )
            try:
                self._wait(process, left)
            finally:
                _end(process)
            if process.returncode == 0 or self._tries(left) == before:
                return  # there is nothing to run, or it ends before it runs anything

    def _left(self, chosen: Sequence[Section]) -> list[Section]:
        def skipped(each: Section) -> str:
            return reason_to_skip(each, self.results, self.end, on_gpu=self.on_gpu)

        return [each for each in chosen if not skipped(each)]

    def _tries(self, left: Sequence[Section]) -> int:
        return sum(self.results.read(each.name).get("tries", 0) for each in left)

    def _wait(self, process: subprocess.Popen[bytes], left: Sequence[Section]) -> None:
        """Until the process ends, or a section has reached its limit."""
        while process.poll() is None:
            now = time.monotonic()
            for section in left:
                content = self.results.read(section.name)
                if content.get("status") == "running" and now > content.get("limit", self.end):
                    _end(process)
                    self._cut(section.name)
                    return
            if now > self.end:
                return
            time.sleep(LOOK_S)

    def _cut(self, name: str) -> None:
        """Say of a section that its process was ended, beside the figures that it has."""
        content = self.results.read(name)
        if content.get("status") != "running":  # it ended meanwhile
            return
        took = round(time.monotonic() - content["began"], 2)
        content |= {"status": "cut", "took_s": took, "ended": "while it was at a figure"}
        self.results.write(name, content)
        print(json.dumps({name: {"status": "cut", "took_s": took}}), flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started, such as torch's compilers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
