"""Executors of Cog models: a project in a process of its own, and a server at an address."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Self, cast

import httpx2
from pydantic import model_validator

from deployments.executors.base import Event, ExecutorWork
from deployments.executors.cog.exchange import InlineFiles, LoopbackExchange, LoopbackFiles
from deployments.executors.cog.predictions import HEALTHY, CogPredictions
from deployments.executors.cog.schema import is_file
from deployments.executors.environment import Environments
from deployments.executors.process import child_environment
from deployments.executors.server_process import Launch, ServerProcess
from serve_app.domain.errors import AppNotStarted, ReplicaDied
from serve_app.domain.progress import Progress, Stage
from serve_app.options.executors import DeployedOption, Slots, Url

COG = "cog"
"""Name that endpoints use as their ``family``, and their option with the model."""

STUBS = {"predict": "COG_PREDICT_TYPE_STUB", "train": "COG_TRAIN_TYPE_STUB"}

LOG_INTERVAL_S = 0.2  # of the lines of a prediction
PROBE_S, LAST_PROBE_S = 0.1, 2.0

END_S = 2.0
"""Time in which a process that does not answer may end, so that its end can be named."""


WORKER_END_S = 0.2
"""Time in which the worker of a server that is not usable may end: it closes its pipes first."""


class CogSpec(DeployedOption):
    """Cog model of an endpoint: a project's code, or the address of a server."""

    mode: Literal["predict", "train"] = "predict"
    output: Mapping[str, Any]  # schema of Cog's output, whose files are marked
    concurrency: Slots = 1
    start_timeout_s: float = 600.0
    url: Url = ""  # of a server; empty: it is a project
    bundle: str = ""  # SHA-256 of the zip file with its code
    target: str = ""  # FILE.py:NAME
    requirements: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _has_server_or_code(self) -> Self:
        if not self.url and not (self.bundle and self.target):
            raise ValueError("it must have a `url`, or a `bundle` with a `target`")
        return self

    @property
    def key(self) -> str:
        """Name of the process or server that runs it."""
        return self.url or f"{self.bundle}:{self.target}"


class CogServerExecutor:
    """Runs a model on a Cog server that runs somewhere else, such as in its own image."""

    def __init__(self, spec: CogSpec) -> None:
        self._spec = spec
        self._http: httpx2.AsyncClient | None = None
        self._predictions = CogPredictions(
            f"The Cog server {spec.url}", self._client, InlineFiles()
        )

    @property
    def alive(self) -> bool:
        """False when the server is away, so that the next request waits for it."""
        return self._http is not None and not self._predictions.dead

    @property
    def concurrency(self) -> int:
        return self._spec.concurrency

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress(Stage.LOADING))
        within_s, url = self._spec.start_timeout_s, self._spec.url
        # Predictions take as long as they take.
        self._http = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=httpx2.Timeout(None))
        why, pause_s = "it does not answer", PROBE_S
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        if ready(await self._predictions.health(), f"The Cog server {url}"):
                            return
                        why = "it is still starting"
                    except (httpx2.TransportError, ValueError) as error:
                        why = str(error) or type(error).__name__
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LAST_PROBE_S)
        except TimeoutError:
            raise AppNotStarted(
                f"The Cog server {url} was not ready within {within_s:g} s: {why}."
            ) from None

    def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        spec = CogSpec.of(work.endpoint)
        return self._predictions.run(work, spec.mode, spec.output)

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        return await self._predictions.cancel(request_id, grace_s)

    async def aclose(self, grace_s: float) -> None:
        del grace_s  # its requests were cancelled, and the server is not ours
        await self._predictions.aclose()
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            raise httpx2.TransportError("the executor is closed")
        return self._http


class CogExecutor:
    """Runs a Cog project: its server, in an environment with its requirements."""

    def __init__(
        self,
        spec: CogSpec,
        code: Callable[[str], Awaitable[Path]],
        environments: Environments,
        home: Path,
    ) -> None:
        """``code``: coroutine function from the digest of a bundle to the folder with its files."""
        self._spec = spec
        self._code = code
        self._environments = environments
        self._home = home
        self._server = ServerProcess(spec.target, home)
        self._exchange = LoopbackExchange()
        self._predictions = CogPredictions(spec.target, self._client, LoopbackFiles(self._exchange))

    @property
    def alive(self) -> bool:
        return self._server.alive and not self._predictions.dead

    @property
    def concurrency(self) -> int:
        return self._spec.concurrency

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        spec = self._spec
        code = await self._code(spec.bundle)
        python = await self._environments.python(
            spec.requirements, lambda: on_progress(Progress(Stage.INSTALLING))
        )
        on_progress(Progress(Stage.LOADING))
        # A copy: predictors write to the current folder, and the code is shared by the node.
        folder = self._home / "src"
        await asyncio.to_thread(_copy_code, code, folder)
        await self._exchange.start()
        try:
            await self._server.start(lambda port: self._launch(python, port), folder)
            await self._server.ready(self._ready, spec.start_timeout_s)
        except BaseException:
            await self.aclose(1.0)
            raise

    async def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        events = self._predictions.run(work, self._spec.mode, self._spec.output)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except ReplicaDied as error:
            target = self._spec.target
            unanswered = isinstance(error.__cause__, httpx2.TransportError)
            if unanswered and await self._server.wait_for_end(END_S):
                raise ReplicaDied(f"The process of {target} {self._server.how}.") from error
            # Cog only says that its worker, a child of its server, has crashed.
            if how := await self._server.end_of_a_child(WORKER_END_S):
                raise ReplicaDied(f"The worker of {target} {how}.") from error
            raise

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        return await self._predictions.cancel(request_id, grace_s)

    async def aclose(self, grace_s: float) -> None:
        # Shielded: also a request that is stopped meanwhile leaves no process and no port.
        await asyncio.shield(asyncio.ensure_future(self._end(grace_s)))

    async def _end(self, grace_s: float) -> None:
        await self._predictions.aclose()
        await self._server.aclose(grace_s)
        await self._exchange.aclose()

    def _client(self) -> httpx2.AsyncClient:
        if not self._server.alive:
            raise httpx2.ConnectError("it has ended")
        return self._server.http

    async def _ready(self) -> bool:
        return ready(await self._predictions.health(), self._spec.target)

    def _launch(self, python: Path, port: int) -> Launch:
        spec, programs = self._spec, python.parent
        command = [str(python), "-m", "cog.server.http", "--host", "127.0.0.1"]
        if is_file(spec.output):
            command += ["--upload-url", self._exchange.upload_url]
        if spec.mode == "train":
            command += ["--x-mode", "train"]
        return Launch(
            command,
            {
                **spec.environment,
                # Its worker is the first `python` of the PATH.
                "PATH": f"{programs}:{child_environment(self._home).get('PATH', '')}",
                "PORT": str(port),
                STUBS[spec.mode]: spec.target,
                "COG_MAX_CONCURRENCY": str(spec.concurrency),
                "COG_THROTTLE_RESPONSE_INTERVAL": str(LOG_INTERVAL_S),
                "COG_LOG_LEVEL": "warn",
            },
        )


def ready(health: Mapping[str, Any], name: str) -> bool:
    """True if a server's health check says that it takes requests. ``AppNotStarted`` if it never
    will."""
    status = health.get("status")
    if status in ("SETUP_FAILED", "DEFUNCT", "UNHEALTHY"):
        setup = cast("Mapping[str, Any]", health.get("setup") or {})
        lines = [line for line in str(setup.get("logs") or "").splitlines() if line.strip()]
        why = health.get("user_healthcheck_error") or (lines[-1] if lines else "see its log")
        raise AppNotStarted(f"{name} does not start: {status}: {why}")
    return status in HEALTHY


def _copy_code(code: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(code, folder)
