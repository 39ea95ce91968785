"""A cluster of several nodes for a test: starts ``several_nodes`` and talks to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

import httpx
from psycopg.conninfo import make_conninfo

from serve_app.cli.connection.installation import SHORT_TEMP_DIR
from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_port, free_ports
from tests.cluster.darkroom import ROOT, clean_environment
from tests.cluster.processes import end_all, with_default_signals
from tests.storage.s3_servers import S3Server

KEY = "several-nodes:a-secret-for-tests-only"
# The control store gives a node up after three seconds without an answer.
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class SeveralNodes:
    """The driver's process, its input and its output."""

    def __init__(
        self, port: int, temporary: Path, asked: IO[str], answers: IO[str], log: Path
    ) -> None:
        self.port = port
        self.temporary = str(temporary)  # in the environment of each of its processes
        self._asked = asked
        self._answers = answers
        self._said = log
        self._turn = threading.Lock()

    def run(
        self, secrets: dict[str, str], arguments: dict[str, Any], proxies: str = "HeadOnly"
    ) -> tuple[str, Any, int]:
        """Start a Darkroom in place of the last: what is said of it, and its port."""
        message = {"arguments": arguments, "secrets": secrets, "proxies": proxies}
        word, facts = self._ask(message, frozenset({"placed", "refused"}))
        return word, facts, self.port

    def deploy(self, file: Path, proxies: str = "HeadOnly") -> None:
        """Deploy a configuration file as `serve deploy` does. Its secrets are among the switches
        that the cluster was made with."""
        self._ask({"deploy": str(file), "proxies": proxies}, frozenset({"deployed"}))

    def replicas(self) -> dict[str, list[dict[str, str]]]:
        """Replicas by deployment: ``actor``, ``state`` and the name of the ``node`` of each."""
        return dict(self._ask({"replicas": True}, frozenset({"replicas"}))[1])

    def add(self, accelerator: str) -> str:
        """Add a node with such a GPU. Returns its name."""
        return str(self._ask({"add": accelerator}, frozenset({"added"}))[1])

    def where(self, node: str) -> tuple[str, str]:
        """Address of the GCS, and the id of a node."""
        address, id_ = self._ask({"where": node}, frozenset({"there"}))[1]
        return str(address), str(id_)

    def remove(self, node: str) -> None:
        """Kill a node."""
        self._ask({"remove": node}, frozenset({"removed"}))

    def kill(self, what: str) -> None:
        """Kill the ``gcs`` or all of the ``head``, until ``start``; or Serve's ``controller`` or
        ``proxy`` on the head, which Serve starts again."""
        self._ask({"kill": what}, frozenset({"killed"}))

    def start(self, what: str) -> None:
        """Start again what was killed. It may not serve yet."""
        self._ask({"start": what}, frozenset({"started"}))

    def stop(self) -> None:
        """Stop what was deployed, in good order."""
        self._ask({"stop": True}, frozenset({"stopped"}))

    def _ask(self, question: dict[str, Any], words: frozenset[str]) -> tuple[str, Any]:
        with self._turn:
            self._asked.write(json.dumps(question) + "\n")
            self._asked.flush()
            for line in self._answers:
                word, _, facts = line.partition(" ")
                if word in words:
                    return word, json.loads(facts)
        raise AssertionError(self._said.read_text()[-4000:])


@contextlib.contextmanager
def several_nodes(
    folder: Path,
    workers: Sequence[str] = ("A10G", "L4"),
    *,
    bridged: bool = False,
    **switches: str,
) -> Generator[SeveralNodes, None, None]:
    """Run the driver until the end of the block. ``workers``: classes of GPU of its nodes.
    ``bridged``: they are on the bridge of ``network``, not on loopback. ``switches`` are variables
    of the environment, such as Ray's."""
    port, gcs_port = free_port(), free_port()
    temporary = SHORT_TEMP_DIR / f"darkroom-test-{port}"
    environment = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Where the user has a token, a driver turns its use on, also for a control store that it
        # starts again, after the nodes were started without.
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
    }
    log = folder / "nodes.err"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            with_default_signals(
                *(sys.executable, "-m", "tests.cluster.several_nodes"),
                *(["--bridged"] if bridged else []),
                *(str(temporary), str(port), str(gcs_port), *workers),
            ),
            env=clean_environment() | environment | switches,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield SeveralNodes(port, temporary, process.stdin, process.stdout, log)
        process.communicate(timeout=60)
    finally:
        end_all([process], str(temporary))
        shutil.rmtree(temporary, ignore_errors=True)


def drain_node(nodes: SeveralNodes, node: str, within_s: float) -> float:
    """Run ``darkroom drain-node`` as if on the node. Returns the seconds that it took."""
    address, node_id = nodes.where(node)
    drain = [sys.executable, "-m", "serve_app.cli", "drain-node", "--within", str(within_s)]
    began = time.monotonic()
    subprocess.run(
        [*drain, "--address", address, "--node-id", node_id],
        env=clean_environment() | {"RAY_AUTH_MODE": "disabled"},
        check=True,
    )
    return time.monotonic() - began


@contextlib.contextmanager
def haproxy_switches() -> Generator[dict[str, str], None, None]:
    """Switches with which HAProxy is on the head, as `cluster.yaml` and the chart have it."""
    metrics, stats, fallback = free_ports(3)
    sockets = SHORT_TEMP_DIR / f"h{stats}"  # HAProxy's paths are short
    sockets.mkdir()
    try:
        yield {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy.write_script(sockets, secret=None)),
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            # Ray's is 30 s, which each of the ingress replicas that a deployment replaces would
            # take.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "FORWARDED_ALLOW_IPS": "",
        }
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def with_stores(conninfo: str, storage: S3Server) -> dict[str, str]:
    return {
        # The role of the tests' server does not wait for the disk, which a start refuses.
        "DARKROOM_DATABASE_URL": make_conninfo(conninfo, options="-c synchronous_commit=on"),
        "DARKROOM_API_KEY": KEY,
        "DARKROOM_S3_ACCESS_KEY_ID": storage.key.access_key_id,
        "DARKROOM_S3_SECRET_ACCESS_KEY": storage.key.secret_access_key,
    }


def in_bucket(storage: S3Server) -> dict[str, str | None]:
    location = storage.new_bucket()
    return {
        "s3_bucket": location.bucket,
        "s3_endpoint_url": location.endpoint_url,
        "s3_region": location.region,
    }


def client_at(port: int) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Key {KEY}"}, timeout=60
    )
