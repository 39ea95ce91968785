"""Where the CPU time of a call goes: by role of the process, as the operating system counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping

import psutil

from tests.cluster.darkroom import Darkroom

ROLES = (
    ("ingress", "ServeReplica:darkroom:ingress"),
    ("replica", "ServeReplica:darkroom:"),
    ("bare", "ServeReplica:bare"),
    ("haproxy", "haproxy"),
    ("postgres", "postgres"),
)
"""Role → what the command line has in it; the first that fits. The rest is Ray's own."""


class CpuByRole:
    """Counts between ``start`` and ``per_call``. The load is that of this very process."""

    def __init__(self, darkroom: Darkroom) -> None:
        self._darkroom = darkroom
        self._before: Mapping[str, float] = {}

    def start(self) -> None:
        self._before = self._seconds()

    def per_call(self, calls: float) -> dict[str, float]:
        """Milliseconds of CPU a call, the most expensive role first."""
        now = self._seconds()
        spent = {role: now[role] - self._before.get(role, 0.0) for role in now}
        ordered = sorted(spent.items(), key=lambda each: -each[1])
        return {role: 1000.0 * seconds / calls for role, seconds in ordered}

    def _seconds(self) -> Mapping[str, float]:
        total: Counter[str] = Counter()
        for process in self._processes():
            try:
                times = process.cpu_times()
                total[self._role(process)] += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        own = os.times()
        total["load"] = own.user + own.system
        return total

    def _processes(self) -> Iterator[psutil.Process]:
        darkroom = self._darkroom.process
        yield darkroom
        yield from darkroom.children(recursive=True)
        postmaster = self._darkroom.postgres()
        yield postmaster
        yield from postmaster.children(recursive=True)

    def _role(self, process: psutil.Process) -> str:
        line = " ".join(process.cmdline())
        return next((role for role, part in ROLES if part in line), "ray")


def told(spent: Mapping[str, float]) -> str:
    """Such as ``1.52 ms of CPU a call: ingress 0.80, postgres 0.41 …``."""
    parts = ", ".join(f"{role} {ms:.2f}" for role, ms in spent.items() if ms >= 0.005)
    return f"{sum(spent.values()):.2f} ms of CPU a call: {parts}"
