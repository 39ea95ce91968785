"""Where the embedded PostgreSQL keeps its things, and the note by which its supervisor tells how it
is.

```
<data>/postgres/         ours
├── data/                the server's, 0700
├── socket/              the server's, 0700; elsewhere when its path would be too long for a socket
├── password             0600
├── holders.lock         held shared by every process that uses the database
├── start.lock           held while a supervisor is being started
├── supervisor.lock      held by the supervisor
├── supervisor.json      its note
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

PORT = 5432  # of the socket's name only: nothing listens on TCP
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
ROLE = "darkroom"
DATABASE = "darkroom"


class Stage(StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # tried again while somebody holds the database
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Note:
    """How the server is, as its supervisor says. ``progress`` differs while starting gets on."""

    stage: Stage
    message: str = ""
    socket_dir: str = ""
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class Files:
    """Names below one data directory."""

    data_dir: Path  # absolute

    @property
    def home(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def cluster(self) -> Path:
        return self.home / "data"

    @property
    def unborn(self) -> Path:
        """A cluster that is being made."""
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

    def read_note(self) -> Note | None:
        try:
            stored = json.loads(self.note.read_text(encoding="utf-8"))
            return Note(
                Stage(stored["stage"]),
                str(stored["message"]),
                str(stored["socket_dir"]),
                float(stored["progress"]),
            )
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write_note(self, note: Note) -> None:
        write_atomically(self.note, json.dumps(asdict(note)))

    def read_password(self) -> str:
        return self.password.read_text(encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner only."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def unusable(path: Path, error: OSError) -> Misconfigured:
    """What to tell a person whose disk or directory does not do."""
    return Misconfigured(
        f"Darkroom cannot keep its database in {path}: {error.strerror or error}. Free some space "
        "or mend its permissions, or set DARKROOM_DATA_DIR to another directory, or "
        "DARKROOM_DATABASE_URL to a PostgreSQL of your own."
    )
