"""Runs of sections: limits of time, and the process that is watched over.

A limit is checked after each figure, and a figure may take minutes: code is compiled, or a driver
hangs. So a process of its own runs the sections. The one that started it ends it at the limit of
the section it is at, and starts another one for the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.results import LOG, Results
from benchmarks.gpu.section import Section

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

TRIES = 2
"""Times that a section is begun: once more where it ended the process, and once more by a later
run where it was cut or failed."""

SPOILT = 75
"""Exit status of a process after a section that failed, or that spoils it: what is left of it may
disturb the next one, and a device after an illegal access computes nothing more."""

ENDED = ("done", "cut", "failed")
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the command: until when it lasts (monotonic), and what it runs."""

    name: str  # of this call, to know what was cut by an earlier one
    end: float
    on_gpu: bool
    commit: str
    patience: float = 1.0  # times the sections' limits

    def reason_to_skip(self, section: Section, results: Results) -> str:
        """Why the section is not run; empty if it is."""
        earlier = results.section(section.name)
        status, tries = earlier.get("status"), earlier.get("tries", 0)
        if status == "done":
            return "it is done"
        if status in ENDED and (earlier.get("run") == self.name or tries >= TRIES):
            return f"it was {status}"
        if tries >= TRIES:
            return f"it ended the process {TRIES} times"
        if lacking := [name for name in section.needs if find_spec(name) is None]:
            return f"{', '.join(lacking)} is missing"
        if section.on_gpu and not self.on_gpu:
            return "it says nothing on a CPU"
        return "out of time" if time.monotonic() > self.end else ""


def run_section(section: Section, bench: Bench, results: Results, run: Run) -> dict[str, Any]:
    """Run until the section's limit or the run's end. Errors are part of the result."""
    began = time.monotonic()
    limit = min(began + section.seconds * run.patience, run.end)
    figures = list[Any]()
    content: dict[str, Any] = {
        "status": "running",
        "tries": results.section(section.name).get("tries", 0) + 1,
        "run": run.name,
        "commit": run.commit,
        # By the clock that all processes of a machine share.
        "began": began,
        "limit": limit,
        "figures": figures,
    }
    results.update(section.name, content)
    try:
        for facts in section.run(bench):
            figures.append(dict(facts))
            results.update(section.name, content)
            if time.monotonic() > limit:
                content["status"] = "cut"
                break
        else:
            content["status"] = "done"
    except Exception as error:
        content |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
        content["traceback"] = traceback.format_exc().splitlines()[-12:]
    content["took_s"] = round(time.monotonic() - began, 2)
    results.update(section.name, content)
    return content


def run_here(chosen: Sequence[Section], bench: Bench, results: Results, run: Run) -> int:
    """Run the sections that are left in this process, until one fails or spoils it. Return its exit
    status."""
    for section in chosen:
        if run.reason_to_skip(section, results):
            continue
        content = run_section(section, bench, results, run)
        print(_line(section.name, content), flush=True)
        if content["status"] == "failed" or section.spoils:
            return SPOILT
        bench.free()
    return 0


def _line(name: str, content: dict[str, Any]) -> str:
    error = f": {content['error'][:200]}" if "error" in content else ""
    return f"{name}: {content['status']} after {content['took_s']:.0f} s{error}"


@dataclass(frozen=True, slots=True)
class Watch:
    """Process that runs sections, started again while there are any left."""

    command: Sequence[str]
    results: Results
    run: Run

    def watch(self, chosen: Sequence[Section]) -> int:
        """Return at the run's end at the latest, or when each section has ended or cannot run.

        Returns the exit status of a process that ended before it ran anything; else 0.
        """
        while left := self._left(chosen):
            before = self._tries(left)
            with (self.results.folder / LOG).open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 our own command
                    [*self.command], start_new_session=True, stderr=log
                )
                try:
                    self._wait(process, left)
                finally:
                    _end(process)
            if process.returncode == 0:
                return 0
            if self._tries(left) == before:
                return process.returncode
        return 0

    def _left(self, chosen: Sequence[Section]) -> list[Section]:
        return [section for section in chosen if not self.run.reason_to_skip(section, self.results)]

    def _tries(self, left: Sequence[Section]) -> int:
        return sum(self.results.section(section.name).get("tries", 0) for section in left)

    def _wait(self, process: subprocess.Popen[bytes], left: Sequence[Section]) -> None:
        """Until the process ends, or a section has reached its limit."""
        while process.poll() is None:
            now, contents = time.monotonic(), self.results.read()["sections"]
            for section in left:
                content = contents.get(section.name, {})
                if content.get("status") == "running" and now > content.get("limit", self.run.end):
                    _end(process)
                    self._cut(section.name)
                    return
            if now > self.run.end:
                return
            time.sleep(LOOK_S)

    def _cut(self, name: str) -> None:
        """Say of a section that its process was ended, beside the figures that it has."""
        content = self.results.section(name)
        if content.get("status") != "running":  # it ended meanwhile
            return
        took = round(time.monotonic() - content["began"], 2)
        content |= {"status": "cut", "took_s": took, "ended": "while it was at a figure"}
        self.results.update(name, content)
        print(_line(name, content), flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started, such as torch's compilers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
