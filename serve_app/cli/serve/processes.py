"""Which processes a Darkroom started, so that the next start can end what a kill -9 left."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

END_WAIT_S = 1.5
STRAY_ROUNDS = 3
START_TIME_SLACK_S = 0.05  # psutil computes it from the boot time, which moves by rounding


@dataclass(frozen=True, slots=True)
class Started:
    """A process of ours: the pid alone could be somebody else's by now."""

    pid: int
    start_time: float


def descendants() -> list[Started]:
    """All children of this process, and theirs."""
    found: list[Started] = []
    for child in psutil.Process().children(recursive=True):
        try:
            found.append(Started(child.pid, child.create_time()))
        except psutil.NoSuchProcess:
            continue
    return found


def strays(run_dir: Path) -> list[Started]:
    """Processes with ``run_dir`` in their command or environment. Ray may have been starting one
    while its parent was ended: that is nobody's child, and no record has it."""
    found: list[Started] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            told = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(run_dir) in one for one in told):
                found.append(Started(process.pid, process.create_time()))
    return found


class RunRecord:
    """``run.json``: where this Darkroom listens and what it has started.

    ``run_dir``, whose name is in what it gives to its processes, tells those that it missed.
    """

    def __init__(self, path: Path, run_dir: Path) -> None:
        self._path = path
        self._run_dir = run_dir
        self._started: dict[int, Started] = {}
        self._addresses: dict[str, str] = {}

    def write(self, url: str, **more: str) -> None:
        """Add the present descendants. A process once recorded stays: it may have been orphaned.
        ``more`` are further addresses, by the names under which others read them."""
        addresses = {"url": url, **more}
        alive = {one.pid: one for one in descendants()}
        kept = {pid: one for pid, one in self._started.items() if _process(one) is not None}
        merged = kept | alive
        if merged == self._started and addresses == self._addresses:
            return
        self._started, self._addresses = merged, addresses
        me = Started(os.getpid(), psutil.Process().create_time())
        content = {
            **addresses,
            "serve": asdict(me),
            "started": [asdict(one) for one in merged.values()],
        }
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(json.dumps(content, indent=1))
        fresh.replace(self._path)

    def end_leftovers(self) -> int:
        """End what an earlier run recorded and left behind; returns how many there were."""
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
            recorded = [Started(**one) for one in [*content["started"], content["serve"]]]
        except (OSError, ValueError, KeyError, TypeError):
            recorded = []
        return end(recorded) + self._end_strays()

    def end_all(self) -> None:
        """End everything that this run started and that is still there."""
        end([*self._started.values(), *descendants()])
        self._end_strays()
        self._path.unlink(missing_ok=True)

    def _end_strays(self) -> int:
        ended = 0
        for _ in range(STRAY_ROUNDS):  # one that is being started may start another
            found = strays(self._run_dir)
            if not found:
                break
            ended += end(found, kill=True)  # nobody's children have nothing to bring to an end
        return ended


def _process(started: Started) -> psutil.Process | None:
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.start_time) < START_TIME_SLACK_S
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def end(recorded: list[Started], *, kill: bool = False) -> int:
    """SIGTERM, then SIGKILL for those that stay, or at once; never a process that is not the
    recorded one."""
    unique = {one.pid: one for one in recorded if one.pid != os.getpid()}
    found = [process for one in unique.values() if (process := _process(one)) is not None]
    for process in found:
        _signal(process, kill=kill)
    _, stubborn = psutil.wait_procs(found, timeout=END_WAIT_S)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=END_WAIT_S)
    return len(found)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return
