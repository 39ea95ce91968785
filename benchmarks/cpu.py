"""Where the CPU time of a call goes: by role of the process, as the operating system counts."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psutil

from tests.cluster.darkroom import Darkroom

ROLES = (
    ("ingress", "ServeReplica:darkroom:ingress"),
    ("replica", "ServeReplica:darkroom-"),
    ("bare", "ServeReplica:bare"),
    ("plain", "ServeReplica:plain"),
    ("haproxy", "haproxy"),
    ("postgres", "postgres"),
)
"""Role → what the command line has in it; the first that fits. The rest is Ray's own."""

Roles = Sequence[tuple[str, str]]


def seconds_of(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds since they were started, of those that still run."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def processes_of(darkroom: Darkroom) -> Iterator[psutil.Process]:
    """All of an installation: its own, Ray's, its database's and what runs beside it."""
    yield darkroom.process
    yield from darkroom.process.children(recursive=True)
    postmaster = darkroom.postgres()
    yield postmaster
    yield from postmaster.children(recursive=True)


class CpuByRole:
    """Counts between ``start`` and ``per_call``. The load is that of this very process."""

    def __init__(self, darkroom: Darkroom, roles: Roles = ROLES) -> None:
        self._darkroom = darkroom
        self._roles = roles
        self._before: Mapping[str, float] = {}

    def start(self) -> None:
        self._before = self._seconds()

    def per_call(self, calls: float) -> dict[str, float]:
        """Milliseconds of CPU a call, the most expensive role first."""
        now = self._seconds()
        spent = {role: now[role] - self._before.get(role, 0.0) for role in now}
        ordered = sorted(spent.items(), key=lambda item: -item[1])
        return {role: 1000.0 * seconds / calls for role, seconds in ordered}

    def _seconds(self) -> Mapping[str, float]:
        total: dict[str, float] = defaultdict(float)
        for process in processes_of(self._darkroom):
            with contextlib.suppress(psutil.NoSuchProcess):
                total[role_of(process, self._roles)] += seconds_of([process])
        own = os.times()
        total["load"] = own.user + own.system
        return total


def role_of(process: psutil.Process, roles: Roles = ROLES) -> str:
    """One of the roles, or ``ray``."""
    line = " ".join(process.cmdline())
    return next((role for role, part in roles if part in line), "ray")


def summary(spent: Mapping[str, float]) -> str:
    """Such as ``1.52 ms of CPU a call: ingress 0.80, postgres 0.41 …``."""
    parts = ", ".join(f"{role} {ms:.2f}" for role, ms in spent.items() if ms >= 0.005)
    return f"{sum(spent.values()):.2f} ms of CPU a call: {parts}"
