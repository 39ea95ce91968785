"""File layout of the embedded PostgreSQL, and the state file that its supervisor writes.

```
<data>/postgres/         ours
├── data/                the server's, 0700
├── socket/              the server's, 0700; elsewhere if its path is too long for a socket
├── password             0600
├── holders.lock         held shared by every process that uses the database
├── start.lock           held while a supervisor is being started
├── supervisor.lock      held by the supervisor
├── supervisor.json      the supervisor's state file
├── supervisor.log
└── server.log
```
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from serve_app.domain.errors import Misconfigured

PORT = 5432  # only part of the socket's name: nothing listens on TCP
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
ROLE = "darkroom"
DATABASE = "darkroom"


class InitStage(StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # retried while a process holds the database
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StateFile:
    """State of the server, as its supervisor reports it. ``progress`` changes while a start makes
    progress.
    """

    stage: InitStage
    message: str = ""
    socket_dir: str = ""
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterFiles:
    """Paths below one data directory."""

    data_dir: Path  # absolute

    @property
    def home(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def cluster(self) -> Path:
        return self.home / "data"

    @property
    def staging_dir(self) -> Path:
        """Directory of a cluster that is being created."""
        return self.home / "data.new"

    @property
    def socket_dir(self) -> Path:
        return self.home / "socket"

    @property
    def socket_dir_is_short(self) -> bool:
        path = f"{self.socket_dir}/.s.PGSQL.{PORT}"
        return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH

    @property
    def password(self) -> Path:
        return self.home / "password"

    @property
    def holders_lock(self) -> Path:
        return self.home / "holders.lock"

    @property
    def start_lock(self) -> Path:
        return self.home / "start.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.home / "supervisor.lock"

    @property
    def supervisor_log(self) -> Path:
        return self.home / "supervisor.log"

    @property
    def server_log(self) -> Path:
        return self.home / "server.log"

    @property
    def note(self) -> Path:
        return self.home / "supervisor.json"

    def read_note(self) -> StateFile | None:
        try:
            stored = json.loads(self.note.read_text(encoding="utf-8"))
            if stored["home"] != self._home_id():
                return None  # of the directory that this one was copied from
            return StateFile(
                InitStage(stored["stage"]),
                str(stored["message"]),
                str(stored["socket_dir"]),
                float(stored["progress"]),
            )
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write_note(self, note: StateFile) -> None:
        write_atomically(self.note, json.dumps({**asdict(note), "home": self._home_id()}))

    def _home_id(self) -> str:
        """Device and inode: whatever the path is, and another one for a copy."""
        status = self.home.stat()
        return f"{status.st_dev}:{status.st_ino}"

    def read_password(self) -> str:
        return self.password.read_text(encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """Write the whole file or nothing, readable by its owner only."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def unusable_directory(path: Path, error: OSError) -> Misconfigured:
    """Error for a disk or directory that cannot be used."""
    return Misconfigured(
        f"Darkroom cannot keep its database in {path}: {error.strerror or error}. Free some space "
        "or fix its permissions, or set DARKROOM_DATA_DIR to another directory, or "
        "DARKROOM_DATABASE_URL to a PostgreSQL of your own."
    )
