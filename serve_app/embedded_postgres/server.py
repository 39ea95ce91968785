"""One PostgreSQL server on one data directory: create, start, adopt and stop it."""

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
from serve_app.embedded_postgres.files import PORT, ClusterFiles, unusable_directory
from serve_app.embedded_postgres.initdb import create_cluster, environment, path_for, tail
from serve_app.embedded_postgres.os_user import ServerUser, programs, server_user
from serve_app.embedded_postgres.process import alive, effort, stop

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
    "io_method": "sync",  # no I/O worker processes: the queue reads little
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

ORPHAN_KILL_TIMEOUT_S = 10.0


class PostgresServer:
    """PostgreSQL server of one data directory.

    Not safe for two instances on one directory; the supervisor's lock prevents that.
    """

    def __init__(self, files: ClusterFiles, socket_dir: str = "") -> None:
        """``socket_dir``: where clients already look for the socket, from before a crash."""
        self._files = files
        self._user = ServerUser()
        self._child: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self.socket_dir = Path(socket_dir) if socket_dir else files.socket_dir

    # Before the server runs

    def prepare(self) -> None:
        """Create the cluster if there is none. Raises ``Misconfigured`` if it cannot be created."""
        files = self._files
        self._user = server_user(files.cluster)
        try:
            # Only the directory itself is opened for the server's user, which must pass through it.
            files.home.chmod(0o700 if self._user.uid is None else 0o711)
            self._make_socket_dir()
            if not files.cluster.exists():
                create_cluster(files, self._user)
        except OSError as error:
            raise unusable_directory(files.home, error) from error

    def _make_socket_dir(self) -> None:
        if self._files.socket_dir_is_short:
            self.socket_dir = self._files.socket_dir
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        elif self.socket_dir == self._files.socket_dir:
            self.socket_dir = Path(tempfile.mkdtemp(prefix="darkroom-"))
        elif not self.socket_dir.exists():
            self.socket_dir.mkdir(mode=0o700)
        self.socket_dir.chmod(0o700)
        self._user.take_ownership(self.socket_dir)

    # While the server runs

    def adopt(self) -> bool:
        """Take over a server that already runs on this directory.

        A server that cannot be reached, because its socket is gone, is stopped.
        """
        process = self._postmaster()
        if process is None:
            return False
        if self._pid_file()[7:] and not self._socket.exists():
            stop(process)
            return False
        self._process = process
        return True

    def start(self) -> None:
        """Start the server. It is not ready yet; see ``ready``."""
        self._remove_leftovers()
        files = self._files
        major = int((files.cluster / "PG_VERSION").read_text(encoding="ascii").split(".")[0])
        # Relative to the server's working directory: the absolute path may lead through directories
        # that the server's user cannot enter.
        near = self.socket_dir == files.socket_dir
        settings = {
            **SETTINGS,
            "unix_socket_directories": "../socket" if near else str(self.socket_dir),
        }
        command = [
            str(programs(major, self._user) / "postgres"),
            "-D",
            path_for(self._user, files.cluster),
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
        """True if the server reports that it is ready, in the eighth line of its pid file."""
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
        """End every session and shut the server down. If that takes too long, stop it as in a
        crash.
        """
        if self._process is not None:
            stop(self._process)
        if self._child is not None:
            self._child.wait()
        self._child = self._process = None
        self._drop_socket_dir()

    def log_tail(self) -> str:
        """Last lines of the server's log, for a message."""
        with contextlib.suppress(OSError), self._files.server_log.open("rb") as log:
            log.seek(max(0, self._files.server_log.stat().st_size - 4000))
            return tail(log.read().decode(errors="replace"))
        return ""

    # Implementation

    @property
    def _socket(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{PORT}"

    def _remove_leftovers(self) -> None:
        """Remove what a crash left behind.

        No orphan process may be left, and no pid file that names a foreign process or a zombie: the
        server would take that for another server.
        """
        if self._postmaster() is not None:
            return
        (self._files.cluster / "postmaster.pid").unlink(missing_ok=True)
        for left in self.socket_dir.glob(".s.PGSQL.*"):
            left.unlink(missing_ok=True)
        for number, patience_s in (
            (signal.SIGQUIT, ORPHAN_KILL_TIMEOUT_S),
            (signal.SIGKILL, ORPHAN_KILL_TIMEOUT_S),
        ):
            orphans = self._orphans()
            if not orphans:
                return
            for orphan in orphans:
                with contextlib.suppress(psutil.Error):
                    orphan.send_signal(number)
            psutil.wait_procs(orphans, timeout=patience_s)

    def _postmaster(self) -> psutil.Process | None:
        """The running server of this directory, or None. The pid in the file may belong to a
        foreign process.
        """
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            parent = process.parent()
            is_child = parent is not None and self._runs_in_data_dir(parent)
            return process if self._runs_in_data_dir(process) and not is_child else None
        except psutil.Error:
            return None

    def _orphans(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._runs_in_data_dir(process)]

    def _runs_in_data_dir(self, process: psutil.Process) -> bool:
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
