"""Failure of an attempt as its client sees it, and what the attempt printed."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from dataclasses import replace

from darkroom.reporting import MAX_LOG_LINE
from serve_app.domain.errors import DarkroomError, InvalidInput, PipelineFailed, Unavailable
from serve_app.domain.lease import Lines
from serve_app.domain.outcome import Failure

OF_THE_MACHINE = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its user may write no more to its disk",
    errno.EIO: "its disk cannot be read or written",
    errno.EMFILE: "it has too many open files",
    errno.ENFILE: "its machine has too many open files",
}
"""Errors of the system that are the replica's, not the request's: another one may have room."""


def as_failure(error: Exception) -> Failure:
    """Failure for the owner of the request. It contains neither a traceback nor a path of the
    replica's own files."""
    if isinstance(error, OSError) and (why := OF_THE_MACHINE.get(error.errno or 0)):
        error = Unavailable(f"The replica cannot go on: {why}. Another replica may have room.")
    if not isinstance(error, DarkroomError):
        error = PipelineFailed(f"{type(error).__name__}: {error}")
    failure = Failure(error.code, error.message, error.retryable)
    if isinstance(error, InvalidInput) and error.problems:
        first = error.problems[0]
        field = ".".join(str(part) for part in first.loc[1:])
        failure = replace(failure, field=field, type=first.type, context=first.context)
    return failure


MAX_PRINTED = 2**20
"""Characters of the lines that wait for a report. The oldest ones above that are dropped."""


class PrintedLines:
    """The last lines that were printed, level and text, which reports and the finish deliver. Long
    lines are cut.

    A report that is lost gives its lines back. The finish waits for the report before it, since the
    log takes no lines of a report that arrives after the end.
    """

    def __init__(self, most: int = 0) -> None:
        """``most``: lines that are kept; 0 for what prints none."""
        self._lines: deque[tuple[str, str]] = deque()
        self._most = most
        self._size = 0  # characters
        self._settled = asyncio.Event()
        self._settled.set()

    def append(self, level: str, text: str) -> None:
        self._keep(((level, text[:MAX_LOG_LINE]),))

    def take(self) -> Lines:
        """Lines for a report or the finish. Call ``end_report`` after a report with any."""
        taken = tuple(self._lines)
        self._lines.clear()
        self._size = 0
        if taken:
            self._settled.clear()
        return taken

    def end_report(self, lost: Lines = ()) -> None:
        """The report is over, and ``lost`` may not have arrived."""
        later = tuple(self._lines)
        self._lines.clear()
        self._size = 0
        self._keep((*lost, *later))
        self._settled.set()

    async def wait_settled(self) -> None:
        """Return when no report has any of the lines."""
        await self._settled.wait()

    def _keep(self, lines: Lines) -> None:
        self._lines += lines
        self._size += sum(len(text) for _, text in lines)
        while len(self._lines) > self._most or self._size > MAX_PRINTED:
            self._size -= len(self._lines.popleft()[1])
