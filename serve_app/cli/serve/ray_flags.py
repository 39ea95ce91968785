"""Ray's own switches. Ray reads them when it is imported, in each of its processes, so they are set
before the first import of ray and inherited from there.
"""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.cli import haproxy
from serve_app.cli.preflight import free_ports


def flags(run_dir: Path) -> dict[str, str]:
    """Variables for a Darkroom on one machine."""
    common = {
        # Nothing leaves the installation.
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # Measured: a handle call takes 0.8 ms in place of 2.8 ms. User code runs on the replica's
        # loop.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray's switch for a node that only its own machine talks to: without it the GCS, the raylet
        # and every actor listen on all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A machine that is busy takes longer than Ray's 5 s to start its proxy, which Ray then ends
        # and starts again, for ever.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # With the defaults Ctrl-C holds for half a minute.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        # Ray's default, 15, is for work that may wait. Whoever asks for a picture waits as well.
        "RAY_worker_niceness": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if not haproxy.available():
        return common
    metrics, stats, fallback = free_ports(3)  # so that two Darkrooms on one machine do not meet
    sockets = run_dir / "h"  # HAProxy takes 97 characters of a path, 69 of which are not ours
    return common | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        # A reload after a change of replicas ends connections older than this (ray#66056); a
        # synchronous run may take long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
        "RAY_SERVE_PORT_QUARANTINE_S": "30",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }


def export(run_dir: Path) -> None:
    """Set the flags in this process's environment. A flag that the user has set stays."""
    (run_dir / "h").mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = flags(run_dir)
    if haproxy.available():
        chosen["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(haproxy.write_script(run_dir))
    for name, value in chosen.items():
        os.environ.setdefault(name, value)  # noqa: TID251 writing for Ray, not reading a setting
