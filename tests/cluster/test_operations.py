"""What operators and clouds do to a cluster while clients use it, again and again.

``--rounds`` says how often: ten of them, with four operations each, take half an hour or more.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.darkroom import clean_environment, eventually
from tests.cluster.load import Load
from tests.cluster.nodes import (
    SeveralNodes,
    drain_node,
    haproxy_switches,
    in_bucket,
    several_nodes,
    with_stores,
)
from tests.fakes.metadata_service import metadata_service
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.crash,
    pytest.mark.long,
    pytest.mark.timeout(7200),
]

CLIENTS = 4
EACH = 25
"""Requests that clients submit at least during an operation."""

NOTICE_S = 30.0
"""Time that a cloud gives a spot node. AWS gives two minutes."""

POOL: dict[str, Any] = {"families": ["small"], "num_gpus": 1, "num_cpus": 0.1, "slots": 2}


class Installation:
    """A Darkroom with two ingress replicas, and a pool of three replicas, each on a node."""

    def __init__(self, nodes: SeveralNodes, folder: Path, **settings: Any) -> None:
        self.nodes = nodes
        self._file = folder / "darkroom.yaml"
        self._pool = POOL
        models = folder / "models.yaml"
        models.write_text("endpoints: {test/small: {family: small, schema: open}}")
        self._settings = settings | {
            "data_dir": str(folder / "data"),
            "models": str(models),
            "families": {"small": "tests.fakes.family:ProbeFamily"},
            "ingress_replicas": 2,
            "demo": False,
        }
        nodes.add("A10G")
        self.write(3)
        nodes.deploy(self._file)

    def write(self, replicas: int, **settings: Any) -> None:
        """Write its configuration file, which it follows. ``slots`` are the pool's."""
        self._pool = self._pool | {"min_replicas": replicas, "max_replicas": replicas}
        if "slots" in settings:
            self._pool["slots"] = settings.pop("slots")
        self._settings |= settings
        args = self._settings | {"pools": {"small": self._pool}}
        application = {"import_path": "serve_app.app:build", "args": args}
        written = self._file.with_suffix(".new")
        written.write_text(yaml.safe_dump({"applications": [application]}))
        written.replace(self._file)

    def all_run(self, small: int) -> bool:
        """True if so many replicas of the pool run, two of the ingress, and no other is there."""
        expected = {"ingress": 2, "small": small}
        deployments = self.nodes.replicas()
        return {name: len(group) for name, group in deployments.items()} == expected and all(
            replica["state"] == "RUNNING"
            for replicas in deployments.values()
            for replica in replicas
        )

    def actors(self) -> set[str]:
        return {replica["actor"] for group in self.nodes.replicas().values() for replica in group}

    def working_node(self) -> str:
        return self.nodes.replicas()["small"][0]["node"]

    # What is done to it. Each ends when all replicas run again.

    def scale_down(self) -> None:
        self.write(2)
        eventually(lambda: self.all_run(2), "two replicas are left")
        self.write(3)
        eventually(lambda: self.all_run(3), "the pool has grown again")

    def redeploy(self, number: int) -> None:
        before = self.actors()
        self.write(3, slots=2 + number % 2, lease_s=30 + number % 2)
        self.nodes.deploy(self._file)
        eventually(
            lambda: self.all_run(3) and not before & self.actors(), "all replicas are others"
        )

    def drain(self) -> None:
        self.nodes.add("L4")
        node = self.working_node()
        assert drain_node(self.nodes, node, 600.0) < 600
        eventually(lambda: self.all_run(3) and not self._works(node), f"{node} is empty")
        self.nodes.remove(node)

    def spot_notice(self) -> None:
        self.nodes.add("A10G")
        node = self.working_node()
        address, node_id = self.nodes.where(node)
        with metadata_service("azure") as service:
            watch = [sys.executable, "-m", "serve_app.cli", "watch-spot", "--address", address]
            watch += ["--node-id", node_id, "--metadata-url", service.url]
            switches = {"RAY_AUTH_MODE": "disabled"}
            with subprocess.Popen(watch, env=clean_environment() | switches) as watching:
                eventually(lambda: service.calls > 3, "the command watches")
                ends = time.monotonic() + NOTICE_S
                service.ends_at = datetime.now(UTC) + timedelta(seconds=NOTICE_S)
                assert watching.wait(NOTICE_S) == 0
        threading.Event().wait(max(0.0, ends - time.monotonic()))
        self.nodes.remove(node)  # whether or not it is empty
        eventually(lambda: self.all_run(3) and not self._works(node), f"nothing is left on {node}")

    def _works(self, node: str) -> bool:
        return any(replica["node"] == node for replica in self.nodes.replicas()["small"])


@pytest.fixture
def installation(conninfo: str, moto_server: S3Server, tmp_path: Path) -> Iterator[Installation]:
    secrets = with_stores(conninfo, moto_server)
    with (
        haproxy_switches() as switches,
        several_nodes(tmp_path, **switches, **secrets) as nodes,
    ):
        place = Installation(nodes, tmp_path, **in_bucket(moto_server))
        eventually(lambda: place.all_run(3), "it serves")
        yield place


def test_scaling_down_redeploys_drains_and_spot_notices_under_load_fail_nothing(
    installation: Installation, conninfo: str, request: pytest.FixtureRequest
) -> None:
    with Load(installation.nodes.port, conninfo, CLIENTS) as load:
        load.goes_on()
        for number in range(request.config.getoption("--rounds")):
            for operation in (
                installation.scale_down,
                lambda n=number: installation.redeploy(n + 1),
                installation.drain,
                installation.spot_notice,
            ):
                before = len(load.accepted)
                operation()
                load.goes_on(max(0, before + EACH - len(load.accepted)))
                assert load.refused == []
        load.finish()
    assert load.refused == []
    rows = load.rows()
    assert {(row["state"], row["failures"]) for row in rows} == {("succeeded", 0)}
    assert any(row["attempt"] > 1 for row in rows)  # some were handed over


def test_serves_controller_and_proxy_killed_under_load_fail_no_request(
    installation: Installation, conninfo: str, request: pytest.FixtureRequest
) -> None:
    with Load(installation.nodes.port, conninfo, CLIENTS) as load:
        load.goes_on()
        for _ in range(request.config.getoption("--rounds")):
            before = len(load.refused)
            installation.nodes.kill("controller")
            load.goes_on(EACH)
            assert load.refused[before:] == []
            installation.nodes.kill("proxy")  # the calls that it carries break
            load.goes_on(EACH)
        load.finish()
    ended = {row["state"] for row in load.rows()}
    assert ended <= {"succeeded", "cancelled"}  # a run whose client has gone is cancelled
    assert {row["failures"] for row in load.rows()} == {0}
