"""Environment variables that configure Ray.

Each process of Ray reads them when it imports ray. They are therefore set before the first import
and inherited by the child processes.
"""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_ports
from serve_app.gateway import private_file
from serve_app.gateway.connect_proxy import LOOPBACK
from serve_app.gateway.gateway import Place
from serve_app.settings import SECRET_NAMES, SECRETS_DIR, Secrets


def flags(run_dir: Path) -> dict[str, str]:
    """Variables for a Darkroom on one machine."""
    common = {
        # Send no usage data.
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # Measured: a handle call takes 0.8 ms instead of 2.8 ms. User code runs on the replica's
        # event loop.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray's setting for a node without peers. Otherwise the GCS, the raylet and every actor
        # listen on all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A busy machine needs longer than Ray's 5 s to start the proxy. Ray would then stop and
        # restart the proxy forever.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # A proxy that has died is missed after three checks. With Ray's 10 s between them nothing
        # answered for 32 s (tests/bad_days).
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        # With the defaults, Ctrl-C takes half a minute.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        # Ray ends a process whose raylet is gone. It looks at this variable, and without it at the
        # parent, and takes process 1 for a dead one. That is the parent under systemd, in a
        # container and after `setsid`: `darkroom serve` ended in the middle of its stop.
        "RAY_RAYLET_PID": str(os.getpid()),
        # Ray's default, 15, is for background work. Here a client waits for the result.
        "RAY_worker_niceness": "0",
        # What Ray does for its dashboard, which is off, for clusters of many nodes, and as often as
        # ten times a second, took 7 % of a core at rest (benchmarks.idle_cost).
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_raylet_report_resources_period_milliseconds": "500",
        "RAY_kill_idle_workers_interval_ms": "2000",
        "RAY_object_manager_timer_freq_ms": "2000",
        "RAY_local_fs_monitor_interval_ms": "2000",
        "RAY_DASHBOARD_AGGREGATOR_AGENT_CHECK_MAIN_THREAD_LIVENESS_INTERVAL_SECONDS": "10",
        "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "2",
        "REPORTER_UPDATE_INTERVAL_MS": "60000",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # uvicorn believes X-Forwarded- headers of loopback, and there HAProxy forwards every call.
        "FORWARDED_ALLOW_IPS": "",
        "PYTHONUNBUFFERED": "1",
    }
    if not haproxy.available():
        return common
    metrics, stats, fallback = free_ports(3)  # avoids conflicts between two Darkrooms
    sockets = run_dir / "h"  # HAProxy allows 97 characters of a path; Ray's file names take 69
    return common | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # A frozen ingress is given up, with the calls that it has, after 10 to 13 s. No other one
        # takes them here, so a busy machine has more time than a cluster (cluster.yaml).
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "5",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_MAXCONN": str(most_connections()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        # When the replicas change, HAProxy reloads and closes connections older than this
        # (ray#66056). A synchronous run may take long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
        "RAY_SERVE_PORT_QUARANTINE_S": "30",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }


BREAKS_RAY = ("PYTHONOPTIMIZE",)
"""Variables without which Ray's processes start: at 2, its dashboard's agent fails for want of
docstrings, and `ray.init` gives up after half a minute."""

MOST_CONNECTIONS = 16_384
"""Of HAProxy: as many as four ingress processes allow open calls. Ray's default, 4,096, is what one
of them allows."""
OTHER_DESCRIPTORS = 1_000


def most_connections() -> int:
    """Connections that HAProxy may accept. It takes two file descriptors for each, two more for
    each fourth, for pipes, and some others, and does not start if the hard limit allows fewer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(min(MOST_CONNECTIONS, (hard - OTHER_DESCRIPTORS) * 2 // 5), 100)


def write_token(run_dir: Path) -> dict[str, str]:
    """Write a token for Ray, with which one can run code, and return the variable for its file.

    Ray would write one to the home directory, which may not be writable, and with the umask.
    """
    token = run_dir / "ray_token"
    private_file.write(token, secrets.token_hex(32).encode(), secret=True)
    return {"RAY_AUTH_TOKEN_PATH": str(token)}


def hide_secrets(directory: Path, proxy_secret: str) -> None:
    """Move the secrets from this process's environment to files in ``directory``.

    Every process that is started inherits the environment: Ray's, HAProxy's. The ingress alone
    reads the files. ``proxy_secret``: see ``haproxy.write_script``. It replaces one that the user
    has set, because only the HAProxy processes of this start are in front of the ingress.
    """
    values = {**Secrets().by_name(), "DARKROOM_PROXY_SECRET": proxy_secret}
    directory.mkdir(mode=0o700, parents=True)
    for name, value in values.items():
        private_file.write(directory / name, value.encode(), secret=True)
    for name in SECRET_NAMES:
        os.environ.pop(name, None)  # noqa: TID251 of the processes that are started
    os.environ[SECRETS_DIR] = str(directory)  # noqa: TID251 writes for the ingress


def export(
    run_dir: Path,
    data_dir: Path,
    trusted_proxies: Sequence[IPv4Network | IPv6Network],
    proxy_secret: str,
    http: Place,
) -> str:
    """Set the variables in this process's environment. Variables that the user has set are kept.

    ``http``: where Darkroom listens. Returns the host to give to Ray Serve.

    ``proxy_secret``: see ``haproxy.write_script``. ``data_dir``: holds its script if need be. The
    script starts the HAProxy that the user has chosen.
    """
    (run_dir / "h").mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = flags(run_dir) | write_token(run_dir)
    if haproxy.available():
        others = [data_dir]
        os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(  # noqa: TID251 writes for Ray
            haproxy.write_script(
                run_dir, trusted_proxies, secret=proxy_secret, http=http, others=others
            )
        )
    for name, value in chosen.items():
        os.environ.setdefault(name, value)  # noqa: TID251 writes for Ray, does not read a setting
    for name in BREAKS_RAY:
        os.environ.pop(name, None)  # noqa: TID251 of Ray's processes
    return LOOPBACK if haproxy.available() else http[0]
