"""Worker process of a ``fal.App``: describes the app, or runs its routes for the replica that
started it.

``python -m darkroom.fal.worker describe MODULE:CLASS`` prints the app's description as JSON.
``python -m darkroom.fal.worker serve MODULE:CLASS DATA FD`` reads messages from the socket ``FD``.
They are those of ``darkroom.worker``, and those of sessions: ``socket`` in place of ``input``
begins one, ``message`` in both directions is a frame, ``read`` says how many of the client's the
app has taken and whether it waits for another one, and ``output`` is the close code and reason.
``leaves`` says why the process ends by itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from darkroom.calls import Call, context_of
from darkroom.fal.answers import Failure, failure_of, outputs_of
from darkroom.fal.connection import Connection, Content, ContextThreads, with_files
from darkroom.fal.exchange import Exchange, events, json_lines
from darkroom.fal.health import INTERVAL_S, HealthCheck
from darkroom.fal.local_files import LocalFiles, UnknownFile, named_files
from darkroom.fal.package import (
    GPU_STATUS,
    HostedApp,
    NotUsable,
    describe_app,
    is_cancelled,
    load,
    use_local_files,
)
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

UNHEALTHY = 70
"""Exit status of a process whose health check has failed."""

TRACEBACKS = ('{"traceback": ', "Traceback (most recent call last):")
"""Beginnings of what fal prints for an error of a route, and of a session. A client need not see
the code."""


JSON_LINES = "application/jsonl"
"""Type of what FastAPI makes of a route that yields."""


@dataclass(kw_only=True)
class RouteCall(RunningCall):
    """A call of a route, or a session."""

    exchange: Exchange | None = None
    connection: Connection | None = None  # of a session


class Worker(BaseWorker[RouteCall]):
    """Runs the calls of one app. Use on one event loop."""

    def __init__(self, app: HostedApp, files: LocalFiles, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._app = app
        self._files = files
        self._is_broken = False

    def _too_large(self, problem: str) -> Failure:
        return Failure(f"{problem} Return large data as a file of fal.toolkit.")

    def _is_usable(self) -> bool:
        return not self._is_broken or bool(self._tasks)

    async def finish(self) -> None:
        """Wait for the calls that run. Sessions, which may have no end, are left."""
        for running in self._calls.values():
            if running.connection is not None:
                self._keep(running.connection.leave())
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, id_: str, message: Mapping[str, Any]) -> None:
        if "message" in message:
            self._put(id_, message["message"])
            return
        call = Call(request_id=id_, folder=Path(message["folder"]))
        running = self._calls[id_] = RouteCall(call=call)
        if "socket" in message:
            running.connection = self._connection(running, str(message["path"]))
        task = asyncio.create_task(self._run(running, message), context=context_of(call))
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._is_broken and not self._tasks:
            self._writer.close()  # ends ``serve``

    def _stop(self, running: RouteCall) -> None:
        if running.connection is not None:
            self._keep(running.connection.leave())
        elif (exchange := running.exchange) is not None:
            self._keep(exchange.leave(cancel=self._app.is_async(exchange.path)))

    def _keep(self, leaving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(leaving)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    async def _run(self, running: RouteCall, message: Mapping[str, Any]) -> None:
        id_ = running.call.request_id
        try:
            if running.connection is not None:
                output = await self._run_session(running, running.connection)
            else:
                output = await self._output(running, str(message["path"]), message["input"])
            self._end_logs(id_)
            self.send(id=id_, output=output, **named_files(output))
        except BaseException as error:  # also SystemExit of a library: the other calls go on
            self._end_logs(id_)
            self.send_error(id_, error, partial(self._failure, running.call, error))
        finally:
            self._calls.pop(id_, None)
            self._files.forget(id_)

    async def _output(
        self, running: RouteCall, path: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        if running.call.cancelled:
            raise asyncio.CancelledError
        exchange = running.exchange = self._exchange(running.call, path, fields)
        await exchange.begin()
        try:
            return await self._answer(running, exchange)
        finally:
            exchange.abandon()  # if it was not read to its end

    def _connection(self, running: RouteCall, path: str) -> Connection:
        id_ = running.call.request_id

        async def send(content: Content) -> None:
            # Before a place is waited for, so that the app sees the error of its own message.
            content, files = with_files(content, self._files)
            await running.room.acquire()
            self.send(id=id_, message=pack_content(content), **files)

        headers = {"x-fal-request-id": id_, "x-fal-endpoint": path}
        return Connection(
            self._app.application,
            path,
            headers,
            send,
            lambda read, waits: self.send(id=id_, read=[read, waits]),
        )

    async def _run_session(self, running: RouteCall, connection: Connection) -> dict[str, Any]:
        """Run a session. Returns how the app closed it."""
        if running.call.cancelled:
            raise asyncio.CancelledError
        if running.call.folder is not None:
            running.call.folder.mkdir(parents=True, exist_ok=True)
        self._files.keep_newest(running.call.request_id)
        code, reason = await connection.run()
        return {"code": code, "reason": reason}

    def _put(self, id_: str, message: list[str]) -> None:
        running = self._calls.get(id_)
        if running is not None and running.connection is not None:
            running.connection.put(unpack_content(message))

    async def _answer(self, running: RouteCall, exchange: Exchange) -> dict[str, Any]:
        kind = exchange.headers.get("content-type", "")
        content, last = b"", None
        if kind.startswith("text/event-stream"):
            last = await self._last_value(running, events(exchange.body()))
        elif kind.startswith(JSON_LINES):
            last = await self._last_value(running, json_lines(exchange.body()))
        else:
            content = b"".join([part async for part in exchange.body()])
        broke = exchange.error is not None and last is not None
        if exchange.status == 0 or exchange.status >= 400 or broke:
            raise failure_of(exchange, content)
        return self._plain(outputs_of(kind, content, self._files)) if last is None else last

    def _exchange(self, call: Call, path: str, input_fields: dict[str, Any]) -> Exchange:
        if call.folder is not None:
            call.folder.mkdir(parents=True, exist_ok=True)
        fields = cast("dict[str, Any]", self._files.with_urls(input_fields))
        names = self._app.query_names(path)
        query = {name: field for name, field in fields.items() if name in names}
        body = {name: field for name, field in fields.items() if name not in names}
        headers = {"x-fal-request-id": call.request_id, "x-fal-endpoint": path, "accept": "*/*"}
        return Exchange(self._app.application, path, body, query, headers)

    async def _last_value(
        self, running: RouteCall, values: AsyncGenerator[str]
    ) -> dict[str, Any] | None:
        """Send each value of a stream as a partial result, and return the last one."""
        last: dict[str, Any] | None = None
        async for value in values:
            last = self._plain(outputs_of("application/json", value.encode(), self._files))
            if not running.call.cancelled:
                await running.room.acquire()
                self.send(id=running.call.request_id, partial=last, **named_files(last))
        return last

    def _plain(self, output: dict[str, Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", self._files.with_paths(output))

    def _failure(self, call: Call, error: BaseException) -> dict[str, Any]:
        """Error of a request as JSON."""
        if call.cancelled or (isinstance(error, Failure) and is_cancelled(error.cause)):
            return {"kind": "cancelled", "message": "Cancelled."}
        if isinstance(error, Failure):
            if error.status == GPU_STATUS:
                self._is_broken = True
                # Only its type: those that hear it are other requests, perhaps of other tenants.
                kind = f" ({type(error.cause).__name__})" if error.cause else ""
                self.send(leaves=f"an error of its GPU{kind}")
            return error.as_message()
        if isinstance(error, UnknownFile):
            return {"kind": "failed", "message": str(error)}
        return unexpected_failure(error)


def pack_content(content: Content) -> list[str]:
    """Message of a session, as JSON has it."""
    if isinstance(content, str):
        return ["text", content]
    return ["bytes", base64.b64encode(content).decode()]


def unpack_content(message: list[str]) -> Content:
    kind, content = message
    return content if kind == "text" else base64.b64decode(content)


async def serve(name: str, data: Path, descriptor: int) -> int:
    """Serve an app on a connected socket. Returns the exit status."""
    reader, writer = await connect(descriptor)
    files = LocalFiles()
    files.start()
    use_local_files(files, data)
    try:
        app = HostedApp(load(name))
        lifespan = app.lifespan()
    except NotUsable as error:
        return await report_failure(writer, str(error))
    asyncio.get_running_loop().set_default_executor(ContextThreads(thread_name_prefix="session"))
    try:
        await lifespan.__aenter__()
    except Exception as error:
        return await report_failed_setup(writer, error)
    worker = Worker(app, files, writer)
    worker.begin_logs(TRACEBACKS)
    health = health_checks(app)
    with contextlib.suppress(ConnectionError):  # the replica died: there is nobody to answer
        await worker.serve(reader)
    if health is not None:
        health.cancel()
    app.handle_exit()
    await worker.finish()
    await lifespan.__aexit__(None, None, None)
    return 0


def health_checks(app: HostedApp, interval_s: float = INTERVAL_S) -> asyncio.Task[None] | None:
    """Task that calls the app's health check, and ends the process if it fails. None: the app has
    no such check."""
    health_check = app.health_check
    if health_check is None or health_check.call_regularly is False:
        return None

    async def call() -> int:
        method = health_check.method or "POST"
        headers = {"x-fal-runner-health-check": "true"}
        exchange = Exchange(app.application, health_check.path, {}, {}, headers, method)
        await exchange.begin()
        async for _ in exchange.body():
            pass
        return exchange.status

    def on_failure(why: str) -> None:
        print(
            f"The health check {health_check.path} failed: {why}", file=sys.__stderr__, flush=True
        )
        os._exit(UNHEALTHY)

    start_s = health_check.start_period_seconds
    check = HealthCheck(
        call,
        on_failure,
        timeout_s=health_check.timeout_seconds or 5,
        failures=health_check.failure_threshold or 3,
        start_s=max(30 if start_s is None else start_s, app.startup_timeout_s),
        interval_s=interval_s,
    )
    return asyncio.create_task(check.run())


def main(words: list[str]) -> int:
    command, name, *rest = words
    sys.path.insert(0, str(Path.cwd()))
    if command == "serve":
        return run(serve(name, Path(rest[0]), int(rest[1])))
    use_local_files(LocalFiles(), None)
    return print_description(lambda: describe_app(load(name)), NotUsable)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
