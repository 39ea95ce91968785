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
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from darkroom.app import App, EndpointMethod, endpoints_of
from darkroom.calls import Call, Cancelled, context_of, is_async
from darkroom.errors import AppError, InvalidField
from darkroom.files import PATH_KEY
from darkroom.reporting import files_of, place_of
from darkroom.running import END, async_values, describe_app, nothing_yielded, values
from darkroom.serving import (
    BaseWorker,
    RunningCall,
    connect,
    print_description,
    report_failed_setup,
    report_failure,
    run,
    unexpected_failure,
)


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


@dataclass(kw_only=True)
class AppCall(RunningCall):
    """A call of a method. ``task`` is set if cancelling it reaches the method."""

    task: asyncio.Task[None] | None = None


class Worker(BaseWorker[AppCall]):
    """Runs the calls of one app. Use on one event loop."""

    def __init__(self, app: App, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._app = app
        self._endpoints = endpoints_of(type(app))
        self._threads = ThreadPoolExecutor(max(1, app.concurrency), "call")

    def _too_large(self, problem: str) -> AppError:
        return AppError(f"{problem} Return large data as a darkroom.File.")

    def _begin(self, id_: str, message: Mapping[str, Any]) -> None:
        method = self._endpoints.get(str(message["path"]))
        if method is None:
            failure = {"kind": "failed", "message": f"There is no endpoint {message['path']}."}
            self.send(id=id_, error=failure)
            return
        call = Call(partial(self._progress, id_), id_, Path(message["folder"]))
        running = self._calls[id_] = AppCall(call=call)
        work = self._run(call, method, message["input"], running.room)
        task = asyncio.create_task(work, context=context_of(call))
        # A thread cannot be cancelled: its method sees it at its next progress or yield.
        running.task = task if method.is_async else None
        self._tasks.add(task)

        def forget_call(task: asyncio.Task[None]) -> None:
            self._calls.pop(id_, None)
            self._tasks.discard(task)

        task.add_done_callback(forget_call)

    def _stop(self, running: AppCall) -> None:
        if running.task is not None:
            running.task.cancel()

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
            self.send_error(id_, error, partial(_failure, error))

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
        if method.is_async:
            return async_values(bound, args, kwargs, streams=method.streams)
        return self._in_threads(values(bound, args, kwargs, call, streams=method.streams))

    async def _in_threads(self, generator: Generator[Any]) -> AsyncGenerator[Any]:
        """Values of a generator whose steps run in threads, all of them in this task's context."""
        context, loop, threads = copy_context(), self._loop, self._threads
        following = partial(context.run, next, generator, END)
        try:
            while (value := await loop.run_in_executor(threads, following)) is not END:
                yield value
        finally:
            await loop.run_in_executor(threads, context.run, generator.close)


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
    return unexpected_failure(error)


async def serve(name: str, descriptor: int) -> int:
    """Serve an app on a connected socket. Returns the exit status."""
    reader, writer = await connect(descriptor)
    try:
        app = load(name)()
        worker = Worker(app, writer)
        if is_async(app.setup):
            await cast("Any", app).setup()
        else:
            await asyncio.to_thread(app.setup)
    except AppError as error:
        return await report_failure(writer, error.message)
    except Exception as error:
        return await report_failed_setup(writer, error)
    worker.begin_logs()
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
        return run(serve(name, int(rest[0])))
    return print_description(lambda: describe_app(load(name)), AppError, TypeError)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
