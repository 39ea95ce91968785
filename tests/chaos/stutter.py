"""Runs pytest on a machine that stands still again and again: no test may rely on its speed.

``python -m tests.chaos.stutter [PYTEST ARGUMENTS]`` freezes pytest and all that it started, as a
machine does whose hypervisor gives its cores to others. They freeze together: a server that stands
still alone is a fault, which tests of their own are about; with its clients it is only slow.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time

import psutil

from tests.cluster.processes import Started, tree_of

FROZEN_S = (0.5, 2.5)
"""Longer than the leases and limits of tests that mean them to run out."""
RUNNING_S = (0.2, 2.0)


def running(process: psutil.Process) -> bool:
    """False for one that a test of a frozen process has stopped itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_STOPPED
    return False


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def freeze(root: Started, frozen_s: float) -> None:
    """Stop the process and all that descend from it, and continue them ``frozen_s`` later."""
    stopped = [process for process in tree_of(root) if running(process)]
    send(stopped, signal.SIGSTOP)
    try:
        time.sleep(frozen_s)
    finally:
        send(stopped, signal.SIGCONT)


def main(arguments: list[str]) -> int:
    """Returns pytest's exit status."""
    chance = random.Random()  # noqa: S311
    tests = subprocess.Popen([sys.executable, "-m", "pytest", *arguments])
    try:
        while tests.poll() is None:
            time.sleep(chance.uniform(*RUNNING_S))
            freeze(tests, chance.uniform(*FROZEN_S))
    except KeyboardInterrupt:
        tests.send_signal(signal.SIGINT)
    return tests.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
