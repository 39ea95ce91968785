"""Supervisor of the embedded PostgreSQL: ``python -m serve_app.embedded_postgres.supervisor``.

It is a process of its own, detached from the one that started it, so the database outlives each
process that uses it. Each user of the database holds a shared lock. When no process has held it for
some seconds, the supervisor stops the server and ends. If the supervisor is killed, the server
continues, and the next supervisor adopts it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from serve_app.domain.errors import DarkroomError
from serve_app.embedded_postgres.file_lock import FileLock
from serve_app.embedded_postgres.files import ClusterFiles, InitStage, StateFile
from serve_app.embedded_postgres.server import PostgresServer

LOOK_S = 0.1
LOCK_WAIT_S = 2.0
NOTE_EVERY_S = 1.0
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
LOG_MAX_BYTES = 8 * 2**20
LOG_KEEP_BYTES = 2**20


class Supervisor:
    """Keep the server running while a process holds the database."""

    def __init__(self, files: ClusterFiles, grace_s: float) -> None:
        self._files = files
        self._grace_s = grace_s
        before = files.read_note()
        self._cluster = PostgresServer(files, before.socket_dir if before else "")
        self._lock = FileLock(files.supervisor_lock)
        self._holders = FileLock(files.holders_lock)
        self._noted: StateFile | None = None
        self._noted_at = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._unheld_since: float | None = None
        self._asked_to_stop = False

    def run(self) -> None:
        if not self._only_one():
            return
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while not (self._asked_to_stop or self._is_unused()):
            self._check_server()
            time.sleep(LOOK_S)
        self._cluster.stop()
        self._note(StateFile(InitStage.STOPPED))

    def _only_one(self) -> bool:
        end = time.monotonic() + LOCK_WAIT_S  # another process may be testing whether it is held
        while not self._lock.try_exclusive():
            if time.monotonic() > end:
                return False
            time.sleep(LOOK_S / 2)
        return True

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._asked_to_stop = True

    def _is_unused(self) -> bool:
        """True if no process has held the database for the grace period.

        The exclusive lock is then kept. A process that wants the database waits until this one has
        ended, and starts another.
        """
        if not self._holders.try_exclusive():
            self._unheld_since = None
            return False
        now = time.monotonic()
        self._unheld_since = self._unheld_since or now
        if now - self._unheld_since >= self._grace_s:
            return True
        self._holders.release()
        return False

    def _check_server(self) -> None:
        if not self._cluster.running:
            self._start()
        elif self._cluster.ready:
            self._failures = 0
            self._note(StateFile(InitStage.READY, socket_dir=str(self._cluster.socket_dir)))
            self._cap_log()
        else:
            self._note(
                StateFile(
                    InitStage.STARTING,
                    "PostgreSQL is starting, or recovering after an unclean end.",
                    str(self._cluster.socket_dir),
                    self._cluster.progress(),
                )
            )

    def _start(self) -> None:
        now = time.monotonic()
        if now < self._not_before:
            return
        if self._failures > 4:  # crashes may come in a row; after this many it cannot start
            self._note(
                StateFile(
                    InitStage.FAILED, f"PostgreSQL does not stay up: {self._cluster.log_tail()}"
                )
            )
        self._not_before = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        try:
            self._cluster.prepare()
            if not self._cluster.adopt():
                self._cluster.start()
        except DarkroomError as error:
            self._failures += 1
            self._not_before = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._note(StateFile(InitStage.FAILED, error.message))
        except OSError as error:
            self._note(StateFile(InitStage.FAILED, f"PostgreSQL cannot be started: {error}"))

    def _note(self, note: StateFile) -> None:
        now = time.monotonic()
        same_stage = self._noted is not None and self._noted.stage is note.stage
        if note == self._noted or (same_stage and now - self._noted_at < NOTE_EVERY_S):
            return
        try:
            self._files.write_note(note)
        except OSError as error:
            # The disk may be full. It is written again in a second.
            sys.stderr.write(f"The state file cannot be written: {error}\n")
        self._noted, self._noted_at = note, now

    def _cap_log(self) -> None:
        """Cut the server's log. The server appends to it, so this is safe while it runs."""
        path = self._files.server_log
        # An operator may have deleted it, and the disk may be full: the server is watched anyhow.
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_MAX_BYTES:
                with path.open("r+b") as log:
                    log.seek(-LOG_KEEP_BYTES, os.SEEK_END)
                    kept = log.read()
                    log.truncate(0)
                with path.open("ab") as log:
                    log.write(kept)


def main() -> None:
    data_dir, grace_s = sys.argv[1:3]
    if os.fork():
        os._exit(0)  # the process that started it has no child to wait for or to kill
    Supervisor(ClusterFiles(Path(data_dir)), float(grace_s)).run()


if __name__ == "__main__":
    main()
