"""Process of a PostgreSQL server: check that it lives, measure its work, stop it."""

from __future__ import annotations

import contextlib
import signal
import time

import psutil

FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT
FAST_STOP_S = 60.0
IMMEDIATE_STOP_S = 10.0


def effort(process: psutil.Process) -> float:
    """Work done so far by the process and its children: CPU seconds plus MiB moved."""
    total = 0.0
    for member in (process, *children(process)):
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            total += times.user + times.system
        # Not available on every system and to every user.
        with contextlib.suppress(psutil.Error, AttributeError, NotImplementedError):
            moved = member.io_counters()
            total += (moved.read_bytes + moved.write_bytes) / 2**20
    return round(total, 2)


def stop(process: psutil.Process) -> None:
    """Stop a server: gracefully, then as in a crash, then by force."""
    own = children(process)
    for number, patience_s in (
        (FAST, FAST_STOP_S),
        (IMMEDIATE, IMMEDIATE_STOP_S),
        (signal.SIGKILL, IMMEDIATE_STOP_S),
    ):
        if not alive(process):
            break
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        _wait(process, patience_s)
    psutil.wait_procs(own, timeout=IMMEDIATE_STOP_S)


def _wait(process: psutil.Process, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    """True if the process has not ended. A zombie is not alive."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(process: psutil.Process) -> list[psutil.Process]:
    """All descendants of the process; empty if it is gone."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
