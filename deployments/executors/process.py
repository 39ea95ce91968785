"""Processes of executors: started with few variables, ended with their replica and with all their
children."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, cast

from darkroom.serving import MAX_LINE
from deployments.executors import guard
from weights.folder import default_directory

log = logging.getLogger(__name__)

LAST_LINES = 20  # of its output, for an error about its end

GUARD_GRACE_S = 10.0
"""Time that a process gets to end when its replica was killed."""

KILLED_WITHIN_S = 10.0
"""Time in which a process that was killed usually has given its memory back, also a GPU's."""

PASSED = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "TZ",
)
"""Variables of the replica's environment that a child gets. No secret is among them."""


def child_environment(home: Path) -> dict[str, str]:
    """Variables of a child whose files are below ``home``."""
    # What the replica's own libraries read, and nothing of Darkroom's.
    environment = os.environ  # noqa: TID251
    kept = {name: environment[name] for name in PASSED if name in environment}
    # The node's cache: that of its own home would be fetched again by each replica.
    kept.setdefault("HF_HUB_CACHE", str(default_directory()))
    return kept | {"HOME": str(home), "TMPDIR": str(home), "PYTHONUNBUFFERED": "1"}


LOOK_S = 0.01
"""Between two looks at children of a process, whose end nobody tells."""


def how_ended(code: int | None) -> str:
    """How a process ended that has this return code; None: it is not known."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with status {code}"
    how = f"was killed by {signal.Signals(-code).name}"
    return f"{how}, perhaps for lack of memory" if code == -signal.SIGKILL else how


def _status_of_a_zombie(guard_pid: int) -> int | None:
    """Return code of a child of the guarded process that it has not waited for. None: there is
    none, or the system does not say."""
    parents: dict[int, int] = {}
    ended: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = place.read_text()
        except OSError:  # it has gone
            continue
        # The name, in parentheses, may contain any characters. See proc_pid_stat(5).
        state, parent, *fields = stat.rpartition(")")[2].split()
        pid = int(place.parent.name)
        parents[pid] = int(parent)
        if state == "Z":
            ended[pid] = os.waitstatus_to_exitcode(int(fields[-1]))
    return next(
        (code for pid, code in ended.items() if parents.get(parents[pid]) == guard_pid), None
    )


LAST_OUTPUT_WITHIN_S = 1.0
"""Time to read what a process wrote before its end. A child that it left may keep the pipe open."""


class ProcessGroup:
    """A process in a group of its own, so that it ends with all its children.

    It ends with the replica, also when that is killed: a guard process runs it. Its output is
    written to the replica's log. Use on one event loop.
    """

    def __init__(self, name: str, home: Path) -> None:
        """``name``: for the log. ``home``: directory for its files, also temporary ones."""
        self._name = name
        self._home = home
        self._process: asyncio.subprocess.Process | None = None  # the guard, which ends as it does
        self._guarded: socket.socket | None = None  # its end is that of the replica
        self._output: asyncio.Task[None] | None = None
        self.last_lines: list[str] = []
        self._was_ended = False  # here, because it did not end when it was asked

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def how(self) -> str:
        """How it ended."""
        code = None if self._process is None else self._process.returncode
        return "was ended by its replica" if self._was_ended else how_ended(code)

    @property
    def end(self) -> str:
        """How it ended, with its last line of output: for one that has not served yet. That line
        may be of any request later, such as a traceback, which only the replica's log may have."""
        return self.how + (f": {self.last_lines[-1]}" if self.last_lines else "")

    async def end_of_a_child(self, within_s: float) -> str:
        """How a child that the process itself has started, and has not waited for, has ended or
        does so within ``within_s`` seconds. Empty: none has."""
        if self._process is None:
            return ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while (status := _status_of_a_zombie(self._process.pid)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
                return how_ended(status)
        return ""

    async def _spawn(
        self,
        command: Sequence[str],
        folder: Path,
        more: Mapping[str, str] | None,
        talks: socket.socket | None = None,
    ) -> None:
        """Start ``command`` in ``folder``. ``talks``: its end of a socket, which is closed here.

        Raises ``OSError`` if there is no room for another process."""
        ours, theirs = socket.socketpair()
        # A pipe of our own: `wait` of a process with asyncio's pipes waits for their end too, and a
        # child that has left the group may keep the output open.
        output, written = os.pipe()
        passed = [end.fileno() for end in (theirs, talks) if end is not None]
        guarded = (sys.executable, "-S", "-E", guard.__file__, str(theirs.fileno()))
        words = (str(GUARD_GRACE_S), str(-1 if talks is None else talks.fileno()), *command)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *guarded,
                *words,
                cwd=folder,
                env=child_environment(self._home) | dict(more or {}),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=passed,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(output)
            raise
        finally:
            os.close(written)
            theirs.close()
            if talks is not None:
                talks.close()
        self._guarded = ours
        # In no request's context: a line may be about any request that the process has.
        self._output = asyncio.create_task(self._log_output(output), context=Context())

    def _let_go(self) -> None:
        """Make the guard end the process, as if the replica were gone."""
        if self._guarded is not None:
            self._guarded.close()
            self._guarded = None

    async def _end_group(self, grace_s: float) -> None:
        """Wait ``grace_s`` seconds for the end of a process that was asked to end, and kill its
        group then."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.wait()
        if process.returncode is None:
            self._was_ended = True
            # By its guard, which waits for it: what is started next needs its memory.
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                process.send_signal(signal.SIGUSR1)
                async with asyncio.timeout(KILLED_WITHIN_S):
                    await process.wait()
        # Also if it has ended: children that it left have its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self._let_go()
        if self._output is not None:
            # Not awaited itself: two may end a process at once, and a task that one of them cancels
            # would cancel the other.
            await asyncio.wait([self._output], timeout=LAST_OUTPUT_WITHIN_S)
            self._output.cancel()

    async def _log_output(self, output: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than asyncio's limit: the part that was read is dropped
                    continue
                if not line:
                    return
                text = line.decode(errors="replace").rstrip()
                log.info("%s: %s", self._name, text)
                self.last_lines = [*self.last_lines, text][-LAST_LINES:]
        finally:
            transport.close()


class ChildProcess(ProcessGroup):
    """Child that talks by lines of JSON over a socket."""

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._ended: asyncio.Task[None] | None = None

    async def start(
        self, command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None
    ) -> None:
        """Start ``command`` in ``folder``; the number of its socket is appended to it."""
        ours, theirs = socket.socketpair()
        try:
            await self._spawn([*command, str(theirs.fileno())], folder, more, theirs)
        except OSError:
            ours.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        self._ended = asyncio.create_task(self._shut_down_after_end(ours), context=Context())

    async def _shut_down_after_end(self, ours: socket.socket) -> None:
        """End what is read with the process: a child that it left may keep its socket open."""
        if self._process is not None:
            await self._process.wait()
        with contextlib.suppress(OSError):  # it is closed
            ours.shutdown(socket.SHUT_RDWR)  # what was sent is still read

    def send(self, **message: Any) -> None:
        """Send a message. One to a child that has ended is dropped."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message. None: the child has closed its socket, or sends no JSON."""
        if self._reader is None:
            return None
        try:
            line = await self._reader.readline()
            return cast("dict[str, Any]", json.loads(line)) if line else None
        except (ConnectionError, ValueError):
            return None

    async def aclose(self, grace_s: float) -> None:
        """Close the socket, which asks the child to end, and kill its group after ``grace_s``."""
        if self._writer is not None:
            self._writer.close()
        await self._end_group(grace_s)
        if self._ended is not None:
            await asyncio.wait([self._ended])
