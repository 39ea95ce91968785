"""``darkroom serve``: starts Ray, Ray Serve, the database and Darkroom on one machine."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from serve_app.catalog import catalog
from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import gpus, haproxy, ports, ray_flags
from serve_app.cli.serve.console import Console, LogFollower
from serve_app.cli.serve.deployer import Deployer
from serve_app.cli.serve.processes import RunRecord
from serve_app.domain.errors import Misconfigured
from serve_app.gateway.gateway import Gateway, GatewayPlan, connect_address, host_port
from serve_app.settings import APPLICATION, Config
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock

RECORD_INTERVAL_S = 2.0
STOP_TIMEOUT_S = 3.0  # limit for Serve's graceful shutdown; remaining processes are stopped by pid
GCS_ENDS_S = 0.1
POOLS_POLL_S = 0.1
SUPERVISOR = (
    "serve_app.embedded_postgres.supervisor"  # module of the embedded database's supervisor
)
PACKAGES = Path(__file__).resolve().parents[3]
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed
OBJECT_STORE_BYTES = 256 * 2**20  # artifacts are uploaded by ticket, so Ray's store is nearly empty


class StopSignal(BaseException):
    """Raised by a signal handler to stop. Not an ``Exception``, so that no library swallows it."""


def _raise_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 the signal's calling convention
    _ignore_more()
    raise StopSignal


def _ignore_more() -> None:
    """Ignore further signals, which would end the stop before anything is stopped: `timeout` sends
    two, and people press Ctrl-C twice."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _listen() -> None:
    """Have the signals end this process.

    An ignored SIGHUP stays ignored: `nohup` asks for a Darkroom that outlives its terminal. An
    ignored SIGINT is handled nevertheless: shells without job control ignore it in everything that
    runs in the background, without being asked to.
    """
    for number in STOP_SIGNALS:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if number is signal.SIGHUP and ignored:
            continue
        signal.signal(number, _raise_stop)


class ServeCommand:
    """One run of Darkroom on this machine."""

    def __init__(
        self,
        installation: Installation,
        config: Config,
        host: str,
        port: int,
        config_file: Path | None = None,
    ) -> None:
        """``config_file``: Serve configuration file whose pools are followed while it serves."""
        self._installation = installation
        self._config = config
        self._host = host
        self._port = port
        self._config_file = config_file
        self._deployer: Deployer | None = None
        self._record = RunRecord(installation.run_file, installation.run_dir)
        self.console = Console(installation.log_file.with_name("ray.log"))
        self._log = LogFollower(installation.log_file, self.console)
        self._done = threading.Event()
        self._addresses: dict[str, str] = {}  # for run.json: Ray's address and the other ports
        self._entrance: Gateway | None = None
        self._proxy_secret = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return f"http://{host_port(connect_address((self._host, self._port)))}"

    def check(self) -> None:
        """Raise ``Misconfigured`` if the working or data directory is not usable, too few files may
        be open, the catalogue is wrong, or torch cannot use the GPU.

        The ingress and replicas see that too, but only after Ray has started, which takes a while.
        """
        ports.check_working_dir()
        ports.check_open_files()
        ports.check_data_dir(self._installation.data_dir)
        models = self._config.models
        catalog.load(models.models, demo=models.serves_demo, demo_dir=Path("/"))
        gpus.check_gpus(self._config)

    def run(self, settings: dict[str, Any], after_start: Any = None) -> None:
        """Start, call ``after_start(self)`` when Darkroom answers, and serve until a signal.

        ``settings`` are in place of those of the configuration file and the environment.
        Raises ``Misconfigured`` if the start fails. Stops everything before it returns or raises.
        """
        with self._installation.lock("Stop it, or choose another --data-dir."):
            self._end_leftovers()
            shutil.rmtree(
                self._installation.run_dir, ignore_errors=True
            )  # an earlier run's sockets
            ports.check_run_dir(self._installation.run_dir)
            ports.check_port(self._host, self._port)
            plan = replace(
                ports.plan(self._config, self._host, self._port), proxy_secret=self._proxy_secret
            )
            _listen()
            self.console.open()
            asked_to_stop = False
            try:
                ray_flags.hide_secrets(self._installation.run_dir / "secrets", self._proxy_secret)
                self._open(plan)
                self._start(settings)
                if after_start is not None:
                    after_start(self)
                while True:
                    signal.pause()
            except StopSignal:
                asked_to_stop = True
                self.console.print_line("Stopping …")
            finally:
                self._stop()
                # Ray's threads write about the stop until this process has ended.
                if not asked_to_stop:
                    self.console.close()

    def _end_leftovers(self) -> None:
        """Stop the processes that an earlier run left behind.

        A run that was killed also left its record and perhaps its database. The database is stopped
        too: depending on timing, this start would otherwise take it over or meet it while it stops.
        """
        killed = self._installation.run_file.exists()
        ended = self._record.stop_leftover_processes()
        if killed:
            supervisors = _end_database(self._installation.data_dir)
            psutil.wait_procs(supervisors, timeout=STOP_TIMEOUT_S)
            ended += len(supervisors)
        if ended:
            self.console.print_line(
                f"Stopped {ended} processes that an earlier run had left behind."
            )

    def _open(self, plan: GatewayPlan) -> None:
        """Open the TLS port and the proxy port. They answer 503 until the HTTP port answers."""
        self._entrance = Gateway(
            plan,
            self._installation.tls_dir,
            self._installation.run_dir / "tls",
            haproxy.binary() if haproxy.available() else "",
            SystemClock(),
            self.console.print_line,
        )
        self._entrance.start()
        if plan.tls is not None:
            self._addresses["tls_url"] = f"https://{host_port(connect_address(plan.tls))}"
        if plan.proxy is not None:
            self._addresses["proxy_url"] = f"http://{host_port(connect_address(plan.proxy))}"

    def _start(self, settings: dict[str, Any]) -> None:
        self._log.start()
        told = self._config.telemetry  # of this process: the gateway's and the supervisor's lines
        logs.configure(told.log_level, logs.stream(self._installation.log_file), told.log_format)
        serve_host = ray_flags.export(
            self._installation.run_dir,
            self._installation.data_dir,
            self._config.server.trusted_proxies,
            self._proxy_secret,
            (self._host, self._port),
        )
        # Ray reads its flags when it is imported, so it is imported after they are exported.
        started = time.monotonic()
        gc.disable()  # 370,000 objects are imported and stay; to look at them took 0.5 s of CPU
        self._start_ray(serve_host)
        self._deploy(settings)
        gc.freeze()
        gc.enable()
        threading.Thread(target=self._keep_record, daemon=True, name="run-record").start()
        self.console.print_line(
            f"Darkroom serves {self.url} after {time.monotonic() - started:.0f} s."
        )
        self.console.print_line(ports.ports_text(self._addresses))

    def _start_ray(self, serve_host: str) -> None:
        """Start a cluster of this machine, and Ray Serve's proxy."""
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415

        self.console.print_line("Starting Ray …")
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(self._installation.run_dir / "ray"),
                job_config=_job_config(),
            )
        except SystemExit:  # of the handler of SIGTERM that Ray has installed until _listen()
            _ignore_more()
            raise StopSignal from None
        except Exception as error:  # Ray raises plain ones, such as after 30 s without a raylet
            raise Misconfigured(
                f"Ray did not start. Is the machine very busy? Try again. Its error: {error}"
            ) from error
        _end_unused()
        self._addresses["ray_address"] = ray.get_runtime_context().gcs_address
        _listen()  # ray.init has installed Ray's own handlers.
        self._record_all()
        try:
            serve.start(
                http_options={"host": serve_host, "port": self._port},
                logging_config={"log_level": "WARNING"},
            )
        except RayError as error:
            raise Misconfigured(
                f"Ray Serve's proxy did not start.{_report('Its error', [str(error)])}"
            ) from error
        self._record_all()

    def _deploy(self, settings: dict[str, Any]) -> None:
        self.console.print_line("Starting Darkroom …")
        overrides = settings | {
            "data_dir": self._installation.data_dir,
            "host": self._host,
            "port": self._port,
            "log_file": self._installation.log_file,
        }
        deployer = self._deployer = Deployer(self._config_file, overrides)
        try:
            deployer.deploy()
        except RuntimeError as error:
            raise Misconfigured(_deploy_failure(error)) from None
        self._record_all()
        deployer.follow(self.console.print_line)

    def _keep_record(self) -> None:
        while not self._done.wait(RECORD_INTERVAL_S):
            self._record_all()

    def _record_all(self) -> None:
        self._record.write(self.url, **self._addresses)

    def _stop(self) -> None:
        _ignore_more()
        self._done.set()
        if self._deployer is not None:
            self._deployer.stop()
        if self._entrance is not None:
            self._entrance.stop_repairs()
        # Without its control store, a shutdown by Ray would only try to reach it, at full speed.
        if "ray" in sys.modules and _answers(self._addresses.get("ray_address", "")):
            graceful = threading.Thread(target=_shut_serve_down, daemon=True)
            graceful.start()
            graceful.join(STOP_TIMEOUT_S)
        if self._entrance is not None:
            self._entrance.aclose()
        # After all that use the database: they would warn that it has gone, or start it again.
        self._record.stop_all()
        supervisors = _end_database(self._installation.data_dir)
        psutil.wait_procs(supervisors, timeout=STOP_TIMEOUT_S)
        shutil.rmtree(self._installation.run_dir, ignore_errors=True)
        self._log.aclose()
        self.console.print_line("Stopped.")


def _job_config() -> Any:
    """Configuration by which Ray's workers do not look for modules in the working directory first.

    Ray has them do so, except in jobs of its client. A file named ``random.py`` there ended each
    worker. The directory of this very package stays, for a start by ``python -m`` in a clone.
    """
    from ray.job_config import JobConfig  # noqa: PLC0415 after its flags are exported

    own = [path for path in sys.path[:1] if Path(path) == PACKAGES]
    return JobConfig(_client_job=True, _py_driver_sys_path=own)


def _end_unused() -> None:
    """End processes that Ray starts on every head, and has no setting for. They took 180 MB and 1 %
    of a core (``benchmarks.idle_cost``), and nothing here asks them: the dashboard is off, the
    driver prints no logs of Ray's workers, and one machine adds no nodes."""
    from ray._private import worker  # noqa: PLC0415 Ray offers no public way

    node: Any = worker._global_node  # noqa: SLF001
    for end in (node.kill_log_monitor, node.kill_dashboard, node.kill_monitor):
        end(check_alive=False)
    # Spilled objects are removed with the run directory. At the exit Ray would make that again, and
    # then remove the objects alone.
    node.destroy_external_storage = lambda: None


def _answers(address: str) -> bool:
    """Return whether something accepts connections at ``host:port``.

    A terminal that is closed ends Ray's control store together with this process, so there is a
    moment in which it still answers.
    """
    host, _, port = address.rpartition(":")
    try:
        for _ in range(2):
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
                time.sleep(GCS_ENDS_S)
    except (OSError, ValueError):
        return False
    return True


def _shut_serve_down() -> None:
    import ray  # noqa: PLC0415 only if it was imported before
    from ray import serve  # noqa: PLC0415

    if not ray.is_initialized():
        return
    try:
        _end_pools()
        serve.shutdown()
        ray.shutdown()
    except Exception as error:
        logging.getLogger(__name__).debug("Ray's own shutdown failed: %r", error)


def _end_pools() -> None:
    """Let the replicas hand their work back while the ingress still takes it."""
    from ray import serve  # noqa: PLC0415 only if it was imported before

    pools = serve.status().applications.keys() - {APPLICATION}
    for name in pools:
        serve.delete(name, _blocking=False)
    while pools & serve.status().applications.keys():
        time.sleep(POOLS_POLL_S)


def _end_database(data_dir: Path) -> list[psutil.Process]:
    """Send SIGTERM to the embedded database's supervisor and return its processes.

    Without the signal, the supervisor would wait some seconds for another Darkroom to take the
    database over. It is detached, so it is not a child of this process.
    """
    processes: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if SUPERVISOR in command and str(data_dir) in command:
                process.terminate()
                processes.append(process)
    return processes


FAILED = ("UNHEALTHY", "DEPLOY_FAILED")  # of a deployment, in Serve's words


def _deploy_failure(error: RuntimeError) -> str:
    """Message of the error that a deployment raised at its start, extracted from Serve's report."""
    from ray import serve  # noqa: PLC0415 only if it was imported before

    deployments = [
        deployment
        for application in serve.status().applications.values()
        for deployment in application.deployments.values()
    ]
    deployments.sort(key=lambda deployment: deployment.status in FAILED)  # its last line is shown
    reasons = [str(error), *(deployment.message for deployment in deployments)]
    for message in reasons:
        sentence = re.search(
            r"(?:Misconfigured|Unavailable)(?:\(|: )['\"]?(.+?)['\"]?\)?$", message, re.M
        )
        if sentence:
            return sentence.group(1)
    report = _report("Ray Serve reports", reasons)
    return f"Darkroom did not start. See the log above for the cause.{report}"


def _report(heading: str, messages: Sequence[str]) -> str:
    """Clause with the last line that any of the messages has; empty if none has one."""
    lines = "\n".join(messages).strip().splitlines()
    return f" {heading}: {lines[-1]}" if lines else ""
