"""``darkroom serve``: everything on one machine, from an empty directory to a port that answers."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import psutil

from serve_app.cli import haproxy, preflight, ray_flags, way_in
from serve_app.cli.console import Console
from serve_app.cli.installation import Installation
from serve_app.cli.log_follower import LogFollower
from serve_app.cli.run_record import RunRecord
from serve_app.domain.errors import Misconfigured
from serve_app.entrance.entrance import Entrance, Plan, joined, reachable
from serve_app.settings import Config
from serve_app.telemetry.clock import SystemClock

RECORD_EVERY_S = 2.0
STOP_WITHIN_S = 3.0  # for Serve's own, graceful end; what is left then is ended by pid
SUPERVISOR = "serve_app.queue.supervisor"  # the module that it runs
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last when a terminal is closed
OBJECT_STORE_BYTES = 256 * 2**20  # artifacts go by ticket, so Ray's store stays nearly empty


class Stop(BaseException):
    """A signal asked for the end. Not an ``Exception``, so that no library swallows it."""


def _raise_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 the signal's calling convention
    raise Stop


def _listen() -> None:
    for number in ENDS:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if number is signal.SIGHUP and ignored:  # by `nohup`: then it goes on without a terminal
            continue
        signal.signal(number, _raise_stop)


class Server:
    """One run of Darkroom on this machine."""

    def __init__(self, installation: Installation, config: Config, host: str, port: int) -> None:
        self._installation = installation
        self._config = config
        self._host = host
        self._port = port
        self._record = RunRecord(installation.run_file, installation.run_dir)
        self.console = Console(installation.log_file.with_name("ray.log"))
        self._log = LogFollower(installation.log_file, self.console)
        self._done = threading.Event()
        self._addresses: dict[str, str] = {}  # for the record: Ray's, and of the other ports
        self._entrance: Entrance | None = None

    @property
    def url(self) -> str:
        return f"http://{joined(reachable((self._host, self._port)))}"

    def check(self) -> None:
        """Raise ``Misconfigured`` for whatever would keep Darkroom from starting."""
        preflight.check_data_dir(self._installation.data_dir)

    def run(self, settings: dict[str, Any], after_start: Any = None) -> None:
        """Start, call ``after_start(self)`` once it answers, and serve until a signal."""
        with self._only_one():
            self._end_leftovers()
            shutil.rmtree(
                self._installation.run_dir, ignore_errors=True
            )  # an earlier run's sockets
            preflight.check_run_dir(self._installation.run_dir)
            preflight.check_port(self._host, self._port)
            plan = way_in.plan(self._config, self._host, self._port)
            _listen()
            self.console.open()
            try:
                self._open(plan)
                self._start(settings)
                if after_start is not None:
                    after_start(self)
                while True:
                    signal.pause()
            except Stop:
                self.console.say("Stopping.")
            finally:
                self._stop()
                self.console.close()

    @contextlib.contextmanager
    def _only_one(self) -> Generator[None]:
        with self._installation.lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Misconfigured(
                    f"Another Darkroom ({_owner(lock)}) serves {self._installation.data_dir}. "
                    "Stop it, or choose another --data-dir."
                ) from None
            lock.truncate(0)
            lock.write(f"pid {os.getpid()}")
            lock.flush()
            # The descriptor must not outlive this process in a child: the lock is ours alone.
            os.set_inheritable(lock.fileno(), False)  # noqa: FBT003 its only argument
            yield

    def _end_leftovers(self) -> None:
        """End what an earlier run has left. One that was killed has left its record too, and
        perhaps its database, which otherwise would be taken over, or just about to stop, as the
        pace of this start has it."""
        killed = self._installation.run_file.exists()
        ended = self._record.end_leftovers()
        if killed:
            supervisors = _end_database(self._installation.data_dir)
            psutil.wait_procs(supervisors, timeout=STOP_WITHIN_S)
            ended += len(supervisors)
        if ended:
            self.console.say(f"Ended {ended} processes that an earlier run had left behind.")

    def _open(self, plan: Plan) -> None:
        """The ports besides the HTTP port. They answer 503 until that does."""
        self._entrance = Entrance(
            plan,
            self._installation.tls_dir,
            self._installation.run_dir / "tls",
            haproxy.binary() if haproxy.available() else "",
            SystemClock(),
            self.console.say,
        )
        self._entrance.start()
        if plan.tls is not None:
            self._addresses["tls_url"] = f"https://{joined(reachable(plan.tls))}"
        if plan.proxy is not None:
            self._addresses["proxy_url"] = f"http://{joined(reachable(plan.proxy))}"

    def _start(self, settings: dict[str, Any]) -> None:
        self._log.start()
        ray_flags.export(self._installation.run_dir)
        # Ray reads its flags when it is imported; hence here.
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415

        from serve_app.app import APPLICATION, build  # noqa: PLC0415

        started = time.monotonic()
        self.console.say("Starting Ray …")
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(self._installation.run_dir / "ray"),
        )
        self._addresses["ray_address"] = ray.get_runtime_context().gcs_address
        _listen()  # Ray puts its own handlers in ray.init.
        self._record_all()
        try:
            serve.start(
                http_options={"host": self._host, "port": self._port},
                logging_config={"log_level": "WARNING"},
            )
        except RayError as error:
            raise Misconfigured(
                f"Ray Serve's proxy did not start; it says: {str(error).splitlines()[-1]}"
            ) from error
        self._record_all()
        self.console.say("Starting Darkroom …")
        config = settings | {
            "data_dir": self._installation.data_dir,
            "host": self._host,
            "port": self._port,
            "log_file": self._installation.log_file,
        }
        try:
            serve.run(build(config), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise Misconfigured(_deploy_failure(error)) from None
        self._record_all()
        threading.Thread(target=self._keep_record, daemon=True, name="run-record").start()
        self.console.say(f"Darkroom serves {self.url} after {time.monotonic() - started:.0f} s.")
        self.console.say(way_in.told(self._addresses))

    def _keep_record(self) -> None:
        while not self._done.wait(RECORD_EVERY_S):
            self._record_all()

    def _record_all(self) -> None:
        self._record.write(self.url, **self._addresses)

    def _stop(self) -> None:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        self._done.set()
        if "ray" in sys.modules:
            graceful = threading.Thread(target=_shut_serve_down, daemon=True)
            graceful.start()
            graceful.join(STOP_WITHIN_S)
        if self._entrance is not None:
            self._entrance.aclose()
        supervisors = _end_database(self._installation.data_dir)
        self._record.end_all()
        # Once more: who still held the database a moment ago may have had its supervisor replaced.
        supervisors += _end_database(self._installation.data_dir)
        psutil.wait_procs(supervisors, timeout=STOP_WITHIN_S)
        shutil.rmtree(self._installation.run_dir, ignore_errors=True)
        self._log.aclose()
        self.console.say("Stopped.")


def _shut_serve_down() -> None:
    import ray  # noqa: PLC0415 only where it was imported before
    from ray import serve  # noqa: PLC0415

    if not ray.is_initialized():
        return
    try:
        serve.shutdown()
        ray.shutdown()
    except Exception as error:
        logging.getLogger(__name__).debug("Ray's own end failed: %r", error)


def _end_database(data_dir: Path) -> list[psutil.Process]:
    """Ask the embedded database's supervisor to stop now: left alone it would wait some seconds for
    another Darkroom to take it over. It is detached, so no child of ours."""
    asked: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if SUPERVISOR in command and str(data_dir) in command:
                process.terminate()
                asked.append(process)
    return asked


def _owner(lock: TextIO) -> str:
    lock.seek(0)
    return lock.read().strip() or "pid unknown"


def _deploy_failure(error: RuntimeError) -> str:
    """The sentence of the error that a deployment's start raised, out of Serve's report."""
    from ray import serve  # noqa: PLC0415 only where it was imported before

    said = [str(error)]
    for application in serve.status().applications.values():
        said += [deployment.message for deployment in application.deployments.values()]
    for message in said:
        sentence = re.search(
            r"(?:Misconfigured|Unavailable)(?:\(|: )['\"]?(.+?)['\"]?\)?$", message, re.M
        )
        if sentence:
            return sentence.group(1)
    return f"Darkroom did not start; the log above says why. Serve says: {said[-1]}"
