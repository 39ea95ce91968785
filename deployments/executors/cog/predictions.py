"""Predictions of a Cog server: its HTTP API as events of a request."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol, cast
from urllib.parse import quote

import httpx2

from deployments.executors.base import (
    PATH_KEY,
    Event,
    ExecutorWork,
    LoggedLine,
    MadeOutput,
)
from deployments.executors.cog.schema import CONTEXT, OUTPUT, is_text
from deployments.executors.files import Place, file_places, replace_at
from serve_app.domain.endpoint import CONTEXT_MARK, Endpoint
from serve_app.domain.errors import (
    Cancelled,
    DarkroomError,
    InvalidInput,
    PipelineFailed,
    ReplicaDied,
)
from serve_app.domain.progress import Progress, Stage

ROUTES = {"predict": "predictions", "train": "trainings"}

NOT_JSON = "Failed to parse output JSON: "
"""Beginning of what Cog says of an output that Python takes for JSON, and nothing else does."""

UNKNOWN, BUSY, INVALID, NOT_READY = 404, 409, 422, 503
BUSY_PAUSE_S, LAST_BUSY_PAUSE_S = 0.1, 2.0
HEALTHY = frozenset({"READY", "BUSY"})
LAST_LOGS_S = 5.0
"""Time for the last lines of a request, which come beside its result."""

_BAR = re.compile(r"\d+%\|.*?\|\s*(\d+)/(\d+)\s*\[[^]]*\]")
"""Bar of tqdm, which is how Cog's predictors show progress."""


class OnLogs(Protocol):
    """Function that gets the whole log of a prediction so far. ``last``: that is all of it."""

    def __call__(self, text: str, *, last: bool) -> None: ...


class Transport(Protocol):
    """Way on which files and log lines of a prediction travel."""

    @property
    def sends_logs(self) -> bool:
        """True if the log is sent while a prediction runs, and once more at its end."""
        ...

    def begin(self, id_: str, work: ExecutorWork, on_logs: OnLogs) -> None:
        """Prepare it for a prediction."""
        ...

    def end(self, id_: str) -> None:
        """Forget the prediction."""
        ...

    async def clear(self, id_: str) -> None:
        """Remove what the server has left of a prediction that has ended."""
        ...

    async def give(self, id_: str, path: Path) -> str:
        """URL of an input file for the server."""
        ...

    def webhook(self, id_: str) -> Mapping[str, Any]:
        """Fields of a prediction's body by which its log lines come."""
        ...

    async def take(self, id_: str, url: str) -> Mapping[str, Any]:
        """Output file whose URL the server named, as an executor's output has it."""
        ...

    def check(self, id_: str) -> None:
        """Raise ``PipelineFailed`` if a file was lost on its way."""
        ...


class LogReader:
    """Text of a prediction's log as lines and progress. Bars of tqdm are progress."""

    def __init__(self) -> None:
        self._seen = 0

    def read(self, text: str, *, last: bool = False) -> Iterator[Event]:
        """Events of what is new in ``text``, which has all so far. A line without its end is read
        with ``last`` only."""
        new = text[self._seen :]
        if not last:
            new = new[: max(new.rfind("\n"), new.rfind("\r")) + 1]
        self._seen += len(new)
        for line in re.split(r"[\r\n]+", new):
            if bar := _BAR.search(line):
                yield Progress(Stage.RUNNING, int(bar[1]), int(bar[2]))
            # A bar has no end of line, so that what was printed next stands behind it.
            if (printed := line[bar.end() :] if bar else line).strip():
                yield LoggedLine("INFO", printed)


@dataclass(frozen=True, slots=True)
class Result:
    """End of a prediction: its body, or the error that it is."""

    body: Mapping[str, Any]
    error: Exception | None = None


class _Prediction:
    """A prediction that runs."""

    def __init__(self, id_: str, mode: str) -> None:
        self.id = id_
        self.path = f"/{ROUTES[mode]}/{quote(id_)}"
        self.events: asyncio.Queue[Event | Result] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.all_logs = asyncio.Event()
        self.logs = LogReader()
        self.task: asyncio.Task[None] | None = None

    def on_logs(self, text: str, *, last: bool) -> None:
        for event in self.logs.read(text, last=last):
            self.events.put_nowait(event)
        if last:
            self.all_logs.set()


class CogPredictions:
    """Runs predictions on one Cog server. Use on one event loop."""

    def __init__(
        self, name: str, http: Callable[[], httpx2.AsyncClient], transport: Transport
    ) -> None:
        """``http``: function to the client of a server that runs."""
        self._name = name
        self._http = http
        self._transport = transport
        self._running: dict[str, _Prediction] = {}
        self.dead = False  # True: no request can run on this server any more

    async def run(
        self, work: ExecutorWork, mode: str, output: Mapping[str, Any]
    ) -> AsyncGenerator[Event]:
        """Run a request. ``output``: schema of Cog's output, whose files are marked."""
        # The server refuses no id that it has seen before; ours is of this run only.
        call = _Prediction(f"{work.request_id}-{token_hex(4)}", mode)
        self._running[work.request_id] = call
        self._transport.begin(call.id, work, call.on_logs)
        call.task = asyncio.create_task(self._predict(call, work))
        try:
            while not isinstance(event := await call.events.get(), Result):
                yield event
            if event.error is not None:
                raise event.error
            yield MadeOutput({OUTPUT: await self._output(call.id, event.body.get(OUTPUT), output)})
        finally:
            self._transport.end(call.id)

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        """Cancel a request, and wait for its end. False: it goes on after ``grace_s`` seconds."""
        call = self._running.get(request_id)
        if call is None:
            return True
        with contextlib.suppress(TimeoutError, httpx2.TransportError):
            async with asyncio.timeout(grace_s):
                answer = await self._http().post(f"{call.path}/cancel")
                if answer.status_code == UNKNOWN and call.task is not None:
                    call.task.cancel()  # it waits for a place on the server, or has just ended
                await call.ended.wait()
        return call.ended.is_set()

    async def aclose(self) -> None:
        tasks = [call.task for call in self._running.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def health(self) -> Mapping[str, Any]:
        """Answer of the server's health check."""
        answer = await self._http().get("/health-check")
        return cast("Mapping[str, Any]", answer.json())

    async def _predict(self, call: _Prediction, work: ExecutorWork) -> None:
        result = Result({}, ReplicaDied(f"{self._name} was stopped."))
        try:
            result = await self._answer(call, work)
            await self._last_logs(call, result)
        except DarkroomError as error:
            result = Result({}, error)
        except (httpx2.TransportError, ValueError, OSError) as error:
            self.dead = True
            why = str(error) or type(error).__name__
            died = ReplicaDied(f"{self._name} does not answer any more: {why}")
            died.__cause__ = error
            result = Result({}, died)
        finally:
            try:
                await self._transport.clear(call.id)
            finally:  # also if it is cancelled here: its request waits for the result
                call.ended.set()
                call.events.put_nowait(result)
                if self._running.get(work.request_id) is call:
                    del self._running[work.request_id]

    async def _last_logs(self, call: _Prediction, result: Result) -> None:
        """Read the end of the log, which only the answer of a prediction that succeeded has."""
        if logs := result.body.get("logs"):
            call.on_logs(str(logs), last=True)
        elif self._transport.sends_logs and isinstance(result.error, PipelineFailed):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_LOGS_S):
                    await call.all_logs.wait()

    async def _answer(self, call: _Prediction, work: ExecutorWork) -> Result:
        inputs, context = _split(work.endpoint, work.input)
        body = {
            "input": await self._input(call.id, inputs),
            CONTEXT: context,
            **self._transport.webhook(call.id),
        }
        pause_s = BUSY_PAUSE_S
        while True:
            answer = await self._http().put(call.path, json=body)
            if answer.status_code != BUSY:
                break
            # It is still ending another request, or is shared with others.
            if (dead := await self._dead()) is not None:
                return Result({}, dead)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_BUSY_PAUSE_S)
        document = cast("Mapping[str, Any]", answer.json())
        return Result(document, await self._error(answer.status_code, document))

    async def _error(self, status_code: int, prediction: Mapping[str, Any]) -> Exception | None:
        """Error of a prediction's end. None: it succeeded."""
        status = prediction.get("status")
        if status_code == NOT_READY:
            return ReplicaDied(f"{self._name} is not ready.")
        if status_code == INVALID:
            return _invalid(prediction)
        if status == "succeeded":
            return None
        if status == "canceled":
            return Cancelled("The request was cancelled.")
        if (dead := await self._dead()) is not None:
            return dead
        message = str(prediction.get("error") or f"Cog answered {status_code}.")
        message = re.sub(r"^(Prediction failed: )+", "", message)
        if message.startswith(NOT_JSON):
            message += ". Perhaps it has a number that is NaN or infinite, which JSON does not have"
        return PipelineFailed(message)

    async def _dead(self) -> ReplicaDied | None:
        """Error that says why no request can run on the server any more. None: they can."""
        health = await self.health()
        status = str(health.get("status"))
        if status in HEALTHY:
            return None
        self.dead = True
        why = str(health.get("user_healthcheck_error") or "").strip()
        return ReplicaDied(f"{self._name} is {status}{': ' if why else ''}{why}. See its log.")

    async def _input(self, id_: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Input as the server wants it: with URLs of files, and without what is null."""
        inputs: Any = {name: value for name, value in fields.items() if value is not None}
        for place, path in _paths(inputs):
            inputs = replace_at(inputs, place, await self._transport.give(id_, path))
        return cast("Mapping[str, Any]", inputs)

    async def _output(self, id_: str, value: Any, schema: Mapping[str, Any]) -> Any:
        self._transport.check(id_)
        if is_text(schema) and isinstance(value, list):
            return "".join(map(str, cast("list[Any]", value)))
        for place in list(file_places(value, schema)):
            url: Any = value
            for part in place:
                url = url[part]
            value = replace_at(value, place, await self._transport.take(id_, str(url)))
        return value


def _split(
    endpoint: Endpoint, fields: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Input of the model, and the context of the call, which is a field of the request's input."""
    schema = cast("Mapping[str, Any]", endpoint.options.get("input_schema") or {})
    field = (schema.get("properties") or {}).get(CONTEXT) or {}
    if CONTEXT_MARK not in field:
        return fields, {}
    return {name: value for name, value in fields.items() if name != CONTEXT}, fields.get(
        CONTEXT
    ) or {}


def _paths(value: Any, place: Place = ()) -> list[tuple[Place, Path]]:
    """Files of an executor's input, with their places."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if isinstance(path := fields.get(PATH_KEY), str):
            return [(place, Path(path))]
        return [entry for name, inner in fields.items() for entry in _paths(inner, (*place, name))]
    if isinstance(value, list):
        listed = enumerate(cast("list[Any]", value))
        return [entry for number, inner in listed for entry in _paths(inner, (*place, number))]
    return []


def _invalid(answer: Mapping[str, Any]) -> InvalidInput:
    """Error of an input that the server refused, which names its field."""
    detail: Any = answer.get("detail")
    try:
        first = cast("Mapping[str, Any]", detail[0])
        where = ".".join(str(part) for part in first["loc"][2:])  # after body and input
        return InvalidInput.of_field(where.replace("/", "."), str(first["msg"]))
    except (IndexError, KeyError, TypeError):
        return InvalidInput(str(answer.get("error") or detail or "Cog refused the input."))
