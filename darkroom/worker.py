"""Worker process of an app: describes the app, or runs its methods for the replica that started it.

``python -m darkroom.worker describe MODULE:CLASS`` prints the app's description as JSON.
``python -m darkroom.worker serve MODULE:CLASS FD`` reads messages from the socket ``FD``.

A message is a line of JSON. To the worker: ``input`` with ``path`` and ``folder``, ``cancel``, or
``taken`` after a partial result; each with the ``id`` of the request. From the worker: ``ready`` or
``failed`` once, and for each request ``progress``, ``log``, ``partial``, and at the end ``output``
or ``error``. ``files`` beside an output has the places of the objects that stand for files: no
other object does, whatever it looks like.

A generator waits at its next value while ``MAX_UNTAKEN`` partial results were not taken, so that
none pile up on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import traceback
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from darkroom.app import App, EndpointMethod, endpoints_of
from darkroom.calls import Call, Cancelled, context_of
from darkroom.errors import AppError, InvalidField
from darkroom.files import PATH_KEY
from darkroom.reporting import RequestLog, files_of, place_of, send_error
from darkroom.running import END, async_values, describe_app, is_async, nothing_yielded, values

MAX_LINE = 64 * 2**20
"""Longest message in bytes: inputs are JSON, and their files come by path."""

MAX_UNTAKEN = 8
"""Partial results of a request that may be on their way to the replica."""


def load(name: str) -> type[App]:
    """Import the class ``module:Class``. Raises ``AppError`` with the place of a mistake."""
    module, _, attribute = name.partition(":")
    try:
        app_class = getattr(import_module(module), attribute, None)
    except (Exception, SystemExit) as error:  # a script that ends when it is imported
        raise AppError(f"{module}.py cannot be imported: {place_of(error)}") from error
    if not (isinstance(app_class, type) and issubclass(app_class, App)):
        raise AppError(f"{module}.py has no class {attribute} that is a darkroom.App")
    return app_class


@dataclass
class RunningCall:
    """A call that has not ended. ``task`` is set if cancelling it reaches the method."""

    call: Call
    task: asyncio.Task[None] | None
    room: asyncio.Semaphore  # for partial results


class Worker:
    """Runs the calls of one app. Use on one event loop."""

    def __init__(self, app: App, writer: asyncio.StreamWriter) -> None:
        self._app = app
        self._endpoints = endpoints_of(type(app))
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, RunningCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(max(1, app.concurrency), "call")
        self.logs: tuple[RequestLog, ...] = ()

    def send(self, **message: Any) -> None:
        """Send a message. May be called on any thread. ``AppError`` if it is too large."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise AppError(
                f"The output has {len(line) >> 20} MiB as JSON; at most {MAX_LINE >> 20} MiB are "
                "possible. Return large data as a darkroom.File."
            )
        self._loop.call_soon_threadsafe(self._writer.write, line)

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the replica closes the socket."""
        while line := await reader.readline():
            message = cast("dict[str, Any]", json.loads(line))
            id_ = str(message["id"])
            if "cancel" in message:
                self._cancel(id_)
                continue
            if "taken" in message:
                self._release_room(id_)
                continue
            call = Call(partial(self._progress, id_), id_, Path(message["folder"]))
            self._begin(call, message)

    def _begin(self, call: Call, message: dict[str, Any]) -> None:
        id_, method = call.request_id, self._endpoints.get(str(message["path"]))
        if method is None:
            failure = {"kind": "failed", "message": f"There is no endpoint {message['path']}."}
            self.send(id=id_, error=failure)
            return
        room = asyncio.Semaphore(MAX_UNTAKEN)
        running = self._run(call, method, message["input"], room)
        task = asyncio.create_task(running, context=context_of(call))
        # A thread cannot be cancelled: its method sees it at its next progress or yield.
        waits = is_async(getattr(self._app, method.name))
        self._calls[id_] = RunningCall(call, task if waits else None, room)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._calls.pop(id_, None)
            self._tasks.discard(task)

        task.add_done_callback(ended)

    def _cancel(self, id_: str) -> None:
        if (running := self._calls.get(id_)) is not None:
            running.call.cancelled = True
            running.room.release()  # nobody takes its partial results any more
            if running.task is not None:
                running.task.cancel()

    def _release_room(self, id_: str) -> None:
        if (running := self._calls.get(id_)) is not None:
            running.room.release()

    def _progress(self, id_: str, step: int, steps: int) -> None:
        self.send(id=id_, progress=[step, steps])

    async def _run(
        self, call: Call, method: EndpointMethod, input: dict[str, Any], room: asyncio.Semaphore
    ) -> None:
        id_ = call.request_id
        try:
            output = await self._output(call, method, input, room)
            self._end_logs(id_)
            self.send(id=id_, output=output, **_files(output))
        except BaseException as error:  # also SystemExit of a library: the other calls go on
            self._end_logs(id_)
            send_error(self, id_, error, partial(_failure, error))

    async def _output(
        self, call: Call, method: EndpointMethod, input: dict[str, Any], room: asyncio.Semaphore
    ) -> dict[str, Any]:
        args, kwargs = method.arguments(input)
        last: dict[str, Any] | None = None
        async with contextlib.aclosing(self._values(method, args, kwargs, call)) as stream:
            async for value in stream:
                last = method.plain(value)
                if method.streams:
                    await room.acquire()
                    self.send(id=call.request_id, partial=last, **_files(last))
        if last is None:
            raise AppError(nothing_yielded(method))
        return last

    def _values(
        self, method: EndpointMethod, args: Any, kwargs: Any, call: Call
    ) -> AsyncGenerator[Any]:
        bound = getattr(self._app, method.name)
        if is_async(bound):
            return async_values(bound, args, kwargs)
        return self._in_threads(values(bound, args, kwargs, call))

    async def _in_threads(self, generator: Generator[Any]) -> AsyncGenerator[Any]:
        """Values of a generator whose steps run in threads, all of them in this task's context."""
        context, loop, threads = copy_context(), self._loop, self._threads
        following = partial(context.run, next, generator, END)
        try:
            while (value := await loop.run_in_executor(threads, following)) is not END:
                yield value
        finally:
            await loop.run_in_executor(threads, context.run, generator.close)

    def _end_logs(self, id_: str) -> None:
        for log in self.logs:
            log.end(id_)


def _files(output: dict[str, Any]) -> dict[str, Any]:
    # ``EndpointMethod.plain`` has refused all other objects with this key.
    return files_of(output, lambda fields: isinstance(fields.get(PATH_KEY), str))


def _failure(error: BaseException) -> dict[str, Any]:
    """Error of a request as JSON."""
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        return {"kind": "cancelled", "message": "Cancelled."}
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return {"kind": "invalid", "field": where, "message": first["msg"]}
    if isinstance(error, InvalidField):
        known = {"type": error.type, "context": error.context}
        return {"kind": "invalid", "field": error.field, "message": error.message, **known}
    if isinstance(error, AppError):
        return {"kind": "failed", "message": error.message, "retry": error.retry}
    # To the replica's log: a client need not see the code.
    traceback.print_exception(error, file=sys.__stderr__)
    return {"kind": "failed", "message": place_of(error)}


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
        return await failed(f"setup() failed: {place_of(error)}")
    worker.logs = (
        RequestLog(worker, "INFO", sys.stdout),
        RequestLog(worker, "ERROR", sys.stderr),
    )
    sys.stdout, sys.stderr = worker.logs
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
        description = describe_app(load(name))
    except (AppError, TypeError) as error:
        description = {"failed": str(error)}
    sys.stdout.write(json.dumps(description) + "\n")
    return 1 if "failed" in description else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
