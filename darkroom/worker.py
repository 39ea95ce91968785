"""Worker process of an app: describes the app, or runs its methods for the replica that started it.

``python -m darkroom.worker describe MODULE:CLASS`` prints the app's description as JSON.
``python -m darkroom.worker serve MODULE:CLASS FD`` reads messages from the socket ``FD``.

A message is a line of JSON. To the worker: ``run`` with ``input``, ``path`` and ``folder``, or
``cancel``; each with the ``id`` of the request. From the worker: ``ready`` or ``failed`` once, and
for each request ``progress``, ``log``, ``partial``, and at the end ``output`` or ``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import sys
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

from pydantic import ValidationError

from darkroom.app import App, AppError, EndpointMethod, InvalidField, endpoints_of
from darkroom.calls import Call, Cancelled, current
from darkroom.running import async_values, described, is_async, values

MAX_LINE = 64 * 2**20
"""Longest message in bytes: inputs are JSON, and their files come by path."""

END = object()


def load(name: str) -> type[App]:
    """Import the class ``module:Class``. Raises ``AppError`` with the place of a mistake."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception as error:
        raise AppError(f"{module}.py cannot be imported: {_place(error)}") from error
    if not (isinstance(found, type) and issubclass(found, App)):
        raise AppError(f"{module}.py has no class {attribute} that is a darkroom.App")
    return found


def _place(error: BaseException) -> str:
    """Type and text of an error, with the last line of the app that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if "site-packages" not in each.filename]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or '?').name}, line {error.lineno})"
    return f"{type(error).__name__}: {error}{where}"


class Worker:
    """Runs the calls of one app. Use on one event loop."""

    def __init__(self, app: App, writer: asyncio.StreamWriter) -> None:
        self._app = app
        self._endpoints = endpoints_of(type(app))
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, tuple[Call, asyncio.Task[None] | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(max(1, app.concurrency), "call")

    def send(self, **message: Any) -> None:
        """Send a message. May be called on any thread."""
        line = json.dumps(message).encode() + b"\n"
        self._loop.call_soon_threadsafe(self._writer.write, line)

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the replica closes the socket."""
        while line := await reader.readline():
            message = cast("dict[str, Any]", json.loads(line))
            id_ = str(message["id"])
            if "cancel" in message:
                self._cancel(id_)
                continue
            call = Call(partial(self._progress, id_), id_, Path(message["folder"]))
            self._begin(call, message)

    def _begin(self, call: Call, message: dict[str, Any]) -> None:
        id_, method = call.request_id, self._endpoints.get(str(message["path"]))
        if method is None:
            failure = {"kind": "failed", "message": f"There is no endpoint {message['path']}."}
            self.send(id=id_, error=failure)
            return
        task = asyncio.create_task(self._run(call, method, message["input"]))
        # A thread cannot be cancelled: its method sees it at its next progress or yield.
        waits = is_async(getattr(self._app, method.name))
        self._calls[id_] = call, task if waits else None
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._calls.pop(id_, None)
            self._tasks.discard(task)

        task.add_done_callback(ended)

    def _cancel(self, id_: str) -> None:
        if (found := self._calls.get(id_)) is not None:
            call, task = found
            call.cancelled = True
            if task is not None:
                task.cancel()

    def _progress(self, id_: str, step: int, steps: int) -> None:
        self.send(id=id_, progress=[step, steps])

    async def _run(self, call: Call, method: EndpointMethod, input: dict[str, Any]) -> None:
        id_ = call.request_id
        try:
            args, kwargs = method.arguments(input)
            last: Any = END
            async for value in self._values(method, args, kwargs, call):
                if last is not END and method.streams:
                    self.send(id=id_, partial=method.plain(last))
                last = value
            if last is END:
                message = f"{method.name} yielded nothing, so there is no result."
                self.send(id=id_, error={"kind": "failed", "message": message})
            else:
                self.send(id=id_, output=method.plain(last))
        except (Cancelled, asyncio.CancelledError):
            self.send(id=id_, error={"kind": "cancelled", "message": "Cancelled."})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self.send(id=id_, error={"kind": "invalid", "field": where, "message": first["msg"]})
        except InvalidField as error:
            failure = {"kind": "invalid", "field": error.field, "message": error.message}
            self.send(id=id_, error=failure)
        except AppError as error:
            failure = {"kind": "failed", "message": error.message, "retry": error.retry}
            self.send(id=id_, error=failure)
        except BaseException as error:  # also SystemExit of a library: the other calls go on
            traceback.print_exc()
            self.send(id=id_, error={"kind": "failed", "message": _place(error)})

    async def _values(
        self, method: EndpointMethod, args: Any, kwargs: Any, call: Call
    ) -> AsyncIterator[Any]:
        bound = getattr(self._app, method.name)
        if is_async(bound):
            async for value in async_values(bound, args, kwargs, call):
                yield value
            return
        made = values(bound, args, kwargs, call)
        context = copy_context()  # of the call, whichever threads its steps run on
        while True:
            step = self._loop.run_in_executor(self._threads, context.run, next, made, END)
            value = await step
            if value is END:
                return
            yield value


class RequestLog(io.TextIOBase):
    """Standard output or error, whose lines also go to the log of the request that printed them."""

    def __init__(self, worker: Worker, level: str, under: TextIO) -> None:
        self._worker = worker
        self._level = level
        self._under = under
        self._begun: dict[str, str] = {}  # request → line without its end

    def write(self, text: str) -> int:
        call = current()
        if call is None:
            return self._under.write(text)
        *lines, rest = (self._begun.pop(call.request_id, "") + text).split("\n")
        for line in lines:
            if line.strip():
                self._worker.send(id=call.request_id, log=[self._level, line])
        if rest:
            self._begun[call.request_id] = rest
        return len(text)

    def flush(self) -> None:
        self._under.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._under.fileno()


async def serve(name: str, descriptor: int) -> int:
    """Serve an app on a connected socket. Returns the exit status."""
    connected = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connected, limit=MAX_LINE)

    async def failed(message: str) -> int:
        writer.write(json.dumps({"failed": message}).encode() + b"\n")
        await writer.drain()
        return 1

    try:
        app = load(name)()
        worker = Worker(app, writer)
        if is_async(app.setup):
            await cast("Any", app).setup()
        else:
            await asyncio.to_thread(app.setup)
    except AppError as error:
        return await failed(error.message)
    except Exception as error:
        traceback.print_exc()
        return await failed(f"setup() failed: {_place(error)}")
    sys.stdout = RequestLog(worker, "INFO", sys.stdout)
    sys.stderr = RequestLog(worker, "ERROR", sys.stderr)
    worker.send(ready=True)
    with contextlib.suppress(ConnectionError):  # the replica died: there is nobody to answer
        await worker.serve(reader)
    if is_async(app.teardown):
        await cast("Any", app).teardown()
    else:
        await asyncio.to_thread(app.teardown)
    return 0


def main(words: list[str]) -> int:
    command, name, *rest = words
    sys.path.insert(0, str(Path.cwd()))
    if command == "serve":
        return asyncio.run(serve(name, int(rest[0])))
    try:
        found = described(load(name))
    except (AppError, TypeError) as error:
        found = {"failed": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if "failed" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
