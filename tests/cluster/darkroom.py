"""A real Darkroom for tests: `darkroom serve`, on a directory and a port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import psycopg
import yaml

from serve_app.cli.connection.installation import Installation
from serve_app.domain.request import State
from serve_app.embedded_postgres.files import DATABASE, PORT, ROLE, ClusterFiles
from serve_app.embedded_postgres.process import alive
from serve_app.free_ports import free_port
from serve_app.settings import APPLICATION, pool_application
from tests.cluster.processes import command_of, end_all, known_by, with_default_signals

ROOT = Path(__file__).parent.parent.parent
MODELS = Path(__file__).parent / "models.yaml"
FAMILIES = {"probe": "tests.fakes.family:ProbeFamily"}
PROBE = "/queue/test/probe"

STOP_S = 120.0

PATIENCE_S = 600.0
"""Ends what hangs, also where several rounds of crashes share the machine."""

CALL_S = 60.0
"""Ends an HTTP call that hangs. The 5 s of httpx are too few where much else is computed."""

KILLED_S = 60.0
"""Until the kernel has ended what was killed."""

LOOK_S = 0.1
"""Between two looks. Each costs some milliseconds of CPU: a call, or a connection to PostgreSQL."""

ENDED = {state.value for state in State if state.final}

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """The first true thing that ``look`` sees; fails with ``what`` when there is none in time."""
    end = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"Not within {within_s} s: {what}")
        time.sleep(LOOK_S)


class Darkroom:
    """One installation; may be started, killed and started again."""

    def __init__(
        self, data_dir: Path, pools: Mapping[str, Any] | None = None, **settings: str
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = data_dir.parent / f"{data_dir.name}.out"
        pools = pools or {
            "studio": {
                "families": ["probe", "flux", "sdxl"],
                "slots": 2,
                "num_cpus": 0.1,
            }
        }
        self._settings = {
            "DARKROOM_FAMILIES": json.dumps(FAMILIES),
            "DARKROOM_MODELS": str(MODELS),
            "DARKROOM_POOLS": json.dumps(pools),
            "DARKROOM_GPUS": "0",
            "DARKROOM_ALLOW_PRIVATE_WEBHOOKS": "1",  # receivers of tests are here
        } | {f"DARKROOM_{name.upper()}": value for name, value in settings.items()}
        self.config: Path | None = None  # its configuration file
        self._said = 0  # bytes of ``output``, before the last start
        self._process: subprocess.Popen[bytes] | None = None
        self._http: httpx.Client | None = None

    def configure(self, **arguments: Any) -> None:
        """Write its configuration file, which it follows while it runs."""
        self.config = self.data_dir.parent / f"{self.data_dir.name}.yaml"
        application = {"import_path": "serve_app.app:build", "args": arguments}
        written = self.config.with_suffix(".new")
        written.write_text(yaml.safe_dump({"applications": [application]}))
        written.replace(self.config)

    def start(self, within_s: float = PATIENCE_S, under: Sequence[str] = ()) -> Darkroom:
        """``under`` is a command that runs the command that follows it, such as ``nohup``."""
        clean = clean_environment()
        with self.output.open("ab") as output:
            self._said = output.tell()
            self._process = subprocess.Popen(
                with_default_signals(
                    *(*under, sys.executable, "-m", "serve_app.cli"),
                    *("serve", "--data-dir", str(self.data_dir), "--port", str(self.port)),
                    *(() if self.config is None else ("--config", str(self.config))),
                ),
                # The probe family lives in the tests, which are not installed.
                env=clean | self._settings | {"PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir.parent,
                start_new_session=True,
            )
        eventually(self._ready, f"Darkroom is ready; see\n{self.tail()}", within_s)
        return self

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Have ``clear_away`` end a process that a test has started itself."""
        self._process = process

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"`darkroom serve` ended:\n{self.tail()}"
        # Since this start: another that was killed may still answer.
        if b"Darkroom serves" not in self.output.read_bytes()[self._said :]:
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-6000:] if self.output.exists() else ""

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def key(self) -> str:
        return (self.data_dir / "api_key").read_text().strip()

    @property
    def http(self) -> httpx.Client:
        """With the key; one connection is enough for a test's own calls."""
        if self._http is None:
            self._http = httpx.Client(
                base_url=self.url, headers={"Authorization": f"Key {self.key}"}, timeout=CALL_S
            )
        return self._http

    def submit(self, **probe: Any) -> str:
        answer = self.http.post(PROBE, json=probe)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def request(self, request_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/requests/{request_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def request_or_none(self, request_id: str) -> dict[str, Any] | None:
        """The same, or None while something is away."""
        try:
            answer = self.http.get(f"/v1/requests/{request_id}")
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def in_state(
        self, request_id: str, *states: str, within_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            seen = self.request_or_none(request_id)
            if seen and seen["state"] not in states:
                ended = seen["state"] in ENDED
                assert not ended, f"{request_id} is {seen['state']}: {seen.get('error')}"
            return seen if seen and seen["state"] in states else None

        return eventually(look, f"{request_id} is {' or '.join(states)}", within_s)

    def replicas(self, deployment: str = "studio") -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        application = APPLICATION if deployment == "ingress" else pool_application(deployment)
        title = f"ray::ServeReplica:{application}:{deployment}"
        return [p for p in self.process.children(recursive=True) if title in command_of(p)]

    def postgres(self) -> psutil.Process:
        """The postmaster of the embedded database."""
        pid_file = next(self.data_dir.rglob("postmaster.pid"))
        return psutil.Process(int(pid_file.read_text().splitlines()[0]))

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Look into the embedded database, which nothing of the product shows as it is."""
        with self.database() as connection:
            return connection.execute(query, values).fetchall()

    def database(self) -> psycopg.Connection[tuple[Any, ...]]:
        files = ClusterFiles(self.data_dir)
        note = files.read_note()
        assert note is not None
        return psycopg.connect(
            host=note.socket_dir,
            port=PORT,
            user=ROLE,
            password=files.read_password(),
            dbname=DATABASE,
        )

    def objects(self) -> dict[str, bytes]:
        """What lies in its storage, by key."""
        folder = self.data_dir / "artifacts"
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def beside(
        self, script: str, config: Mapping[str, Any], within_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run ``script`` as a Ray driver in the environment of `darkroom serve`; its arguments are
        Ray's address and ``config`` as JSON."""
        ray_address = json.loads((self.data_dir / "run.json").read_text())["ray_address"]
        return subprocess.run(
            [sys.executable, "-c", script, ray_address, json.dumps(config)],
            env=self.replicas("ingress")[0].environ(),
            cwd=self.data_dir.parent,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `darkroom` command, on this data directory."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "serve_app.cli", *arguments),
                *("--data-dir", str(self.data_dir)),
            ],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def runner(self, request_id: str) -> psutil.Process:
        """The process of the replica that runs a request and has said so."""

        def look() -> str | None:
            seen = self.request_or_none(request_id)
            return seen["replica_id"] if seen and seen["progress"] else None

        return self.process_of(eventually(look, f"{request_id} makes progress"))

    def process_of(self, replica_id: str) -> psutil.Process:
        """The process of a replica of `studio`: it has a log file open that is named after it."""
        for process in self.replicas():
            if any(replica_id in Path(file.path).name for file in process.open_files()):
                return process
        raise AssertionError(f"no process of replica {replica_id}")

    def all_ready(self, replicas: int = 2) -> None:
        """Wait until so many replicas of `studio` ask for work."""

        def look() -> bool:
            try:
                answer = self.http.get("/v1/status")
            except httpx.TransportError:
                return False
            if answer.status_code != 200:
                return False
            fresh = [r for r in answer.json()["replicas"] if r["seen_s"] < 7]
            return sum(r["stage"] == "ready" for r in fresh) >= replicas

        eventually(look, f"{replicas} replicas are ready")

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it as a person does. It takes under ten seconds where nothing else is computed; other
        tests are."""
        assert self._process is not None
        self._process.send_signal(number)
        self.wait_for_end()

    def hang_up(self) -> None:
        """What the kernel does when its terminal is closed: SIGHUP to its process group."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGHUP)

    def wait_for_end(self) -> None:
        """Wait until it has ended."""
        assert self._process is not None
        self._process.wait(timeout=STOP_S)
        self._close()

    def kill_everything(self) -> None:
        """SIGKILL to all of it at once, as when the power goes."""
        assert self._process is not None
        doomed = [*self.process.children(recursive=True), self.process, *self.leftovers()]
        # More than once: the kills are not one moment, and between them something may start.
        while doomed:
            for process in doomed:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self._process.wait(timeout=KILLED_S)
            psutil.wait_procs(doomed, timeout=KILLED_S)
            doomed = self.leftovers()
        self._close()

    def kill_serve(self) -> list[psutil.Process]:
        """SIGKILL to the process of `darkroom serve` alone; returns what it had started."""
        assert self._process is not None
        started = {*self.process.children(recursive=True), *self.leftovers()} - {self.process}
        self._process.kill()
        self._process.wait(timeout=KILLED_S)
        self._close()
        return list(started)

    def leftovers(self) -> list[psutil.Process]:
        """Processes that this data directory or its sockets are known to."""
        return known_by(str(self.data_dir), str(Installation(self.data_dir).run_dir))

    def clear_away(self) -> None:
        """End whatever is left, so that a failed test leaves nothing to the next one."""
        run_dir = Installation(self.data_dir).run_dir
        started = [] if self._process is None else [self._process]
        end_all(started, str(self.data_dir), str(run_dir))
        shutil.rmtree(run_dir, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        self._process = None
        if self._http is not None:
            self._http.close()
            self._http = None


def a_connection_each(darkroom: Darkroom) -> httpx.Client:
    """A client whose calls share no connection. A client for each would read the certificates of
    all authorities each time, which takes longer than a call.

    Not by a limit of connections that are kept: with it, httpx may give a thread a connection that
    another one closes ("Bad file descriptor")."""
    return httpx.Client(
        base_url=darkroom.url,
        headers={"Authorization": f"Key {darkroom.key}", "Connection": "close"},
        timeout=CALL_S,
    )


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; one that was never waited for has."""
    return [process for process in processes if alive(process)]


def clean_environment() -> dict[str, str]:
    """This process's, without settings of Darkroom's and switches of Ray's."""
    variables = os.environ  # noqa: TID251 a child's environment is made of it
    return {k: v for k, v in variables.items() if not k.startswith(("DARKROOM_", "RAY_"))}


def listeners_outside_loopback(darkroom: Darkroom) -> set[tuple[str, int]]:
    """Name and port of what other machines could reach, by TCP or UDP."""
    outside: set[tuple[str, int]] = set()
    for process in [*darkroom.leftovers(), *darkroom.process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            outside |= {
                (process.name(), connection.laddr.port)
                for connection in process.net_connections("inet")
                if _listens(connection) and not _loopback(connection.laddr.ip)
            }
    return outside


def _listens(connection: Any) -> bool:
    """Takes what comes from anywhere. UDP has no such state; connected, it hears its peer alone."""
    if connection.type is socket.SOCK_DGRAM:
        return bool(connection.laddr) and not connection.raddr
    return bool(connection.status == psutil.CONN_LISTEN)


def _loopback(address: str) -> bool:
    return address.removeprefix("::ffff:").startswith("127.") or address == "::1"
