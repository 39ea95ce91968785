"""An installation on a cluster of three nodes that is deployed, and changed, by commands as an
operator has them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from tests.bad_days.installation import GPU, Installation, installation_settings
from tests.chaos.proxy import Proxy
from tests.chaos.standby import Pair, pair
from tests.cluster.darkroom import ROOT, clean_environment, eventually
from tests.cluster.nodes import (
    IMPATIENT,
    SeveralNodes,
    haproxy_switches,
    in_bucket,
    several_nodes,
    with_stores,
)
from tests.queue.database import Background
from tests.storage.s3_servers import moto
from tests.webhooks.receiver import Receiver

WITHIN_S = 300.0
COMMAND_S = 300.0
LOG_LINE = 300
_SEVERE = re.compile(r"\b(ERROR|WARNING|CRITICAL|Traceback)\b")
_VARIES = re.compile(r"\b[\w-]*\d[\w:.,-]*")

Database = Callable[[Background, Path], AbstractContextManager[str]]
Nodes = Callable[[Path, Mapping[str, str]], AbstractContextManager[SeveralNodes]]


@dataclass
class Site:
    """``code`` is a link to the folder of the version that is installed on all nodes."""

    place: Installation
    configuration: Path
    code: Path
    environment: dict[str, str]
    deployed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    may_be_lost: Callable[[str, float], bool] = lambda *_: False
    """True for the id of a request that a failover may forget, and the time of its acceptance."""

    def install(self, tree: Path) -> None:
        """Put the version in ``tree`` on all nodes. What runs goes on."""
        link = self.code.with_suffix(".new")
        link.symlink_to(tree)
        link.replace(self.code)

    def applications(self) -> dict[str, dict[str, Any]]:
        """What `darkroom serve-config` of the installed version writes, by name."""
        written = yaml.safe_load(self.darkroom("serve-config", str(self.configuration)))
        return {application["name"]: application for application in written["applications"]}

    def deploy(self, applications: Sequence[dict[str, Any]]) -> None:
        """Deploy, and wait until each application that changed has new processes, and all serve."""
        changed = [
            application["name"] for application in applications if application not in self.deployed
        ]
        parts = ["ingress" if name == "darkroom" else "replica" for name in changed]
        before = {part: self._processes(part) for part in parts}
        address, _ = self.place.nodes.where("head")
        subprocess.run(
            [sys.executable, "-m", "tests.operations.deploy", address, str(self.place.nodes.port)],
            input=yaml.safe_dump({"applications": list(applications)}),
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            cwd=self.place.folder,  # where no code is: Ray looks there first for modules
            text=True,
            check=True,
            timeout=COMMAND_S,
        )
        self.deployed = list(applications)

        def replaced() -> bool:
            return all(before[part].isdisjoint(self._processes(part)) for part in before)

        eventually(lambda: replaced() and self.place.is_whole(), "it is deployed", WITHIN_S)

    def count_log_problems(self) -> Counter[str]:
        """Errors and warnings in the logs of all nodes, without their numbers and ids."""
        logs = Path(self.place.nodes.temporary, "ray", "session_latest", "logs")
        files = [*logs.glob("worker-*.err"), *logs.glob("serve/*.log")]
        lines = (line for file in files for line in file.read_text(errors="replace").splitlines())
        return Counter(
            _VARIES.sub("…", line)[:LOG_LINE] for line in lines if _SEVERE.search(line) is not None
        )

    def _processes(self, part: str) -> set[psutil.Process]:
        return set(self.place.parts(part))

    def darkroom(self, *arguments: str) -> str:
        """Output of a command of the installed version, with the settings of the head."""
        done = subprocess.run(
            [sys.executable, "-m", "serve_app.cli", *arguments],
            env=self.environment,
            cwd=self.place.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"darkroom {arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def start_database(background: Background, folder: Path) -> Generator[str, None, None]:
    """Connection string of a server without tables."""
    postgres = EmbeddedPostgres(folder / "database", grace_s=0.5)
    conninfo = background.run(postgres.start())
    try:
        yield conninfo
    finally:
        background.run(postgres.aclose())


class WithStandby:
    """A primary and its standby, as a ``Database``. ``environment``: variables of both."""

    def __init__(self, **environment: str) -> None:
        self._environment = environment
        self.servers: Pair | None = None

    @contextlib.contextmanager
    def __call__(self, background: Background, _: Path) -> Generator[str, None, None]:
        running = pair(fsync="on", environment=self._environment)
        self.servers = background.run(running.__aenter__())
        try:
            yield self.servers.conninfo
        finally:
            background.run(running.__aexit__(None, None, None))


def two_nodes(folder: Path, switches: Mapping[str, str]) -> AbstractContextManager[SeveralNodes]:
    """A head, and two nodes with a GPU each."""
    return several_nodes(folder, (GPU, GPU), bridged=False, **switches)


@dataclass(frozen=True)
class Plan:
    """What is special about an installation."""

    database: Database = start_database
    tree: Path = ROOT  # the version that runs at first
    switches: Mapping[str, str] = field(default_factory=dict[str, str])  # of the nodes
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of the configuration
    nodes: Nodes = two_nodes
    place: type[Installation] = Installation


@contextlib.contextmanager
def site(folder: Path, plan: Plan) -> Generator[Site, None, None]:
    """Deployed and whole."""
    code = folder / "code"
    code.symlink_to(ROOT)
    with contextlib.ExitStack() as stack:
        background = stack.enter_context(Background())
        conninfo = stack.enter_context(plan.database(background, folder))
        s3 = stack.enter_context(moto())
        receiver = Receiver()
        background.run(receiver.start())
        stack.callback(lambda: background.run(receiver.aclose()))
        bucket = in_bucket(s3)
        haproxy = stack.enter_context(haproxy_switches())
        settings = {**haproxy, **IMPATIENT, **with_stores(conninfo, s3), **plan.switches}
        settings["PYTHONPATH"] = str(code)
        with contextlib.chdir(folder):  # see ``deploy``
            nodes = stack.enter_context(plan.nodes(folder, settings))
        nothing = Proxy(_nowhere)  # database and storage are reached directly
        place = plan.place(
            bridged=False,
            nodes=nodes,
            folder=folder,
            conninfo=conninfo,
            s3=s3,
            bucket=str(bucket["s3_bucket"]),
            background=background,
            database=nothing,
            storage=nothing,
            receiver=receiver,
            haproxy_metrics=f"127.0.0.1:{haproxy['RAY_SERVE_HAPROXY_METRICS_PORT']}",
        )
        configuration = folder / "darkroom.yaml"
        _write(configuration, folder, {**bucket, **plan.arguments})
        ray = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all nodes are on loopback
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": nodes.temporary,
        }
        environment = clean_environment() | settings | ray
        running = Site(place, configuration, code, environment)
        eventually(lambda: nodes.where("head"), "the cluster is there")
        running.install(plan.tree)
        running.deploy(list(running.applications().values()))
        yield running


async def _nowhere() -> Any:
    raise ConnectionRefusedError


def _write(configuration: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    arguments = {**installation_settings(folder), **settings}
    application = {"import_path": "serve_app.app:build", "args": arguments}
    configuration.write_text(yaml.safe_dump({"applications": [application]}))
