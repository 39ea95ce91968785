"""Somebody who runs a cluster, as the tutorial about it says: commands of ``cluster.yaml`` start
Ray on a head and another node, both on this machine, with a PostgreSQL and an S3 server."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from serve_app.cli.connection.installation import SHORT_TEMP_DIR
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.free_ports import free_port, free_ports
from tests.cluster.darkroom import ROOT
from tests.cluster.nodes import haproxy_switches, in_bucket, with_stores
from tests.cluster.processes import end_all
from tests.first_hour.rehearsal import Rehearsal
from tests.queue.database import Background
from tests.storage.s3_servers import S3Server, moto

WHO = "operator"
POOL = {"families": ["flux"], "num_cpus": 3, "min_replicas": 0, "max_replicas": 2, "slots": 2}
"""Fits on the other node only, and has no replica before there is a request."""

STARTED_S = 180


def cluster_operator(rehearsal: Rehearsal, *_other: str) -> None:
    """Has an empty database and an empty bucket. The Darkroom of ``_other``, its URL and its key,
    is that of the other people."""
    rehearsal.read(
        WHO,
        "docs/tutorials/cluster.md",
        "docs/how-to/use-your-own-postgresql.md",
        "docs/how-to/store-files.md",
    )
    folder = rehearsal.folder / "cluster"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        background = stack.enter_context(Background())
        postgres = EmbeddedPostgres(folder / "database", grace_s=0.5)
        conninfo = background.run(postgres.start())
        stack.callback(lambda: background.run(postgres.aclose()))
        storage = stack.enter_context(moto())
        secrets = with_stores(conninfo, storage)
        del secrets["DARKROOM_API_KEY"]  # the first start makes one
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in secrets.items()]
        (folder / "darkroom.env").write_text("".join(lines))
        shell = stack.enter_context(_shell(rehearsal.shell))
        _run_cluster(replace(rehearsal, shell=shell), folder, storage)


def _run_cluster(rehearsal: Rehearsal, folder: Path, storage: S3Server) -> None:
    port, gcs_port, dashboard_port = free_port(), *free_ports(2)
    (folder / "darkroom.yaml").write_text(_configuration(folder, port, storage))
    dashboard = f"--port={gcs_port} --dashboard-port={dashboard_port}"
    programs = str(Path(shutil.which("ray", path=rehearsal.shell["PATH"]) or "").parent)
    rehearsal.type(WHO, "starts the head", f"{_ray('head', folder, programs)} {dashboard}")
    other = f"{_ray('worker', folder, programs)} --num-cpus=4"
    rehearsal.type(WHO, "starts another node", other.replace(":6379", f":{gcs_port}"))
    at = f"cd {shlex.quote(str(folder))} && set -a && . ./darkroom.env && set +a && "
    rehearsal.type(
        WHO, "has the bucket checked", f"{at}darkroom doctor storage --config darkroom.yaml"
    )
    rehearsal.type(
        WHO, "writes Serve's file", f"{at}darkroom serve-config darkroom.yaml > serve.yaml"
    )
    deploy = f"{at}serve deploy serve.yaml --address http://127.0.0.1:{dashboard_port}"
    rehearsal.type(WHO, "deploys it", deploy)
    ready = f"curl -fsS --retry {STARTED_S} --retry-all-errors --retry-delay 1"
    rehearsal.type(WHO, "waits until it is ready", f"{ready} http://127.0.0.1:{port}/readyz")
    connection = f"--data-dir {shlex.quote(str(folder / 'data'))}"
    status = rehearsal.type(WHO, "looks at what runs where", f"darkroom status {connection}")
    rehearsal.expect("flux" in status, f"pool in the status: {status}")
    rehearsal.type(
        WHO,
        "sees a pool grow from nothing",
        f"{at}darkroom generate 'a red circle above a blue square' -m fal-ai/flux/schnell "
        f"--size 128x128 -o out.png {connection}",
    )
    status = rehearsal.type(WHO, "looks for the replica", f"darkroom status {connection} --json")
    replicas = [replica["pool"] for replica in json.loads(status)["replicas"]]
    rehearsal.expect(replicas == ["flux"], f"one replica: {replicas}")


def _configuration(folder: Path, port: int, storage: S3Server) -> str:
    """``darkroom.yaml``, as in the tutorial, with demo models in place of a GPU."""
    arguments: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "demo": True,
        "pools": {"flux": POOL},
        **{name: value for name, value in in_bucket(storage).items() if value},
    }
    application = {
        "name": "darkroom",
        "import_path": "serve_app.app:build",
        "route_prefix": "/",
        "args": arguments,
    }
    return yaml.safe_dump(
        {
            "http_options": {"host": "127.0.0.1", "port": port},
            "proxy_location": "HeadOnly",
            "applications": [application],
        }
    )


def _ray(kind: str, folder: Path, programs: str) -> str:
    """Command of ``cluster.yaml`` that starts Ray on a node of this kind, with paths of this
    machine."""
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())[f"{kind}_start_ray_commands"]
    (command,) = (line for line in commands if "ray start" in line)
    for of_a_node, here in (
        ("/opt/darkroom/gcs", str(folder / "gcs")),
        ("/opt/darkroom/venv/bin", programs),
        ("/etc/darkroom.env", str(folder / "darkroom.env")),
        ("/home/ubuntu/darkroom/worker.env", str(folder / "worker.env")),
        ("--port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        ("$RAY_HEAD_IP", "127.0.0.1"),
    ):
        command = command.replace(of_a_node, here)
    agents = "--dashboard-agent-listen-port={} --dashboard-agent-grpc-port={} "
    agents += "--runtime-env-agent-port={} --metrics-export-port={}"
    return f"{command} --num-gpus=0 --disable-usage-stats {agents.format(*free_ports(4))}"


@contextlib.contextmanager
def _shell(shell: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Environment of both nodes. What was started in it ends with the block."""
    with haproxy_switches() as switches:
        mark = switches["RAY_SERVE_HAPROXY_STATS_PORT"]
        temporary = SHORT_TEMP_DIR / f"darkroom-test-{mark}"
        own = {"RAY_TMPDIR": str(temporary), "RAY_AUTH_MODE": "disabled"}
        try:
            yield {**shell, **switches, **own}
        finally:
            end_all([], str(temporary))
            shutil.rmtree(temporary, ignore_errors=True)
