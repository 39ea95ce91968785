"""Executor of apps written with the package ``darkroom``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from deployments.executors.base import (
    Event,
    ExecutorWork,
    LoggedLine,
    MadeOutput,
    PartialOutput,
    SessionMessage,
    SessionOpened,
    SessionRead,
)
from deployments.executors.environment import Environments, Requirements
from deployments.executors.places import with_made_files
from deployments.executors.process import ChildProcess
from serve_app.domain.errors import (
    AppNotStarted,
    Cancelled,
    InvalidInput,
    PipelineFailed,
    ReplicaDied,
)
from serve_app.domain.progress import Progress, Stage
from serve_app.options.executors import DeployedOption, Slots

FAL = "fal"
"""Kind of an app that is a ``fal.App``. Others have none."""


class AppFailed(PipelineFailed):
    """An app reported that another attempt may succeed."""

    retryable = True


class AppSpec(DeployedOption):
    """App of an endpoint: its code, its class, and how its process runs."""

    bundle: str  # SHA-256 of the zip file with its code
    name: str = Field(alias="class")  # module:Class
    path: str  # of the endpoint
    requirements: tuple[str | tuple[str, ...], ...] | None = None
    concurrency: Slots = 1
    start_timeout_s: float = 600.0
    kind: str = ""

    @property
    def is_fal(self) -> bool:
        """True if it is written for fal."""
        return self.kind == FAL

    @property
    def key(self) -> str:
        """Name of the process that runs it: endpoints of one app share it."""
        return f"{self.bundle}:{self.name}"


class _AppCall:
    """A request in the worker process."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.ended = asyncio.Event()


class PythonAppExecutor:
    """Runs an app in a worker process; see ``darkroom.worker`` for the messages, which are the same
    for apps written for fal."""

    def __init__(
        self,
        spec: AppSpec,
        code: Callable[[str], Awaitable[Path]],
        environments: Environments,
        home: Path,
        data: Path,
        secrets: Mapping[str, str],
    ) -> None:
        """``code``: coroutine function from the digest of a bundle to the folder with its files.
        ``data``: folder that stays, for what apps written for fal download. ``secrets``: variables
        that only its process gets."""
        self._spec = spec
        self._code = code
        self._environments = environments
        self._home = home
        self._data = data
        self._secrets = secrets
        self._child = ChildProcess(spec.name, home)
        self._receiver: asyncio.Task[None] | None = None
        self._calls: dict[str, _AppCall] = {}
        self._leaves = ""  # reason why the process ends by itself

    @property
    def alive(self) -> bool:
        return self._child.alive and self._receiver is not None and not self._receiver.done()

    @property
    def concurrency(self) -> int:
        return self._spec.concurrency

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        spec = self._spec
        folder = await self._code(spec.bundle)
        python = await self._environments.python(
            spec.requirements,
            lambda: on_progress(Progress(Stage.INSTALLING)),
            for_fal=spec.is_fal,
        )
        on_progress(Progress(Stage.LOADING))
        await asyncio.to_thread(self._home.mkdir, parents=True, exist_ok=True)
        command = [str(python), "-m", worker_module(is_fal=spec.is_fal), "serve", spec.name]
        more = library_path(spec.requirements)
        if spec.is_fal:
            await asyncio.to_thread(self._data.mkdir, parents=True, exist_ok=True)
            command.append(str(self._data))
            more = {"HF_HOME": str(self._data / ".cache" / "huggingface")}
        try:
            async with asyncio.timeout(spec.start_timeout_s):
                await self._child.start(command, folder, {**self._secrets, **more})
                first = await self._child.receive()
        except TimeoutError:
            await self._child.aclose(0)
            raise AppNotStarted(
                f"{spec.name} did not start within {spec.start_timeout_s:g} s: its setup() takes "
                f"longer than its {'startup_timeout' if spec.is_fal else 'start_timeout_s'}."
            ) from None
        if first is None or "failed" in first:
            await self._child.aclose(1.0)
            why = f"process {self._child.end}" if first is None else str(first["failed"])
            raise AppNotStarted(f"{spec.name} does not start: {why}")
        self._receiver = asyncio.create_task(self._receive())

    async def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        call = self._calls[work.request_id] = _AppCall()
        path = AppSpec.of(work.endpoint).path
        begun: dict[str, Any] = {"id": work.request_id, "path": path, "folder": str(work.folder)}
        begun |= {"socket": True} if work.is_session else {"input": dict(work.input)}
        self._child.send(**begun)
        if work.is_session:
            yield SessionOpened(partial(self._tell, work.request_id))
        while True:
            message = await call.messages.get() if self.alive or call.messages.qsize() else None
            if message is None:
                how = self._leaves or f"{self._child.how}."
                raise ReplicaDied(f"The process of {self._spec.name} {how}")
            event = _event(message)
            if event is None:
                continue
            yield event
            if isinstance(event, MadeOutput):
                return
            if isinstance(event, (PartialOutput, SessionMessage)):
                self._child.send(id=work.request_id, taken=True)

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        call = self._calls.get(request_id)
        if call is None or not self.alive:
            return True
        self._child.send(id=request_id, cancel=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await call.ended.wait()
        return call.ended.is_set()

    async def aclose(self, grace_s: float) -> None:
        await self._child.aclose(grace_s)
        if self._receiver is not None:
            self._receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiver

    def _tell(self, request_id: str, content: bytes | str) -> None:
        """Give a message of a session's client to the app."""
        if isinstance(content, str):
            message = ["text", content]
        else:
            message = ["bytes", base64.b64encode(content).decode()]
        self._child.send(id=request_id, message=message)

    async def _receive(self) -> None:
        """Hand messages to their requests, until the process ends."""
        while (message := await self._child.receive()) is not None:
            id_ = str(message.get("id"))
            if "leaves" in message:
                self._leaves = f"ended after {message['leaves']} in another request."
            if (call := self._calls.get(id_)) is None:
                continue
            call.messages.put_nowait(message)
            if "output" in message or "error" in message:
                call.ended.set()
                del self._calls[id_]
        await self._child.aclose(1.0)
        for call in self._calls.values():
            call.messages.put_nowait(None)
            call.ended.set()
        self._calls.clear()


def worker_module(*, is_fal: bool) -> str:
    """Module that an app's worker process runs."""
    return "darkroom.fal.worker" if is_fal else "darkroom.worker"


def library_path(requirements: Requirements | None) -> dict[str, str]:
    """Variable by which a worker finds ``darkroom``. An environment of its own has a copy."""
    if requirements is not None:
        return {}
    import darkroom  # noqa: PLC0415  # the replica has it; only its place is needed

    return {"PYTHONPATH": str(Path(darkroom.__file__).parent.parent)}


def _event(message: Mapping[str, Any]) -> Event | None:
    """Event that a worker's message is about. None: there is none. Raises a request's error."""
    files = cast("list[list[str | int]]", message.get("files", ()))
    if "progress" in message:
        step, steps = message["progress"]
        return Progress(Stage.RUNNING, int(step), int(steps))
    if "log" in message:
        level, text = message["log"]
        return LoggedLine(str(level), str(text))
    if "message" in message:
        return SessionMessage(_content(message["message"]), tuple(map(tuple, files)))
    if "read" in message:
        return SessionRead(*message["read"])
    for name, kind in (("partial", PartialOutput), ("output", MadeOutput)):
        if name in message:
            content = with_made_files(message[name], files)
            return kind(cast("Mapping[str, Any]", content))
    if "error" in message:
        raise _error(message["error"])
    return None


def _content(message: Sequence[str]) -> bytes | str:
    """Message of a session, as a worker sends it."""
    kind, content = message
    return content if kind == "text" else base64.b64decode(content)


def _error(error: Mapping[str, Any]) -> Exception:
    kind, message = error.get("kind"), str(error.get("message"))
    if kind == "cancelled":
        return Cancelled("The request was cancelled.")
    if kind == "invalid" and error.get("field"):
        type_ = str(error.get("type") or "value_error")
        return InvalidInput.of_field(str(error["field"]), message, type_, error.get("context"))
    if kind == "invalid":
        return InvalidInput(message)
    return AppFailed(message) if error.get("retry") else PipelineFailed(message)
