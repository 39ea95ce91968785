"""Record of the processes that a Darkroom started, so that the next start can stop leftovers.

Processes are left over when Darkroom is ended by ``kill -9``.
"""

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
class ProcessIdentity:
    """Process of a Darkroom. The start time guards against a pid that was reused."""

    pid: int
    start_time: float


def descendants() -> list[ProcessIdentity]:
    """All direct and indirect children of this process."""
    children: list[ProcessIdentity] = []
    for child in psutil.Process().children(recursive=True):
        try:
            children.append(ProcessIdentity(child.pid, child.create_time()))
        except psutil.NoSuchProcess:
            continue
    return children


def orphan_processes(run_dir: Path) -> list[ProcessIdentity]:
    """Processes with ``run_dir`` in their command line or environment.

    This finds orphans: if a process of Ray is stopped while it starts another, the new process has
    no parent and is in no record.
    """
    orphans: list[ProcessIdentity] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            texts = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(run_dir) in text for text in texts):
                orphans.append(ProcessIdentity(process.pid, process.create_time()))
    return orphans


class RunRecord:
    """The file ``run.json``: the addresses and the started processes of this Darkroom.

    All these processes have ``run_dir`` in their command line or environment, which identifies the
    ones that the record missed.
    """

    def __init__(self, path: Path, run_dir: Path) -> None:
        self._path = path
        self._run_dir = run_dir
        self._started: dict[int, ProcessIdentity] = {}
        self._addresses: dict[str, str] = {}

    def write(self, url: str, **more: str) -> None:
        """Add the current descendants and write the file.

        A recorded process stays in the record while it lives, because it may have been orphaned.
        ``more`` are further addresses by their keys in the file.
        """
        addresses = {"url": url, **more}
        alive = {descendant.pid: descendant for descendant in descendants()}
        kept = {
            pid: identity
            for pid, identity in self._started.items()
            if _process(identity) is not None
        }
        merged = kept | alive
        if merged == self._started and addresses == self._addresses:
            return
        self._started, self._addresses = merged, addresses
        me = ProcessIdentity(os.getpid(), psutil.Process().create_time())
        content = {
            **addresses,
            "serve": asdict(me),
            "started": [asdict(identity) for identity in merged.values()],
        }
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(json.dumps(content, indent=1))
        fresh.replace(self._path)

    def stop_leftover_processes(self) -> int:
        """Stop the processes that an earlier run left behind, and return their number."""
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
            recorded = [
                ProcessIdentity(**fields) for fields in [*content["started"], content["serve"]]
            ]
        except (OSError, ValueError, KeyError, TypeError):
            recorded = []
        return stop_processes(recorded) + self._end_strays()

    def stop_all(self) -> None:
        """Stop every process of this run that is still alive, and delete the file."""
        stop_processes([*self._started.values(), *descendants()])
        self._end_strays()
        self._path.unlink(missing_ok=True)

    def _end_strays(self) -> int:
        ended = 0
        for _ in range(STRAY_ROUNDS):  # an orphan may be starting another process
            orphans = orphan_processes(self._run_dir)
            if not orphans:
                break
            ended += stop_processes(orphans, kill=True)  # orphans have no work to finish
        return ended


def _process(started: ProcessIdentity) -> psutil.Process | None:
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.start_time) < START_TIME_SLACK_S
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def stop_processes(recorded: list[ProcessIdentity], *, kill: bool = False) -> int:
    """Send SIGTERM, then SIGKILL to the processes that remain; with ``kill``, SIGKILL at once.

    A process whose start time differs from the record is left alone. Returns how many processes
    were found.
    """
    unique = {identity.pid: identity for identity in recorded if identity.pid != os.getpid()}
    processes = [
        process for identity in unique.values() if (process := _process(identity)) is not None
    ]
    for process in processes:
        _signal(process, kill=kill)
    _, stubborn = psutil.wait_procs(processes, timeout=END_WAIT_S)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=END_WAIT_S)
    return len(processes)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return
