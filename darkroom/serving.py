"""What the worker processes of apps have in common: messages with the replica that started them.

A message is a line of JSON. ``darkroom.worker`` and ``darkroom.fal.worker`` say which there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from darkroom.calls import Call
from darkroom.reporting import RequestLog, place_of

MAX_LINE = 64 * 2**20
"""Longest message in bytes: inputs are JSON, and their files come by path."""

MAX_UNTAKEN = 8
"""Partial results of a request that may be on their way to the replica."""


@dataclass(kw_only=True)
class RunningCall:
    """A call that has not ended."""

    call: Call
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UNTAKEN))
    """Room for partial results."""


C = TypeVar("C", bound=RunningCall)


class BaseWorker(ABC, Generic[C]):
    """Runs the calls of one app. Use on one event loop."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, C] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._logs: tuple[RequestLog, ...] = ()

    @abstractmethod
    def _too_large(self, problem: str) -> Exception:
        """Error of an output that is no message: ``problem``, and what to return in its place."""

    @abstractmethod
    def _begin(self, id_: str, message: Mapping[str, Any]) -> None:
        """Begin a call, or take another message of one."""

    @abstractmethod
    def _stop(self, running: C) -> None:
        """End a call that was cancelled, if it can be ended."""

    def send(self, **message: Any) -> None:
        """Send a message. May be called on any thread. ``_too_large``, if it is."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise self._too_large(
                f"The output has {len(line) >> 20} MiB as JSON; at most {MAX_LINE >> 20} MiB are "
                "possible."
            )
        self._loop.call_soon_threadsafe(self._writer.write, line)

    def send_error(
        self, id_: str, error: BaseException, describe: Callable[[], dict[str, Any]]
    ) -> None:
        """End a request with its error. ``describe`` makes its fields.

        An app's error may have a text that cannot be made, or fields that are no JSON. Its request
        would wait for ever, so it ends with the type of the error then.
        """
        try:
            self.send(id=id_, error=describe())
        except BaseException as unsent:  # also SystemExit: it would end no process but the call
            why = f"its text cannot be sent ({type(unsent).__name__})"
            self.send(id=id_, error={"kind": "failed", "message": f"{type(error).__name__}: {why}"})

    def begin_logs(self, private: Sequence[str] = ()) -> None:
        """Let what a call prints go to the log of its request, but for lines that begin with
        ``private``."""
        self._logs = (
            RequestLog(self, "INFO", sys.stdout, private),
            RequestLog(self, "ERROR", sys.stderr, private),
        )
        sys.stdout, sys.stderr = self._logs

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the replica closes the socket, or the app needs another process."""
        try:
            await self._serve(reader)
        finally:
            # Also if the app has cancelled this: its threads may keep the process, and whoever
            # waits for answers would wait for them.
            self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        self.send(ready=True)
        while self._is_usable() and (line := await reader.readline()):
            message = cast("dict[str, Any]", json.loads(line))
            id_ = str(message["id"])
            running = self._calls.get(id_)
            if "cancel" in message:
                if running is not None and not running.call.cancelled:
                    running.call.cancelled = True
                    running.room.release()  # nobody takes its partial results any more
                    self._stop(running)
            elif "taken" in message:
                if running is not None:
                    running.room.release()
            else:
                self._begin(id_, message)

    def _is_usable(self) -> bool:
        return True

    def _end_logs(self, id_: str) -> None:
        for log in self._logs:
            log.end(id_)


def run(serving: Coroutine[Any, Any, int]) -> int:
    """Run ``serving`` to its end, as ``asyncio.run`` does.

    A method that calls ``sys.exit`` stops the event loop, although its request has caught that, and
    so does one that stops it itself: all calls of the process would wait for ever. The loop goes
    on, but for that of a child, which a method has forked and not ended.
    """
    own = os.getpid()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(serving)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt, RuntimeError):
                if os.getpid() != own:
                    os._exit(0)
                if task.done():
                    raise


async def connect(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the socket that the replica has left in this process, for this process alone."""
    connected = socket.socket(fileno=descriptor)
    connected.set_inheritable(False)  # by programs that the app starts
    nothing = os.open(os.devnull, os.O_RDWR)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        """In a child that the app forks: it would read calls of its parent, and a socket that it
        holds hides the end of its parent from the replica."""
        os.dup2(nothing, descriptor, inheritable=False)
        loop.stop()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    os.register_at_fork(after_in_child=leave)
    return await asyncio.open_connection(sock=connected, limit=MAX_LINE)


async def report_failure(writer: asyncio.StreamWriter, why: str) -> int:
    """Say that the app cannot start. Returns the exit status."""
    writer.write(json.dumps({"failed": why}).encode() + b"\n")
    await writer.drain()
    return 1


async def report_failed_setup(writer: asyncio.StreamWriter, error: Exception) -> int:
    """Say that ``setup()`` raised. Returns the exit status."""
    traceback.print_exc()
    return await report_failure(writer, f"setup() failed: {place_of(error)}")


def unexpected_failure(error: BaseException) -> dict[str, Any]:
    """Error of a request whose code raised what nobody expects. Its traceback goes to the log of
    the replica: a client need not see the code."""
    traceback.print_exception(error, file=sys.__stderr__)
    return {"kind": "failed", "message": place_of(error)}


def print_description(describe: Callable[[], Any], *mistakes: type[Exception]) -> int:
    """Print an app's description as JSON, or what is wrong with it. Returns the exit status."""
    try:
        description = describe()
    except mistakes as error:
        description = {"failed": str(error)}
    sys.stdout.write(json.dumps(description, default=str) + "\n")
    return 1 if "failed" in description else 0
