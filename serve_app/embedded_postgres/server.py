"""One PostgreSQL server on one data directory: made, started, found again, stopped."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from serve_app.domain.errors import Misconfigured
from serve_app.queue.embedded_files import PORT, Files, unusable
from serve_app.queue.initdb import as_known_to, environment, make, tail
from serve_app.queue.server_process import alive, effort, stop
from serve_app.queue.server_user import ServerUser, programs, server_user

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "cluster_name": "darkroom",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",
    "checkpoint_completion_target": "0.9",
    "io_method": "sync",  # no workers of its own: the queue reads little
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    **({"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}),
    "autovacuum_naptime": "20s",
    "autovacuum_max_workers": "2",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "password_encryption": "scram-sha-256",
}

ORPHANS_S = 10.0


class Cluster:
    """Not safe for two at once on one directory: the supervisor's lock sees to that."""

    def __init__(self, files: Files, socket_dir: str = "") -> None:
        """``socket_dir``: where clients look for it already, from before a crash."""
        self._files = files
        self._user = ServerUser()
        self._child: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self.socket_dir = Path(socket_dir) if socket_dir else files.socket_dir

    # Before it runs

    def prepare(self) -> None:
        """Make the cluster if there is none. ``Misconfigured`` when it cannot be made."""
        files = self._files
        self._user = server_user(files.cluster)
        try:
            # Only its name is open to the server's user, who has to pass through.
            files.home.chmod(0o700 if self._user.uid is None else 0o711)
            self._make_socket_dir()
            if not files.cluster.exists():
                make(files, self._user)
        except OSError as error:
            raise unusable(files.home, error) from error

    def _make_socket_dir(self) -> None:
        if self._files.socket_dir_is_short:
            self.socket_dir = self._files.socket_dir
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        elif self.socket_dir == self._files.socket_dir:
            self.socket_dir = Path(tempfile.mkdtemp(prefix="darkroom-"))
        elif not self.socket_dir.exists():
            self.socket_dir.mkdir(mode=0o700)
        self.socket_dir.chmod(0o700)
        self._user.own(self.socket_dir)

    # While it runs

    def adopt(self) -> bool:
        """Take over a server that runs on this directory already. One that cannot be reached,
        because its socket is gone, is ended."""
        process = self._postmaster()
        if process is None:
            return False
        if self._pid_file()[7:] and not self._socket.exists():
            stop(process)
            return False
        self._process = process
        return True

    def start(self) -> None:
        """Start the server; that it is ready is seen later."""
        self._clear_the_way()
        files = self._files
        major = int((files.cluster / "PG_VERSION").read_text(encoding="ascii").split(".")[0])
        # From the server's own working directory: its path may lead through what it may not enter.
        near = self.socket_dir == files.socket_dir
        settings = {
            **SETTINGS,
            "unix_socket_directories": "../socket" if near else str(self.socket_dir),
        }
        command = [
            str(programs(major, self._user) / "postgres"),
            "-D",
            as_known_to(self._user, files.cluster),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]
        try:
            with files.server_log.open("ab") as log:
                self._child = subprocess.Popen(  # noqa: S603 - our own arguments
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=files.cluster,
                    env=environment(),
                    umask=0o077,
                    start_new_session=True,
                    user=self._user.uid,
                    group=self._user.gid,
                    extra_groups=self._user.groups,
                )
                self._process = psutil.Process(self._child.pid)
        except (OSError, psutil.NoSuchProcess) as error:
            raise Misconfigured(f"PostgreSQL could not be started: {error}") from error

    @property
    def running(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self._child = self._process = None
        return self._process is not None and alive(self._process)

    @property
    def ready(self) -> bool:
        """It says so itself, in the eighth line of its pid file."""
        lines = self._pid_file()
        return (
            self._process is not None
            and len(lines) >= 8
            and lines[0].strip() == str(self._process.pid)
            and lines[7].strip() == "ready"
            and self._socket.exists()
        )

    def progress(self) -> float:
        """A number that changes while the server does something."""
        return 0.0 if self._process is None else effort(self._process)

    def stop(self) -> None:
        """End every session and the server, orderly; if that takes too long, as after a crash."""
        if self._process is not None:
            stop(self._process)
        if self._child is not None:
            self._child.wait()
        self._child = self._process = None
        self._drop_socket_dir()

    def last_words(self) -> str:
        """The end of the server's log, for a message."""
        with contextlib.suppress(OSError), self._files.server_log.open("rb") as log:
            log.seek(max(0, self._files.server_log.stat().st_size - 4000))
            return tail(log.read().decode(errors="replace"))
        return ""

    # How it works

    @property
    def _socket(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{PORT}"

    def _clear_the_way(self) -> None:
        """After a crash: no orphan may be left, and no pid file that names somebody else's process
        (or a dead one that nobody has reaped), which the server would take for another server."""
        if self._postmaster() is not None:
            return
        (self._files.cluster / "postmaster.pid").unlink(missing_ok=True)
        for left in self.socket_dir.glob(".s.PGSQL.*"):
            left.unlink(missing_ok=True)
        for number, patience_s in ((signal.SIGQUIT, ORPHANS_S), (signal.SIGKILL, ORPHANS_S)):
            orphans = self._orphans()
            if not orphans:
                return
            for orphan in orphans:
                with contextlib.suppress(psutil.Error):
                    orphan.send_signal(number)
            psutil.wait_procs(orphans, timeout=patience_s)

    def _postmaster(self) -> psutil.Process | None:
        """The server of this directory, if one runs. The pid in the file may be another's."""
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            parent = process.parent()
            is_child = parent is not None and self._lives_here(parent)
            return process if self._lives_here(process) and not is_child else None
        except psutil.Error:
            return None

    def _orphans(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._lives_here(process)]

    def _lives_here(self, process: psutil.Process) -> bool:
        try:
            return (
                process.name().startswith("postgres")
                and process.status() != psutil.STATUS_ZOMBIE
                and Path(process.cwd()).resolve() == self._files.cluster.resolve()
            )
        except (psutil.Error, OSError):
            return False

    def _pid_file(self) -> list[str]:
        try:
            text = (self._files.cluster / "postmaster.pid").read_text(errors="replace")
        except OSError:
            return []
        return text.splitlines()

    def _drop_socket_dir(self) -> None:
        if self.socket_dir != self._files.socket_dir:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
