"""CPU and memory of `darkroom serve` at rest, by process.

    python -m benchmarks.idle_cost [--seconds 60] [--settle 30] [--statements]

The installation has one pool with one replica, and nobody calls it. CPU is in percent of one core,
as the operating system counts it, so a busy machine makes no figure worse. Memory is the
proportional share (PSS): pages that processes share are counted once in the sum. ``--statements``:
also how often each statement of the ingress runs.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import httpx2
import psutil

from benchmarks.cpu import ROLES, CpuByRole, processes_of, role_of
from serve_app.free_ports import free_port
from tests.cluster.darkroom import Darkroom

IDLE_ROLES = (
    *ROLES,
    ("controller", "ServeController"),
    ("proxy", "ProxyActor"),
    ("proxy", "HAProxyManager"),
    ("gcs", "gcs_server"),
    ("raylet", "raylet/raylet"),
    ("runtime env", "runtime_env/agent"),
    ("runtime env", "RuntimeEnvAgent"),
    ("agent", "dashboard/agent"),
    ("agent", "DashboardAgent"),
    ("dashboard", "dashboard/dashboard"),
    ("autoscaler", "autoscaler/_private/monitor"),
    ("log monitor", "log_monitor"),
    ("worker", "ray::IDLE"),
    ("serve", "serve_app.cli"),
)
OURS = "ingress", "replica", "postgres"


def memory(darkroom: Darkroom) -> Mapping[str, float]:
    """MB by role."""
    total: defaultdict[str, float] = defaultdict(float)
    for process in processes_of(darkroom):
        with contextlib.suppress(psutil.NoSuchProcess):
            total[role_of(process, IDLE_ROLES)] += process.memory_full_info().pss / 1e6
    return total


def statements(port: int) -> Counter[str]:
    """Calls of each statement since the ingress started."""
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    matches = re.findall(
        r"^darkroom_database_statement_seconds_count\{(.*?)\} (\S+)$", text, re.MULTILINE
    )
    return Counter({name: int(float(calls)) for name, calls in matches})


def measure(darkroom: Darkroom, seconds: float, metrics_port: int, *, by_statement: bool) -> None:
    before = statements(metrics_port)
    cpu = CpuByRole(darkroom, IDLE_ROLES)
    cpu.start()
    time.sleep(seconds)
    spent = {role: ms / 10 for role, ms in cpu.per_call(seconds).items() if role != "load"}
    ran = statements(metrics_port) - before
    resident = memory(darkroom)
    for p in processes_of(darkroom):
        if role_of(p, IDLE_ROLES) in ("ray", "worker", "serve"):
            print(p.pid, " ".join(p.cmdline())[:150])
    print(f"{'':14}{'% of a core':>12}{'MB':>8}")
    for role in sorted(resident, key=lambda role_name: -spent.get(role_name, 0.0)):
        print(f"{role:14}{spent.get(role, 0.0):12.2f}{resident[role]:8.0f}")
    ours = sum(spent.get(role, 0.0) for role in OURS)
    print(f"{'ours':14}{ours:12.2f}{sum(resident.get(role, 0.0) for role in OURS):8.0f}")
    print(f"{'all':14}{sum(spent.values()):12.2f}{sum(resident.values()):8.0f}")
    print(f"{ran.total() / seconds:.1f} statements a second")
    if by_statement:
        for name, calls in ran.most_common():
            print(f"{calls / seconds:8.2f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the measurement")
    parser.add_argument("--settle", type=float, default=30.0, help="after the start")
    parser.add_argument("--statements", action="store_true", help="also the statements")
    options = parser.parse_args()
    metrics_port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        darkroom = Darkroom(Path(scratch) / "data", metrics_port=str(metrics_port))
        try:
            darkroom.start()
            time.sleep(options.settle)
            measure(darkroom, options.seconds, metrics_port, by_statement=options.statements)
            darkroom.stop()
        finally:
            darkroom.clear_away()


if __name__ == "__main__":
    main()
